"""A process whose functions kill it: run by a test, again and again, until it survives.

Waits until every run has ended, then ends with 0.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from steplog import App, Context, Event, StepError
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.node import Node, NodeConfig

RUNS = 7
LOG = Path(sys.argv[1])
app = App("a")


async def die() -> None:
    with LOG.with_name("bodies").open("a") as bodies:
        bodies.write("killer\n")
    os.kill(os.getpid(), signal.SIGKILL)


async def value(of: str) -> str:
    return of


@app.function("uncaught", trigger="go", retries=0)
async def uncaught(ctx: Context) -> None:
    await ctx.step.sleep("nap", 20)
    await ctx.step.run("die", die)


@app.function("caught", trigger="go", retries=0)
async def caught(ctx: Context) -> str:
    await ctx.step.sleep("nap", 20)
    try:
        await ctx.step.run("die", die)
    except StepError as error:
        return await ctx.step.run("fallback", value, f"fallback after {error.name}")
    return "survived"


@app.function("good", trigger="good", retries=4)
async def good(ctx: Context) -> str:
    await ctx.step.sleep("nap", 40)
    return await ctx.step.run("fine", value, "fine")


def ended() -> int:
    with JournalReader(LOG) as reader:
        text = b"".join(row.data for row in reader.journal(0, 10_000))
    return text.count(b'"kind":"run.completed"') + text.count(b'"kind":"run.failed"')


async def main() -> None:
    is_first = not LOG.exists()
    config = NodeConfig(engine=EngineConfig(lost_allowance=1))
    async with Node([app], lambda: SqliteLog(LOG), config) as node:
        if is_first:
            await node.send([Event(name="go", data={}), *(Event(name="good", data={}) for _ in range(5))])
        deadline = time.monotonic() + 20
        while ended() < RUNS and time.monotonic() < deadline:
            await asyncio.sleep(0.02)


with asyncio.Runner(loop_factory=UsersLoop) as runner:
    runner.run(main())
sys.exit(0 if ended() == RUNS else 1)
