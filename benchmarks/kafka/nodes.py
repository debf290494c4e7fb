"""Several nodes on one broker: two against one, how soon a killed one's work goes on, and starts with much open."""

import shutil
import tempfile
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from benchmarks.kafka.cluster import PARTITIONS, broker
from compose.kafka_local import Cluster
from steplog.log.client import SESSION_MS
from steplog.log.topics import JOURNAL, Layout
from tests.kafka.fleet import Fleet

RUNS, BATCH, ROUNDS = 10_000, 100, 3
OPEN = 100_000
KILLS = 5
FUNCTIONS = """
import asyncio
import random
from steplog import App, Context
app = App("bench")

async def body(order):
    await asyncio.sleep(random.expovariate(1000))
    return {"order": order, "receipt": "ch_" + "x" * 60}

@app.function("three-steps", trigger="bench/order")
async def three_steps(ctx: Context) -> str:
    for step in ("charge", "pack", "ship"):
        await ctx.step.run(step, body, ctx.event.data["id"])
    return "shipped"

@app.function("sleeps", trigger="bench/sleep")
async def sleeps(ctx: Context) -> None:
    await ctx.step.sleep("long", 86_400_000)
"""


class Journal:
    """Counts records of one kind as any consumer can."""

    def __init__(self, cluster: Cluster, layout: Layout, kind: str) -> None:
        self._begins = f'{{"kind":"{kind}"'.encode()
        self._consumer = Consumer(
            {"bootstrap.servers": cluster.bootstrap, "group.id": "bench", "enable.auto.commit": False,
             "isolation.level": "read_committed", "fetch.wait.max.ms": 20}
        )  # fmt: skip
        name = layout.name(JOURNAL)
        self._consumer.assign([TopicPartition(name, number, 0) for number in range(layout.count(JOURNAL))])
        self.found = 0

    def wait_for(self, count: int, within_s: float = 300) -> None:
        """Return when so many have been found."""
        until_s = time.perf_counter() + within_s
        while self.found < count:
            assert time.perf_counter() < until_s, f"{self.found} of {count}"
            messages = self._consumer.consume(1_000, 0.05)
            self.found += sum((message.value() or b"").startswith(self._begins) for message in messages)

    def close(self) -> None:
        self._consumer.close()


def _events(name: str, first: int, count: int) -> list[dict[str, object]]:
    return [{"name": name, "data": {"id": f"ord-{n}", "note": "y" * 60}} for n in range(first, first + count)]


def _send(fleet: Fleet, name: str, count: int) -> None:
    for first in range(0, count, BATCH):
        answer = fleet.post(_events(name, first, BATCH))
        assert answer.status == 200, answer


def _per_s(cluster: Cluster, folder: Path, functions: Path, layout: Layout, nodes: int) -> float:
    """Runs a second, from the first of many events sent to the last run's end."""
    folder.mkdir()
    with Fleet(folder, cluster.bootstrap, layout, ("one", "two")[:nodes], functions=functions) as fleet:
        fleet.start()
        journal = Journal(cluster, layout, "run.completed")
        _send(fleet, "bench/order", 1_000)
        journal.wait_for(1_000)
        began = time.perf_counter()
        _send(fleet, "bench/order", RUNS)
        journal.wait_for(1_000 + RUNS)
        took = time.perf_counter() - began
        journal.close()
    return RUNS / took


def _two_against_one(cluster: Cluster, folder: Path, functions: Path) -> None:
    one, two = (
        _per_s(cluster, folder.with_name(f"{folder.name}-{n}"), functions, Layout(f"{folder.name}-{n}", PARTITIONS), n)
        for n in (1, 2)
    )
    print(f"{RUNS:,} runs at once: one process {one:,.0f} runs/s, two {two:,.0f}: {two / one:.2f}", flush=True)


def _recoveries(cluster: Cluster, folder: Path, functions: Path) -> list[float]:
    """Seconds from a kill until runs of every partition have ended elsewhere."""
    folder.mkdir()
    layout, taken, ended = Layout("bench-kill", PARTITIONS), [], 0
    with Fleet(folder, cluster.bootstrap, layout, ("one", "two"), functions=functions) as fleet:
        fleet.start()
        journal = Journal(cluster, layout, "run.completed")
        for number in range(KILLS):
            fleet.start()
            _send(fleet, "bench/order", 1_000)
            ended += 1_000
            journal.wait_for(ended)
            fleet[("one", "two")[number % 2]].kill()
            began = time.perf_counter()
            _send(fleet, "bench/order", 4 * BATCH)  # every partition has some
            ended += 4 * BATCH
            journal.wait_for(ended)
            taken.append(time.perf_counter() - began)
        journal.close()
    return taken


def _restores(cluster: Cluster, folder: Path, functions: Path) -> tuple[float, float]:
    """Seconds from the start of a node to the end of a first run, with many open: without its copy, and with it."""
    folder.mkdir()
    layout = Layout("bench-restore", PARTITIONS)
    with Fleet(folder, cluster.bootstrap, layout, ("one",), functions=functions) as fleet:
        fleet.start()
        sleeping, ended = Journal(cluster, layout, "step.waiting"), Journal(cluster, layout, "run.completed")
        _send(fleet, "bench/sleep", OPEN)
        sleeping.wait_for(OPEN)
        taken: list[float] = []
        for is_lost in (True, False):
            fleet["one"].stop()
            if is_lost:
                for copy in (folder / "one").glob("bench-restore-*.db*"):
                    copy.unlink()
            began = time.perf_counter()
            fleet.start()
            assert fleet.post(_events("bench/order", 0, 1)).status == 200
            ended.wait_for(len(taken) + 1)
            taken.append(time.perf_counter() - began)
        for journal in (sleeping, ended):
            journal.close()
    return taken[0], taken[1]


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="steplog-bench-"))
    functions = directory / "functions.py"
    functions.write_text(FUNCTIONS)
    try:
        with broker() as cluster:
            for number in range(ROUNDS):
                _two_against_one(cluster, directory / str(number), functions)
            taken = ", ".join(f"{seconds:.1f}" for seconds in _recoveries(cluster, directory / "kill", functions))
            print(f"ended elsewhere after a kill: {taken} s (session {SESSION_MS / 1000:.0f} s)", flush=True)
            cold, warm = _restores(cluster, directory / "restore", functions)
            print(f"{OPEN:,} runs open, start to the end of a new run: {cold:.1f} s, {warm:.1f} s with the copy")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
