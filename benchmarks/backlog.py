"""Throughput of 100 live runs with 500 and with 50,000 accepted runs that wait for a place."""

import asyncio
import time
from pathlib import Path

from benchmarks.harness import node, run
from steplog import App, Context, Event
from steplog.engine.functions import EngineConfig

LIVE, SHORT, DEEP, WARM_UP, MEASURED, ROUNDS = 100, 500, 50_000, 8_000, 16_000, 4  # the history catches up first
app = App("bench")
ended = 0
refill = asyncio.Event()


async def body(number: int) -> int:
    await asyncio.sleep(0.001)
    return number


@app.function("queued", trigger="bench/queued")
async def queued(ctx: Context) -> int:
    global ended
    result = await ctx.step.run("one", body, 1)
    result += await ctx.step.run("two", body, 2)
    ended += 1
    refill.set()
    return result


async def _throughput(path: Path, depth: int) -> float:
    """Runs a second while ``depth`` wait; each that ends is replaced."""
    global ended
    ended = 0
    async with node(app, path, engine=EngineConfig(live_runs=LIVE)) as running:
        sent = 0

        async def send(count: int) -> None:
            nonlocal sent
            sent += count
            await running.send([Event(name="bench/queued", data={"n": n, "pad": "x" * 60}) for n in range(count)])

        async def keep_deep(until: int) -> None:
            while ended < until:
                refill.clear()
                missing = depth - (sent - ended)
                if missing >= 50:
                    await send(missing)
                else:
                    await refill.wait()

        while sent < depth:
            await send(min(2_000, depth - sent))
        await keep_deep(ended + WARM_UP)
        first, began = ended, time.perf_counter()
        await keep_deep(first + MEASURED)
        return (ended - first) / (time.perf_counter() - began)


async def benchmark(directory: Path) -> None:
    for number in range(ROUNDS):
        short = await _throughput(directory / f"short{number}.db", SHORT)
        deep = await _throughput(directory / f"deep{number}.db", DEEP)
        print(f"{SHORT} queued {short:,.0f} runs/s, {DEEP:,} queued {deep:,.0f} runs/s: {deep / short:.2f}")


def main() -> None:
    run(benchmark)
