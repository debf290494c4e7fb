"""Three-step runs on Kafka: throughput at three concurrencies beside the floor, and one at a time.

The floor is a bare loop that consumes, transforms and produces as many records a transaction as a turn has.
"""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Cpu, cpu_s, percentile, run
from benchmarks.kafka.cluster import broker, end_of, new_log, node
from benchmarks.kafka.floor import records_per_s, small_transaction
from benchmarks.runs import app, closed_loop
from compose.kafka_local import Cluster
from steplog import Event
from steplog.log.topics import JOURNAL, REDO

ROUNDS = 2
RUNS = {100: 3_000, 500: 10_000, 2_000: 16_000}  # by concurrency
SINGLE = 200
STEPS = 3
COMMITS = STEPS + 2


class Measured(NamedTuple):
    runs_per_s: float
    records_per_s: float
    records_a_turn: float
    cpu: Cpu
    broker_s: float
    idle: float  # share of the cores


async def benchmark(directory: Path) -> None:
    with broker() as cluster:
        print(f"{'':14} {'runs/s':>8} {'records/s':>10} {'floor':>9} {'share':>6}   µs CPU a run; idle")
        for concurrency, runs in RUNS.items():
            for number in range(ROUNDS):
                measured = await _throughput(cluster, directory, concurrency, runs)
                floor = await asyncio.to_thread(
                    records_per_s, cluster.bootstrap, f"floor-{concurrency}-{number}", round(measured.records_a_turn)
                )
                _print(concurrency, runs, measured, floor)
        await _one_at_a_time(cluster, directory)


async def _throughput(cluster: Cluster, directory: Path, concurrency: int, runs: int) -> Measured:
    config, pid = new_log(cluster, directory), cluster.brokers[0].pid
    async with node(app, config) as running:
        await closed_loop(running, max(2 * concurrency, 2_000), concurrency)
        before = [end_of(config, topic) for topic in (JOURNAL, REDO)]
        cpu, broker_s, began = Cpu.now(pid), cpu_s(pid), time.perf_counter()
        await closed_loop(running, runs, concurrency)
        took, used, broker_s = time.perf_counter() - began, Cpu.now(pid).since(cpu), cpu_s(pid) - broker_s
        journal, redo = [
            end_of(config, topic) - records for topic, records in zip((JOURNAL, REDO), before, strict=True)
        ]
    # Of redo a turn has one record for each of its partitions, and in each of two places a mark.
    turns = redo / (config.partitions + 2)
    written = journal + redo
    return Measured(
        runs / took, written / took, written / turns, used, broker_s,
        1 - (used.own_s + used.children_s + broker_s) / (2 * took),
    )  # fmt: skip


def _print(concurrency: int, runs: int, measured: Measured, floor: float) -> None:
    each = [seconds / runs * 1e6 for seconds in (measured.cpu.own_s, measured.cpu.children_s, measured.broker_s)]
    cpu = f"functions {each[0]:.0f}, engine {each[1]:.0f}, broker {each[2]:.0f}"
    print(
        f"at {concurrency:<11,} {measured.runs_per_s:8,.0f} {measured.records_per_s:10,.0f} {floor:9,.0f} "
        f"{measured.records_per_s / floor:6.2f}   {cpu}; {measured.idle:.0%}",
        flush=True,
    )


async def _one_at_a_time(cluster: Cluster, directory: Path) -> None:
    """Where each millisecond of a run that is alone goes."""
    taken: list[float] = []
    async with node(app, new_log(cluster, directory)) as running:
        for number in range(SINGLE):
            began = time.perf_counter()
            await running.run(Event(name="bench/order", data={"id": f"ord-{number}"}))
            taken.append((time.perf_counter() - began) * 1000)
    phases = await asyncio.to_thread(small_transaction, cluster.bootstrap, "floor-single")
    floor, p50 = COMMITS * phases.whole * 1000, percentile(taken, 50)
    parts = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in phases._asdict().items())
    print(f"one at a time: p50 {p50:.1f} ms, p99 {percentile(taken, 99):.1f} ms; bodies of about 1 ms each")
    each = f"{phases.whole * 1000:.1f} ({parts})"
    print(f"  {COMMITS} bare transactions {floor:.1f} ms, each {each}; rest {p50 - floor:.1f} ms")


def main() -> None:
    run(benchmark)
