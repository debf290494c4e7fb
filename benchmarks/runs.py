"""Three-step runs at concurrency 100 whose bodies await about 1 ms: throughput and CPU, beside the floor."""

import asyncio
import random
import threading
import time
from pathlib import Path

from benchmarks.harness import Cpu, floor_s, node, run
from steplog import App, Context, Event
from steplog.engine.processor import Turn

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
        self.own_us, self.history_us = cpu.own_s / runs * 1e6, cpu.children_s / runs * 1e6


async def measure(path: Path, *, runs: int, with_history: bool, turns: list[Turn] | None = None) -> Measured:
    """Run a closed loop of ``CONCURRENCY`` runs."""
    async with node(app, path, with_history=with_history, turns=turns) as running:

        async def one_by_one(numbers: "range") -> None:
            for number in numbers:
                (ended,) = await running.run(Event(name="bench/order", data={"id": f"ord-{number}", "note": "y" * 60}))
                assert ended.status == "completed", ended

        async def loop_of(count: int) -> None:
            each = count // CONCURRENCY
            await asyncio.gather(*[one_by_one(range(n * each, n * each + each)) for n in range(CONCURRENCY)])

        await loop_of(WARM_UP)
        cpu, began = Cpu.now(), time.perf_counter()
        await loop_of(runs)
        took = time.perf_counter() - began
        own = Cpu.now().since(cpu).own_s
    children = Cpu.now().since(cpu).children_s  # with the warm-up, of which it is a tenth
    return Measured(runs, took, Cpu(own, children * runs / (runs + WARM_UP)))


async def benchmark(directory: Path) -> None:
    print(f"{'':34} {'runs/s':>8} {'µs CPU a run':>14} {'of history':>12} {'floor/s':>9}")
    for number in range(ROUNDS):
        turns: list[Turn] = []
        with_history = await measure(directory / f"a{number}.db", runs=RUNS, with_history=True, turns=turns)
        took = await floor_s(directory / f"floor{number}.db", turns)
        floor = (RUNS + WARM_UP) / took
        _print("history on", with_history, floor)
        _print("history off", await measure(directory / f"b{number}.db", runs=RUNS, with_history=False), None)
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
        print(f"{'beside a thread of CPU-bound Python':34} {busy.per_s:8,.0f}")
    finally:
        is_over.set()
        thread.join()


def _print(name: str, measured: Measured, floor: float | None) -> None:
    total = measured.own_us + measured.history_us
    shown = f"{floor:9,.0f}" if floor else ""
    print(f"{name:34} {measured.per_s:8,.0f} {total:14.0f} {measured.history_us:12.0f} {shown}")


def main() -> None:
    run(benchmark)
