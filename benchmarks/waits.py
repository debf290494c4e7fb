"""What an event costs while many steps wait: for one, none or all of them; and what a wait costs that looks back."""

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

FEW, MANY, ALL, EVENTS, BATCH = 100, 100_000, 20_000, 2_000, 50
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
        self.longest_s = 0.0

    async def decide(self, messages: list[Message]) -> list[Dispatch]:
        """Decide messages as turns; the runs that they dispatch."""
        self._processor.post(*messages)
        found: list[Dispatch] = []
        self.longest_s = 0.0  # of these turns
        while self._processor.has_work(NOW_MS):
            began = time.perf_counter()
            while not self._processor.advance(NOW_MS):
                pass
            await self._log.commit(self._processor.seal())
            self.longest_s = max(self.longest_s, time.perf_counter() - began)
            found += [effect for effect in self._processor.committed() if isinstance(effect, Dispatch)]
        return found

    async def wait(self, first: int, count: int, *, if_exp: str | None = "async.data.order == event.data.id") -> None:
        """Start runs that wait for the payment of their order, and park them."""
        begun = await self.decide([event("order", "id", number) for number in range(first, first + count)])
        op = WaitForEvent(events=("paid",), timeout_ms=DAY_MS, if_exp=if_exp)
        messages: list[Message] = []
        for at in begun:
            messages.append(_reported(at, op))
            messages.append(RunParked(run=at.run, generation=at.generation, delivered=0))
        await self.decide(messages)

    async def us_a_wait(self, first: int, *, is_since_trigger: bool) -> float:
        """Start runs, send what each waits for, a batch a turn, and let them wait; only the waits are timed."""
        op = WaitForEvent(
            events=("paid",), timeout_ms=DAY_MS, if_exp="async.data.order == event.data.id",
            is_since_trigger=is_since_trigger,
        )  # fmt: skip
        took_s = 0.0
        for number in range(first, first + EVENTS, BATCH):
            begun = await self.decide([event("order", "id", number + n) for n in range(BATCH)])
            await self.decide([event("paid", "order", number + n) for n in range(BATCH)])
            began = time.perf_counter()
            await self.decide([_reported(at, op) for at in begun])
            took_s += time.perf_counter() - began
        return took_s / EVENTS * 1e6

    async def us_an_event(self, first: int) -> float:
        """Send events, a batch a turn."""
        began = time.perf_counter()
        for number in range(first, first + EVENTS, BATCH):
            await self.decide([event("paid", "order", number + n) for n in range(BATCH)])
        return (time.perf_counter() - began) / EVENTS * 1e6


def _reported(at: Dispatch, op: WaitForEvent) -> OpReported:
    return OpReported(
        run=at.run, generation=at.generation, step=STEP, wire_id=WIRE_ID, step_id="paid", attempt=0, op=op
    )


async def benchmark(directory: Path) -> None:
    print(f"{'waiting':>10} {'for one of them':>18} {'for none':>12}   µs an event, commits included")
    for waiting in (FEW, MANY):
        log = SqliteLog(directory / f"{waiting}.db")
        processor = Processor(await log.load(), Registry([ORDER]), EngineConfig(live_runs=10**9))
        processor.recover()
        partition = Partition(processor, log)
        for first in range(0, waiting, 1_000):
            await partition.wait(first, min(1_000, waiting - first))
        matched = f"{await partition.us_an_event(0):.1f}" if waiting >= EVENTS else "–"  # too few to measure it
        unmatched = await partition.us_an_event(10_000_000)
        print(f"{waiting:10,} {matched:>18} {unmatched:12.1f}")
        if waiting < EVENTS:
            plain = await partition.us_a_wait(20_000_000, is_since_trigger=False)
            back = await partition.us_a_wait(30_000_000, is_since_trigger=True)
            print(f"           a wait {plain:.1f} µs; one that looks back, and ends at once {back:.1f} µs")
        log.close()
    await _for_all(directory)


async def _for_all(directory: Path) -> None:
    """One event that every step waits for."""
    log = SqliteLog(directory / "all.db")
    processor = Processor(await log.load(), Registry([ORDER]), EngineConfig(live_runs=10**9))
    processor.recover()
    partition = Partition(processor, log)
    for first in range(0, ALL, 1_000):
        await partition.wait(first, 1_000, if_exp=None)
    began = time.perf_counter()
    await partition.decide([event("paid", "order", 0)])
    took_s, longest_ms = time.perf_counter() - began, partition.longest_s * 1e3
    print(f"{ALL:10,} for all of them {took_s:.2f} s, the longest turn {longest_ms:.0f} ms")
    log.close()


def main() -> None:
    run(benchmark)
