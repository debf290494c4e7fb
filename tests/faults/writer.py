"""Writes a log on the disk that fails: started by ``disk.Writers`` with ``disk.c`` preloaded, forks for each case."""

import asyncio
import ctypes
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from steplog import App, Context, Event
from steplog.drivers.loop import UsersLoop
from steplog.engine.records import RunCompleted, RunFailed
from steplog.errors import LogUnavailable
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.node import Node

GROUP, DEADLINE_S = 5, 30
CHECKPOINT_PAGES = 20  # instead of 1,000, so that each case has some


class Case(msgspec.Struct, kw_only=True):
    """One process."""

    folder: str  # of the log
    answered: str  # the file where ids of events are noted after their answer: the sender's memory
    name: str  # of the events' ids
    orders: int
    durable: str = ""  # where what is synced is kept, for a power cut
    told: str = ""
    cut_at: int = 0
    seed: int = 0
    full_from: int = 0
    full_upto: int = 0
    synchronous: str = "FULL"
    waits_for_runs: int = 0  # that have ended in the log, before it ends


class BusyLog(SqliteLog):
    """Writes its WAL back all the time."""

    def __init__(self, path: Path, synchronous: str) -> None:
        super().__init__(path)
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")


app = App("shop")


@app.function(trigger="order")
async def ship(ctx: Context) -> int:
    one: int = await ctx.step.run("one", effect, ctx.event.data["n"])
    await ctx.step.sleep("nap", 5)
    two: int = await ctx.step.run("two", effect, one)
    return two


async def effect(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def run(case: Case) -> None:
    """Send orders, each until it is accepted, and wait for runs."""
    path = Path(case.folder, "log.db")
    async with Node([app], lambda: BusyLog(path, case.synchronous)) as node, asyncio.timeout(DEADLINE_S):
        for first in range(0, case.orders, GROUP):
            ids = [f"{case.name}-{n}" for n in range(first, first + GROUP)]
            while True:
                try:
                    await node.send([Event(name="order", data={"n": 1, "x": "x" * 3000}, id=id_) for id_ in ids])
                except LogUnavailable:
                    await asyncio.sleep(0.02)
                else:
                    break
            with Path(case.answered).open("a") as answered:
                answered.write("".join(f"{id_}\n" for id_ in ids))
        position = ended = 0
        with JournalReader(path) as reader:
            tape = Tape(reader)
            while ended < case.waits_for_runs:
                batch = tape.read(position)
                if batch is None:
                    await asyncio.sleep(0.002)
                    continue
                position = batch.position
                ended += sum(isinstance(r, RunCompleted | RunFailed) for turn in batch.turns for r in turn.records)


def main() -> None:
    disk = ctypes.CDLL(None)
    for line in sys.stdin:
        case = msgspec.json.decode(line, type=Case)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if case.durable:
                    paths = (case.folder.encode(), case.durable.encode(), case.told.encode())
                    disk.disk_arm(*paths, ctypes.c_long(case.cut_at), ctypes.c_uint64(case.seed))
                if case.full_upto:
                    disk.disk_fill(case.folder.encode(), ctypes.c_long(case.full_from), ctypes.c_long(case.full_upto))
                with asyncio.Runner(loop_factory=UsersLoop) as runner:
                    runner.run(run(case))
                os.write(writes, str(disk.disk_operations()).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, the fork ends here
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writes)
        _, status = os.waitpid(child, 0)
        operations = os.read(reads, 100)
        os.close(reads)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "operations": int(operations or 0)}), flush=True)


if __name__ == "__main__":
    main()
