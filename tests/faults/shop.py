"""The functions that the servers of these tests run. Each body that begins leaves a line in the file ``$EFFECTS``.

``key attempt milliseconds``, written by one ``write`` to a file opened with ``O_APPEND``: it outlives any kill.
"""

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import Any

from steplog import App, Context, current_step

app = App("shop")
_effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def effect(value: Any) -> Any:
    note()
    await asyncio.sleep(0.002)
    return value


def effect_in_thread(value: Any) -> Any:
    note()
    time.sleep(0.002)
    return value


def note() -> None:
    step = current_step()
    os.write(_effects, f"{step.key} {step.attempt} {time.time() * 1000:.0f}\n".encode())


@app.function(trigger="order")
async def ship(ctx: Context) -> int:
    number: int = await ctx.step.run("number", effect, ctx.event.data["n"])
    one, two = await asyncio.gather(
        ctx.step.run("parallel", effect, number + 1), ctx.step.run("parallel", effect_in_thread, number + 2)
    )
    await ctx.step.sleep("nap", 20)
    last: int = await ctx.step.run("last", effect, one + two)
    return last


@app.function(trigger="order.small")
async def ship_small(ctx: Context) -> None:
    await ctx.step.run("only", effect, None)


@app.function(trigger="nap")
async def nap(ctx: Context) -> None:
    await ctx.step.sleep_until("nap", datetime.fromtimestamp(ctx.event.data["due_ms"] / 1000, UTC))
    await ctx.step.run("woke", effect, None)
