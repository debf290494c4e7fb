"""What an event costs while many steps wait, in the engine and the log: for one of them, and for none."""

import os
import time
from pathlib import Path

from benchmarks.harness import run
from steplog.engine.effects import Dispatch
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, EventTrigger, FunctionSpec, Registry
from steplog.engine.ids import hash16, step_wire_id, ulid
from steplog.engine.messages import EventAccepted, Message, OpReported, RunParked
from steplog.engine.operations import EventOut, WaitForEvent
from steplog.engine.processor import Processor
from steplog.log.sqlite import SqliteLog

FEW, MANY, EVENTS, BATCH = 100, 100_000, 2_000, 50
DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
WIRE_ID = step_wire_id("paid", 0)
STEP = hash16(WIRE_ID.encode())
ORDER = FunctionSpec(id="shop-order", app="shop", triggers=(EventTrigger("order"),))


def event(name: str, field: str, number: int) -> EventAccepted:
    data = b'{"%s":"o%d","note":"%s"}' % (field.encode(), number, b"y" * 60)
    internal = ulid(NOW_MS, os.urandom(10))
    return accept_event(EventOut(name=name, data=data), internal, env=DEFAULT_ENV, received_ms=NOW_MS, source="bench")


class Partition:
    """An engine over a log file, whose runs all wait."""

    def __init__(self, processor: Processor, log: SqliteLog) -> None:
        self._processor, self._log = processor, log

    async def decide(self, messages: list[Message]) -> list[Dispatch]:
        """Decide messages as turns; the runs that they dispatch."""
        self._processor.post(*messages)
        found: list[Dispatch] = []
        while self._processor.has_work(NOW_MS):
            while not self._processor.advance(NOW_MS):
                pass
            await self._log.commit(self._processor.seal())
            found += [effect for effect in self._processor.committed() if isinstance(effect, Dispatch)]
        return found

    async def wait(self, first: int, count: int) -> None:
        """Start runs that wait for the payment of their order, and park them."""
        begun = await self.decide([event("order", "id", number) for number in range(first, first + count)])
        op = WaitForEvent(events=("paid",), timeout_ms=DAY_MS, if_exp="async.data.order == event.data.id")
        messages: list[Message] = []
        for at in begun:
            messages.append(
                OpReported(
                    run=at.run, generation=at.generation, step=STEP, wire_id=WIRE_ID, step_id="paid", attempt=0, op=op
                )
            )
            messages.append(RunParked(run=at.run, generation=at.generation, delivered=0))
        await self.decide(messages)

    async def us_an_event(self, first: int) -> float:
        """Send events, a batch a turn."""
        began = time.perf_counter()
        for number in range(first, first + EVENTS, BATCH):
            await self.decide([event("paid", "order", number + n) for n in range(BATCH)])
        return (time.perf_counter() - began) / EVENTS * 1e6


async def benchmark(directory: Path) -> None:
    print(f"{'waiting':>10} {'for one of them':>18} {'for none':>12}   µs an event, commits included")
    for waiting in (FEW, MANY):
        log = SqliteLog(directory / f"{waiting}.db")
        processor = Processor(await log.load(), Registry([ORDER]), EngineConfig(live_runs=10**9))
        processor.recover()
        partition = Partition(processor, log)
        for first in range(0, waiting, 1_000):
            await partition.wait(first, min(1_000, waiting - first))
        matched = await partition.us_an_event(0) if waiting >= EVENTS else float("nan")
        unmatched = await partition.us_an_event(10_000_000)
        print(f"{waiting:10,} {matched:18.1f} {unmatched:12.1f}")
        log.close()


def main() -> None:
    run(benchmark)
