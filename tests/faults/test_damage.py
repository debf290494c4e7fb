"""Bytes of a log change on the disk (fault C4)."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from steplog import Event
from steplog.drivers.loop import UsersLoop
from steplog.log.sqlite import SqliteLog
from steplog.node import Node

from .damage import app, damage_often, load
from .oracles import turns

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
        runner.run(write_and_copy(live, tmp_path / "cut"))
    path = tmp_path / "cut" / "log.db"
    wal = path.with_name("log.db-wal")
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)
    load(path)
    (restored,) = [turn.restored for turn in turns(path) if turn.restored is not None]
    assert 1 < restored.first <= restored.last
    assert f"commits {restored.first}–{restored.last} are missing" in caplog.text


async def write_and_copy(path: Path, to: Path) -> None:
    async with Node([app], lambda: SqliteLog(path)) as node:
        for n in range(30):
            await node.run(Event(name="order", data={"n": 3 * n + 1}))
        await asyncio.to_thread(shutil.copytree, path.parent, to)
