"""Functions whose bodies take a while. Each body that begins leaves a line, as in tests/faults/shop.py."""

import asyncio
import os
import time

from steplog import App, Context, current_step

app = App("slow")
_effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note() -> None:
    step = current_step()
    os.write(_effects, f"{step.key} {step.attempt} {time.time() * 1000:.0f}\n".encode())


async def work(seconds: float) -> None:
    note()
    await asyncio.sleep(seconds)


async def fill(size_bytes: int) -> str:
    note()
    return "x" * size_bytes


@app.function(trigger="order")
async def long(ctx: Context) -> None:
    await ctx.step.run("first", work, 5)
    await ctx.step.run("second", work, 3)


@app.function(trigger="large")
async def large(ctx: Context) -> int:
    return len(await ctx.step.run("fill", fill, ctx.event.data["size_bytes"]))
