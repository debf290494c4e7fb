"""Bytes of a log change on the disk (fault C4)."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from steplog import Event
from steplog.drivers.loop import UsersLoop
from steplog.errors import LogCorrupt
from steplog.log.sqlite import SqliteLog
from steplog.node import Node

from .damage import app, damage_often, load
from .oracles import assert_adds_up, back_up, turns

DAMAGES = 120


@pytest.mark.spec("FAULT-C4")
def test_no_damage_is_silent(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    print(damage_often(tmp_path, seed=seed, damages=DAMAGES))


@pytest.mark.spec("FAULT-C4", "FAULT-C6")
def test_a_damaged_wal_ends_there_and_what_is_missing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = tmp_path / "live" / "log.db"
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(write_and_copy(live, tmp_path / "cut", runs=30))
    path = tmp_path / "cut" / "log.db"
    wal = path.with_name("log.db-wal")
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)
    load(path)
    (restored,) = [turn.restored for turn in turns(path) if turn.restored is not None]
    assert 1 < restored.first <= restored.last
    assert f"commits {restored.first}–{restored.last} are missing" in caplog.text


@pytest.mark.spec("FAULT-C4", "FAULT-C6")
def test_a_wal_that_was_left_beside_a_restored_file_is_found_by_the_audit(tmp_path: Path) -> None:
    live = tmp_path / "live" / "log.db"
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(write_and_copy(live, tmp_path / "mixed", runs=200, backup=tmp_path / "backup"))
    assert_adds_up(tmp_path / "backup")
    mixed = tmp_path / "mixed" / "log.db"
    mixed.with_name("log.db-shm").unlink()
    shutil.copy(tmp_path / "backup", mixed)
    with pytest.raises((LogCorrupt, AssertionError)):
        assert_adds_up(mixed)


async def write_and_copy(path: Path, to: Path, *, runs: int, backup: Path | None = None) -> None:
    """Copy a log that is open, with its WAL; ``backup``: of its first runs, before the WAL began anew."""
    async with Node([app], lambda: SqliteLog(path)) as node:
        for n in range(runs):
            await node.run(Event(name="order", data={"n": 3 * n + 1}))
            if n == 30 and backup is not None:
                back_up(path, backup)
        await asyncio.to_thread(shutil.copytree, path.parent, to)
