"""One three-step run at a time, from ``send`` in the process to its end known to the waiter: five commits."""

import time
from pathlib import Path

from benchmarks.harness import node, one_row_commit_ms, percentile, run
from steplog import App, Context, Event

ROUNDS = 600
app = App("bench")


async def body(order: str) -> str:
    return f"done {order}"


@app.function("three-steps", trigger="bench/order")
async def three_steps(ctx: Context) -> str:
    order = ctx.event.data["id"]
    await ctx.step.run("charge", body, order)
    await ctx.step.run("pack", body, order)
    return await ctx.step.run("ship", body, order)


async def benchmark(directory: Path) -> None:
    taken: list[float] = []
    floors = [one_row_commit_ms(directory / "floor-before.db")]
    async with node(app, directory / "log.db") as running:
        for number in range(ROUNDS):
            began = time.perf_counter()
            await running.run(Event(name="bench/order", data={"id": f"ord-{number}"}))
            taken.append((time.perf_counter() - began) * 1000)
    floors.append(one_row_commit_ms(directory / "floor-after.db"))
    floor = min(floors)
    print(f"p50 {percentile(taken, 50):.2f} ms, p99 {percentile(taken, 99):.2f} ms")
    print(f"one-row commit p50 {floor:.2f} ms; 5 × that + 0.6 = {5 * floor + 0.6:.2f} ms")


def main() -> None:
    run(benchmark)
