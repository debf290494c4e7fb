"""What the projection of a run costs: ``python -m benchmarks.projector [--runs 10000] [--history postgresql://…]``.

Writes a log of three-step runs with the real engine, as a loop under load does: a turn holds what about half of the
live runs report. Then projects it, with as many turns in a batch as pile up between two polls under load (``live``) and
as many as fit (``catch-up``), and prints the CPU time of a run, and the rows a second, of which a run has two. With
``--history`` the same is written there too. A machine with other work varies: take the least.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from steplog.engine.effects import Dispatch, Resume, RunEnded
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, EventTrigger, FunctionSpec, Registry
from steplog.engine.ids import hash16, step_wire_id, ulid
from steplog.engine.messages import Message, OpReported, RunReported
from steplog.engine.operations import EventOut, StepRun
from steplog.engine.processor import Processor
from steplog.history import journal
from steplog.history.projection import fold
from steplog.history.projector import open_projector
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.paths import file_url

T = TypeVar("T")
STEPS = ("charge", "pack", "notify")
WIRE_IDS = [step_wire_id(step, 0) for step in STEPS]
EVENT = msgspec.Raw(b'{"order":"ord-0107","user":"u1","total":4200,"currency":"EUR","items":[1,2,3]}')
OUTPUT = b'{"receipt":"ch_1-USD","amount":4200,"note":"a result of about a hundred bytes, as most results are"}'
REPORTS = 0.5  # of the live runs, in one turn
TURN_MS = 3


async def write_log(path: Path, *, runs: int, concurrency: int) -> int:
    """Write a log of ``runs`` runs and return how many turns it has."""
    log = SqliteLog(path)
    log._connection.execute("PRAGMA synchronous = OFF")  # this is not what is measured
    registry = Registry([FunctionSpec(id="shop-ship-order", app="shop", triggers=(EventTrigger("shop/order.placed"),))])
    processor = Processor(await log.load(), registry, EngineConfig())
    rng, now_ms, sent, turns = random.Random(1), 1_760_000_000_000, 0, 0
    waiting: list[Message] = []
    live = 0
    while sent < runs or live:
        now_ms += TURN_MS
        for _ in range(min(concurrency - live, runs - sent)):
            internal_id = ulid(now_ms, hash16(sent.to_bytes(8, "big"))[:10])
            event = EventOut(name="shop/order.placed", data=EVENT)
            processor.post(accept_event(event, internal_id, env=DEFAULT_ENV, received_ms=now_ms, source="bench"))
            sent, live = sent + 1, live + 1
        later: list[Message] = []
        for message in waiting:
            if rng.random() < REPORTS:
                processor.post(message)
            else:
                later.append(message)
        processor.advance(now_ms)
        await log.commit(processor.seal())
        turns += 1
        waiting = later
        for effect in processor.committed():
            if isinstance(effect, Dispatch):
                waiting.append(_step(effect.run, effect.generation, 0, now_ms))
            elif isinstance(effect, Resume):
                done = STEPS_BY_HASH[effect.recorded.step] + 1
                if done < len(STEPS):
                    waiting.append(_step(effect.run, effect.generation, done, now_ms))
                else:
                    waiting.append(RunReported(run=effect.run, generation=effect.generation, output=OUTPUT))
            elif isinstance(effect, RunEnded):
                live -= 1
    log.close()
    return turns


STEPS_BY_HASH = {hash16(wire.encode()): index for index, wire in enumerate(WIRE_IDS)}


def _step(run: bytes, generation: int, index: int, now_ms: int) -> Message:
    op = StepRun(data=OUTPUT, started_ms=now_ms, ended_ms=now_ms + 1)
    wire_id = WIRE_IDS[index]
    return OpReported(
        run=run, generation=generation, step=hash16(wire_id.encode()), wire_id=wire_id, step_id=STEPS[index],
        attempt=0, op=op,
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--live-rows", type=int, default=35, help="turns between two polls")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--history", help="besides SQLite; its schema bench_history is dropped")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.db"
        turns = asyncio.run(write_log(log, runs=arguments.runs, concurrency=arguments.concurrency))
        print(f"{arguments.runs} runs of {len(STEPS)} steps in {turns} turns")
        for name, rows in (("live", arguments.live_rows), ("catch-up", journal.ROWS)):
            for number in range(arguments.rounds):
                history = Path(folder) / f"{name}-{number}.db"
                measure(name, log, file_url(history), rows=rows, runs=arguments.runs)
                if arguments.history:
                    measure(name, log, _emptied(arguments.history), rows=rows, runs=arguments.runs)


def measure(name: str, log: Path, history: str, *, rows: int, runs: int) -> None:
    """Project once, and print µs of CPU time a run, this process's alone."""
    journal.ROWS = journal.ROWS_AT_FIRST = rows
    with JournalReader(log) as reader:
        read_us, batches = _cpu_us(lambda: sum(1 for _ in _batches(reader)))
        folded_us, _ = _cpu_us(lambda: [None for batch in _batches(reader) if fold(batch.turns) is None])
    with open_projector(file_url(log), history) as projector:
        began_s = time.perf_counter()
        all_us, _ = _cpu_us(projector.catch_up)
        took_s = time.perf_counter() - began_s
    print(
        f"{name:9}{history.partition(':')[0]:11}{batches:4} batches: {all_us / runs:5.1f} µs CPU a run: "
        f"read and decode {read_us / runs:4.1f}, fold {(folded_us - read_us) / runs:4.1f}, "
        f"write {(all_us - folded_us) / runs:5.1f}; {2 * runs / took_s:7,.0f} rows/s"
    )


def _emptied(database: str) -> str:
    """The address of a history in a schema of the benchmark's own."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS bench_history CASCADE")
    return f"{database}{'&' if '?' in database else '?'}schema=bench_history"


def _batches(reader: JournalReader) -> Iterator[journal.Batch]:
    tape, position = journal.Tape(reader), 0
    while (batch := tape.read(position)) is not None:
        position = batch.position
        yield batch


def _cpu_us(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return (time.process_time() - started) * 1e6, result


if __name__ == "__main__":
    main()
