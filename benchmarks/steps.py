"""Long and wide runs: 1,000 steps one after the other, and 200 at once."""

import asyncio
import statistics
import time
from pathlib import Path

from benchmarks.harness import node, run
from steplog import App, Context, Event

LONG, WIDE, ROUNDS = 1_000, 200, 5
EARLY, LATE = (10, 110), (900, 1_000)
app = App("bench")
marks: dict[int, float] = {}
spans: list[float] = []


async def body(number: int) -> int:
    return number


@app.function("long", trigger="bench/long")
async def long_run(ctx: Context) -> int:
    for number in range(LONG):
        if number in (*EARLY, *LATE):
            marks[number] = time.process_time()
        await ctx.step.run("step", body, number)
    marks[LONG] = time.process_time()
    return LONG


@app.function("wide", trigger="bench/wide")
async def wide_run(ctx: Context) -> int:
    began = time.perf_counter()
    results = await asyncio.gather(*[ctx.step.run(f"step-{number}", body, number) for number in range(WIDE)])
    spans.append(time.perf_counter() - began)
    return sum(results)


async def benchmark(directory: Path) -> None:
    async with node(app, directory / "log.db") as running:
        taken, ratios = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            (ended,) = await running.run(Event(name="bench/long", data={}))
            assert ended.output == LONG, ended
            taken.append(time.perf_counter() - began)
            early, late = marks[EARLY[1]] - marks[EARLY[0]], marks[LATE[1]] - marks[LATE[0]]
            ratios.append(late / early)
        print(f"{LONG} steps: {statistics.median(taken) * 1000:.0f} ms (best {min(taken) * 1000:.0f})")
        ratio = statistics.median(ratios)
        print(f"CPU of steps {LATE[0]}-{LATE[1]} to that of steps {EARLY[0]}-{EARLY[1]}: {ratio:.2f}")
        for _ in range(4 * ROUNDS):
            (ended,) = await running.run(Event(name="bench/wide", data={}))
            assert ended.status == "completed", ended
        print(f"{WIDE} parallel steps: {statistics.median(spans) * 1000:.1f} ms (best {min(spans) * 1000:.1f})")


def main() -> None:
    run(benchmark)
