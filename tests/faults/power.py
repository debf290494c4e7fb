"""The power is cut at random points, again and again, on one disk (fault C2)."""

import random
import shutil
import signal
import sqlite3
from pathlib import Path

import msgspec

from .disk import Writers
from .oracles import assert_adds_up, assert_whole, stored_events

ORDERS, MOST_ORDERS = 20, 1_000
DISKS = 10  # cuts on one disk, before it is read to its end and another is taken


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    cuts: int
    lost_sectors: int
    events: int


def cut_power(folder: Path, library: Path, *, seed: int, cuts: int, synchronous: str = "FULL") -> Cuts:
    """Cut the power; check after each cut what is left. Raises ``AssertionError`` where anything is missing."""
    chance, lost_sectors, events = random.Random(seed), 0, 0
    with Writers(library) as writers:
        for number in range(cuts):
            if number % DISKS == 0:
                disk = _Disk(folder / f"disk-{number}", writers, synchronous)
                most = disk.measure()
            lost_sectors += disk.cut(chance.randint(1, most), chance.randrange(1 << 64) * chance.randrange(2))
            if number % DISKS == DISKS - 1 or number == cuts - 1:
                events += disk.end()
    return Cuts(cuts=cuts, lost_sectors=lost_sectors, events=events)


class _Disk:
    """One disk, and the sender whose events it holds."""

    def __init__(self, folder: Path, writers: Writers, synchronous: str) -> None:
        self._folder, self._writers, self._synchronous = folder, writers, synchronous
        self._now, self._left, self._read = folder / "now", folder / "left", folder / "read"
        self._answered = folder / "answered"
        self._now.mkdir(parents=True)
        self._answered.touch()
        self._cuts = 0

    def measure(self) -> int:
        """How many operations a case has."""
        aside = self._folder / "aside"
        aside.mkdir()
        ended = self._run(aside, answered=self._folder / "unused", waits_for_runs=ORDERS)
        assert ended["code"] == 0
        shutil.rmtree(aside)
        return ended["operations"]

    def cut(self, operation: int, seed: int) -> int:
        """Cut the power once, and check what is left; returns how many sectors were lost."""
        shutil.copytree(self._now, self._left)
        told = self._folder / "lost"
        ended = self._run(self._now, cut_at=operation, seed=seed, told=told, orders=MOST_ORDERS)
        assert ended["code"] == -signal.SIGKILL, "the fault fired"
        shutil.rmtree(self._now)
        self._left.rename(self._now)
        self._check()
        return int(told.read_text())

    def end(self) -> int:
        """Let every run end; returns how many events there are."""
        events = len(stored_events(self._copy()))
        ended = self._run(self._now, orders=0, waits_for_runs=events)
        assert ended["code"] == 0
        report = assert_adds_up(self._now / "log.db")
        assert (report.completed, report.open, report.missing) == (events, 0, 0)
        shutil.rmtree(self._folder)
        return events

    def _run(self, folder: Path, **case: object) -> dict[str, int]:
        self._cuts += 1
        return self._writers.run(**{
            "folder": folder, "answered": self._answered, "name": str(self._cuts), "orders": ORDERS,
            "durable": self._left if "cut_at" in case else self._scratch(), "synchronous": self._synchronous, **case,
        })  # fmt: skip

    def _scratch(self) -> Path:
        """Where a case without a cut keeps what is synced."""
        scratch = self._folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        return scratch

    def _copy(self) -> Path:
        """Copy the disk: who reads a log may write its WAL back."""
        shutil.rmtree(self._read, ignore_errors=True)
        shutil.copytree(self._now, self._read)
        return self._read / "log.db"

    def _check(self) -> None:
        answered = set(self._answered.read_text().split())
        log = self._copy()
        if not log.exists() or not log.stat().st_size:
            assert not answered, "the log is gone"
            return
        assert_whole(log)
        if not _has_tables(log):
            assert not answered, "the log is empty"
            return
        missing = answered - stored_events(log)
        assert not missing, f"{len(missing)} events were answered and are gone"
        assert_adds_up(log)


def _has_tables(log: Path) -> bool:
    connection = sqlite3.connect(log)
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.close()
    return bool(count)
