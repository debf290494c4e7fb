"""What has to hold after any fault, read from the log and from what bodies left behind (spec: faults.md §2)."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from steplog.engine import records
from steplog.history.audit import AuditReport, audit
from steplog.history.journal import Tape, TurnRecords
from steplog.log.sqlite import JournalReader

Ending = records.RunCompleted | records.RunFailed


def turns(log: Path) -> Iterator[TurnRecords]:
    """Read what a log says, turn by turn."""
    with JournalReader(log) as reader:
        tape, position = Tape(reader), 0
        while (batch := tape.read(position)) is not None:
            position = batch.position
            yield from batch.turns


def journal(log: Path) -> list[records.Record]:
    """Read every record; none may be unreadable."""
    found: list[records.Record] = []
    for turn in turns(log):
        assert not turn.unreadable
        found += turn.records
    return found


def last_commit(log: Path) -> int:
    """The number of the newest commit."""
    with JournalReader(log) as reader:
        return reader.last_position()


def back_up(log: Path, copy: Path) -> None:
    """Copy a log while it is written, as ``docs/operations.md`` says."""
    reading, writing = sqlite3.connect(log), sqlite3.connect(copy)
    reading.backup(writing)
    writing.close()
    reading.close()


class Follower:
    """Counts the ends of runs in a log that is being written, also by one server after the other."""

    def __init__(self, log: Path) -> None:
        self._log, self._position, self.ended = log, 0, 0

    def count(self) -> int:
        """How many runs have ended by now."""
        if not self._log.exists():
            return 0
        with JournalReader(self._log) as reader:
            tape = Tape(reader)
            while (batch := tape.read(self._position)) is not None:
                self._position = batch.position
                self.ended += sum(isinstance(r, Ending) for turn in batch.turns for r in turn.records)
        return self.ended


def assert_adds_up(log: Path) -> AuditReport:
    """Check that every event is accounted for, each step is recorded once, the journals have no gap, the file is whole.

    Ledger, linear journal, and P4.
    """
    report = audit(log, is_deep=True)
    assert report.is_clean, report
    return report


def assert_whole(log: Path) -> None:
    """Check what SQLite says about the file."""
    connection = sqlite3.connect(log)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


class Call(NamedTuple):
    """A body that began."""

    key: str
    attempt: int
    at_ms: int


def calls(effects: Path) -> list[Call]:
    """Read the effect probe."""
    fields = [line.split() for line in effects.read_text().splitlines()] if effects.exists() else []
    return [Call(key, int(attempt), int(at_ms)) for key, attempt, at_ms in fields]


def assert_bodies(effects: Path, *, faults: int, bodies: int) -> Counter[str]:
    """Check P5 and P6: so many different bodies began, none more often than once and once more a fault."""
    begun = Counter(call.key for call in calls(effects))
    assert len(begun) == bodies, f"{len(begun)} effect keys, not {bodies}"
    most = max(begun.values(), default=0)
    assert most <= 1 + faults, f"a body began {most} times under {faults} faults"
    return begun


def assert_never_after_its_record(log: Path, effects: Path) -> None:
    """Check P4: no body begins after its step's result is recorded, by the clock that both share."""
    recorded = {
        f"{r.run}-{r.id[:16]}": r.ended
        for r in journal(log)
        if isinstance(r, records.StepCompleted) and r.op == "StepRun"
    }
    for call in calls(effects):
        assert call.key not in recorded or call.at_ms <= recorded[call.key] + 1, call


def stored_events(log: Path) -> set[str]:
    """The senders' ids of the events that are on a log."""
    with JournalReader(log) as reader:
        position, found = 0, set[str]()
        while rows := reader.events(position, 256):
            position = rows[-1].position
            found.update(event.id for row in rows for event in _decode_events(row.data))
    return found


_decode_events = msgspec.json.Decoder(list[records.StoredEvent]).decode
