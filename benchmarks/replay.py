"""How long a run takes to be where it was, from its records alone: at 1,000 steps, the limit, and at ten times that."""

import statistics
import time
from pathlib import Path

from benchmarks.harness import node, run
from steplog import App, Context, Event
from steplog.drivers.config import LocalConfig
from steplog.engine.functions import EngineConfig

SIZES, ROUNDS = (1_000, 10_000), 5
app = App("bench")
taken: list[float] = []


@app.function("long", trigger="bench/long")
async def long_run(ctx: Context) -> None:
    began, bodies = time.perf_counter(), 0

    async def counted(number: int) -> int:
        nonlocal bodies
        bodies += 1
        return number

    for number in range(ctx.event.data["steps"] - 1 - ROUNDS):
        await ctx.step.run("step", counted, number)
    if not bodies:
        taken.append(time.perf_counter() - began)
    for number in range(ROUNDS):
        await ctx.step.sleep(f"park-{number}", 50)


async def benchmark(directory: Path) -> None:
    for size in SIZES:
        taken.clear()
        local = LocalConfig(evict_after_ms=-1, steps=size)  # each sleep is a replay
        engine = EngineConfig(steps_per_run=size)
        async with node(app, directory / f"{size}.db", engine=engine, local=local) as running:
            (ended,) = await running.run(Event(name="bench/long", data={"steps": size}))
            assert ended.status == "completed", ended
        assert len(taken) >= ROUNDS - 1, taken
        print(f"{size:6,} steps replayed: {statistics.median(taken) * 1000:.0f} ms (worst {max(taken) * 1000:.0f})")


def main() -> None:
    run(benchmark)
