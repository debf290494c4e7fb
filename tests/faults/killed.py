"""A process that runs orders on an SQLite log and kills itself at one boundary.

``killed.py FOLDER RUNS POINT NUMBER``: dies at the NUMBERth occurrence of one of ``commit_points.POINTS``. Sends what
no earlier process has an answer for, and ends with 0 when every run has ended. Leaves in FOLDER: ``answered`` (ids of
events, each written after its answer) and ``effects`` (the key of each step's body that began).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steplog import App, Context, Event, current_step
from steplog.drivers.loop import UsersLoop
from steplog.engine.effects import Answer, Effect
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.processor import Turn
from steplog.engine.records import RunCompleted, RunFailed
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.node import Node
from steplog.shells.thread import ThreadEngine

GROUP = 10
DEADLINE_S = 60
HEARD_S = 0.02  # after an answer, it is written down
RESULT = b'"kind":"step.completed"'


def write_line(path: Path, line: str) -> None:
    """Add a line that outlives this process, whole or not at all."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1


class KillingLog(SqliteLog):
    """Kills its process at a boundary of a commit: of one that has events (``append``), or ``results``."""

    def __init__(self, path: Path, where: str, what: str, number: int) -> None:
        super().__init__(path)
        self._where, self._what, self._left = where, what, number

    async def commit(self, turn: Turn) -> None:
        has_results = any(RESULT in record for record in turn.records)
        is_it = (self._what == "append" and bool(turn.events)) or (self._what == "results" and has_results)
        self._left -= is_it
        is_it = is_it and self._left == 0
        if is_it and self._where == "before":
            die()
        if is_it and self._where == "within":
            self._connection.set_progress_handler(die, 20)  # so many instructions of SQLite's into the transaction
        await super().commit(turn)
        if is_it:
            die()


class DeafEngine(ThreadEngine):
    """Releases the NUMBERth group of answers without the dispatches beside them, and kills its process."""

    left = -1  # how many to go; below 0: never

    def _deliver(self, effects: list[Effect]) -> None:
        answers: list[Effect] = [effect for effect in effects if isinstance(effect, Answer)]
        self.left -= bool(answers) and len(answers) < len(effects)
        if self.left != 0 or not answers:
            super()._deliver(effects)
            return
        self.left = -1
        super()._deliver(answers)
        self._users.call_soon_threadsafe(self._users.call_later, HEARD_S, die)


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


async def send(node: Node, folder: Path, numbers: Sequence[int]) -> None:
    await node.send([Event(name="order", data={"n": n}, id=f"e{n}") for n in numbers])
    for number in numbers:
        write_line(folder / "answered", f"e{number}")


async def main(folder: Path, runs: int, point: str, number: int) -> None:
    path, app = folder / "log.db", declare(folder)
    answered = set((folder / "answered").read_text().split()) if (folder / "answered").exists() else set()
    missing = [n for n in range(runs) if f"e{n}" not in answered]
    where, _, what = point.partition(" ")
    registry = Registry(function.spec for function in app.functions.values())
    engine = DeafEngine(lambda: KillingLog(path, where, what, number), registry, EngineConfig())
    if point == "after ack":
        engine.left = number
    async with Node([app], engine) as node, asyncio.timeout(DEADLINE_S):
        async with asyncio.TaskGroup() as tasks:
            for first in range(0, len(missing), GROUP):
                tasks.create_task(send(node, folder, missing[first : first + GROUP]))
                await asyncio.sleep(0.002)
        ended, position = 0, 0
        with JournalReader(path) as reader:
            tape = Tape(reader)
            while ended < 2 * runs:
                batch = tape.read(position)
                if batch is None:
                    await asyncio.sleep(0.005)
                    continue
                position = batch.position
                ended += sum(isinstance(r, RunCompleted | RunFailed) for turn in batch.turns for r in turn.records)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        _, folder, runs, point, number = sys.argv
        runner.run(main(Path(folder), int(runs), point, int(number)))
