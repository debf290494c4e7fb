"""A process that runs a hundred runs on an SQLite log and kills itself at one boundary of one commit.

``killed.py FOLDER WHERE NUMBER``: WHERE is ``before``, ``within`` or ``after`` commit NUMBER of this process; 0: never.
Sends what no earlier process has an answer for, and ends with 0 when every run has ended. Leaves in FOLDER:
``answered`` (ids of events, each written after its answer) and ``effects`` (the key of each step's body that began).
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from steplog import App, Context, Event, current_step
from steplog.drivers.loop import UsersLoop
from steplog.engine.processor import Turn
from steplog.engine.records import RunCompleted, RunFailed
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.node import Node

RUNS = 100
GROUP = 10
DEADLINE_S = 20


def write_line(path: Path, line: str) -> None:
    """Add a line that outlives this process, whole or not at all."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


class KillingLog(SqliteLog):
    """Kills its process at a boundary of one of its commits."""

    def __init__(self, path: Path, where: str, number: int) -> None:
        super().__init__(path)
        self._where, self._number, self._commits = where, number, 0

    async def commit(self, turn: Turn) -> None:
        self._commits += 1
        is_it = self._commits == self._number
        if is_it and self._where == "before":
            die()
        if is_it and self._where == "within":
            self._connection.set_progress_handler(die, 20)  # so many instructions of SQLite's into the transaction
        await super().commit(turn)
        if is_it:
            die()


def declare(folder: Path) -> App:
    app = App("shop")

    async def effect(value: Any) -> Any:
        write_line(folder / "effects", current_step().key)
        await asyncio.sleep(0)
        return value

    def effect_in_thread(value: Any) -> Any:
        write_line(folder / "effects", current_step().key)
        return value

    @app.function(trigger="order")
    async def ship(ctx: Context) -> int:
        number: int = await ctx.step.run("number", effect, ctx.event.data["n"])
        one, two = await asyncio.gather(
            ctx.step.run("parallel", effect, number + 1), ctx.step.run("parallel", effect_in_thread, number + 2)
        )
        await ctx.step.sleep("nap", 20)
        await ctx.step.send_event("tell", Event(name="told", data={"n": number}, id=f"told-{number}"))
        return int(one + two)

    @app.function(trigger="told")
    async def listen(ctx: Context) -> int:
        heard: int = await ctx.step.run("heard", effect, ctx.event.data["n"])
        return heard

    return app


async def send(node: Node, folder: Path, numbers: list[int]) -> None:
    await node.send([Event(name="order", data={"n": n}, id=f"e{n}") for n in numbers])
    for number in numbers:
        write_line(folder / "answered", f"e{number}")


async def main(folder: Path, where: str, number: int) -> None:
    path = folder / "log.db"
    answered = (folder / "answered").read_text().split() if (folder / "answered").exists() else []
    missing = [n for n in range(RUNS) if f"e{n}" not in answered]
    async with Node([declare(folder)], lambda: KillingLog(path, where, number)) as node:
        async with asyncio.TaskGroup() as tasks:
            for first in range(0, len(missing), GROUP):
                tasks.create_task(send(node, folder, missing[first : first + GROUP]))
                await asyncio.sleep(0.002)
        async with asyncio.timeout(DEADLINE_S):
            ended, position = 0, 0
            with JournalReader(path) as reader:
                tape = Tape(reader)
                while ended < 2 * RUNS:
                    batch = tape.read(position)
                    if batch is None:
                        await asyncio.sleep(0.005)
                        continue
                    position = batch.position
                    ended += sum(isinstance(r, RunCompleted | RunFailed) for turn in batch.turns for r in turn.records)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
