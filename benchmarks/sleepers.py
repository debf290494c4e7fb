"""100,000 runs that sleep: memory, start-up on them, and how late they wake when due times spread over a minute."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import node, percentile, run
from steplog import App, Context, Event

SLEEPERS, SPREAD_S, SLACK_S = 100_000, 60, 45
app = App("bench")
asleep = 0
late_ms: list[float] = []


@app.function("sleeper", trigger="bench/sleep")
async def sleeper(ctx: Context) -> None:
    global asleep
    asleep += 1
    until = ctx.event.data["until"]
    await ctx.step.sleep_until("nap", datetime.fromtimestamp(until, UTC))
    late_ms.append((time.time() - until) * 1000)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def benchmark(directory: Path) -> None:
    path = directory / "log.db"
    began = time.time()
    first = began + SLACK_S
    async with node(app, path) as running:
        for start in range(0, SLEEPERS, 1_000):
            await running.send(
                [
                    Event(name="bench/sleep", data={"until": first + SPREAD_S * number / SLEEPERS})
                    for number in range(start, start + 1_000)
                ]
            )
            while asleep < start:
                await asyncio.sleep(0.005)
        while asleep < SLEEPERS:
            await asyncio.sleep(0.05)
        print(f"{SLEEPERS:,} asleep after {time.time() - began:.0f} s, {_resident_mb():.0f} MB resident")
    opening = time.perf_counter()
    late_ms.clear()
    async with node(app, path) as running:
        print(f"start-up on them {time.perf_counter() - opening:.2f} s, {_resident_mb():.0f} MB resident")
        if time.time() > first:
            print("the first were due before the start: their lateness is the start's")
        while len(late_ms) < SLEEPERS:
            await asyncio.sleep(0.1)
        print(f"woken late: p50 {percentile(late_ms, 50):.0f} ms, p99 {percentile(late_ms, 99):.0f} ms,"
              f" max {max(late_ms):.0f} ms; {_resident_mb():.0f} MB resident")  # fmt: skip


def main() -> None:
    run(benchmark)
