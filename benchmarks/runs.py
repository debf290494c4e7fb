"""Three-step runs at concurrency 100 whose bodies await about 1 ms: throughput and CPU, beside the floor."""

import asyncio
import random
import threading
import time
from pathlib import Path

from benchmarks.harness import Cpu, floor_s, node, recorded_node, run
from steplog import App, Context, Event
from steplog.engine.processor import Turn
from steplog.node import Node

RUNS, WARM_UP, CONCURRENCY, ROUNDS = 20_000, 2_000, 100, 3
app = App("bench")


async def body(order: str) -> dict[str, str]:
    await asyncio.sleep(random.expovariate(1000))
    return {"order": order, "receipt": "ch_" + "x" * 60}


@app.function("three-steps", trigger="bench/order")
async def three_steps(ctx: Context) -> str:
    order = ctx.event.data["id"]
    await ctx.step.run("charge", body, order)
    await ctx.step.run("pack", body, order)
    await ctx.step.run("ship", body, order)
    return "shipped"


class Measured:
    """One measurement."""

    def __init__(self, runs: int, took_s: float, cpu: Cpu) -> None:
        self.per_s = runs / took_s
        self.own_us, self.engine_us = cpu.own_s / runs * 1e6, cpu.children_s / runs * 1e6


async def closed_loop(running: Node, runs: int, concurrency: int = CONCURRENCY) -> None:
    """Keep so many runs going until ``runs`` have ended."""

    async def one_by_one(numbers: range) -> None:
        for number in numbers:
            (ended,) = await running.run(Event(name="bench/order", data={"id": f"ord-{number}", "note": "y" * 60}))
            assert ended.status == "completed", ended

    each = runs // concurrency
    await asyncio.gather(*[one_by_one(range(n * each, n * each + each)) for n in range(concurrency)])


async def measure(path: Path, *, runs: int, with_history: bool) -> Measured:
    """Measure a closed loop after a warm-up."""
    async with node(app, path, with_history=with_history) as running:
        await closed_loop(running, WARM_UP)
        cpu, began = Cpu.now(), time.perf_counter()
        await closed_loop(running, runs)
        return Measured(runs, time.perf_counter() - began, Cpu.now().since(cpu))


async def floor(directory: Path) -> float:
    """Runs a second that SQLite takes when it is given the same rows in the same commits, without an engine."""
    turns: list[Turn] = []
    async with recorded_node(app, directory / "recorded.db", turns) as running:
        await closed_loop(running, WARM_UP)
    return WARM_UP / await floor_s(directory / "floor.db", turns)


async def benchmark(directory: Path) -> None:
    print(f"floor: {await floor(directory):,.0f} runs/s")
    print(f"{'':36} {'runs/s':>8} {'µs CPU a run':>14} {'functions':>10} {'engine':>8}")
    for number in range(ROUNDS):
        _print("history on", await measure(directory / f"a{number}.db", runs=RUNS, with_history=True))
        _print("history off", await measure(directory / f"b{number}.db", runs=RUNS, with_history=False))
        await _beside_a_busy_thread(directory / f"c{number}.db")


async def _beside_a_busy_thread(path: Path) -> None:
    is_over = threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            sum(i * i for i in range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        busy = await measure(path, runs=RUNS // 5, with_history=True)
        print(f"{'beside a thread of CPU-bound Python':36} {busy.per_s:8,.0f}")
    finally:
        is_over.set()
        thread.join()


def _print(name: str, measured: Measured) -> None:
    total = measured.own_us + measured.engine_us
    print(f"{name:36} {measured.per_s:8,.0f} {total:14.0f} {measured.own_us:10.0f} {measured.engine_us:8.0f}")


def main() -> None:
    run(benchmark)
