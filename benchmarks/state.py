"""What the ordered state costs: ``python -m benchmarks.state``.

First a key in memory: written, deleted, sealed into a turn. Then a queue in an SQLite log, popped at one end and pushed
at the other, in turns of 100 each: what a pop costs must not depend on how long the queue is.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.engine.state import Slice, State
from steplog.log.memory import MemoryTable
from steplog.log.sqlite import SqliteLog

KEYS, A_TURN = 200_000, 1_000
LENGTHS = (500, 50_000, 1_000_000)
POPS, POPS_A_TURN = 50_000, 100
VALUE = b'{"function":"app-order","app":"app","state":"running"}'


def run_key(number: int) -> bytes:
    """A run's key; ids grow with time, as those of runs do."""
    return keys.run(0, number.to_bytes(8, "big") + bytes(8))


def short_lives() -> list[tuple[str, float]]:
    """Keys that are born and die before they reach the table: most of those of a short run."""
    state = State(MemoryTable())
    taken = {"put": 0.0, "get": 0.0, "delete": 0.0, "seal": 0.0}
    for turn in range(KEYS // A_TURN):
        made = [run_key(turn * A_TURN + n) for n in range(A_TURN)]
        began = time.perf_counter()
        for key in made:
            state.put(key, VALUE, new=True)
        put = time.perf_counter()
        for key in made:
            state.get(key)
        got = time.perf_counter()
        for key in made:
            state.delete(key)
        deleted = time.perf_counter()
        state.seal(turn + 1)
        state.landed()
        sealed = time.perf_counter()
        for name, spent in zip(taken, (put - began, got - put, deleted - got, sealed - deleted), strict=True):
            taken[name] += spent
    return [(name, spent / KEYS * 1e6) for name, spent in taken.items()]


def long_lives() -> float:
    """Seal keys that stay, so that each goes to the table once."""
    state = State(MemoryTable())
    spent = 0.0
    for turn in range(KEYS // A_TURN):
        for n in range(A_TURN):
            state.put(run_key(turn * A_TURN + n), VALUE, new=True)
        began = time.perf_counter()
        state.seal(turn + 1)
        state.landed()
        spent += time.perf_counter() - began
    return spent / KEYS * 1e6


async def queue(path: Path, length: int) -> tuple[float, float, float]:
    """Pop and push at a steady length. Returns µs a pop: in the state, in the log, in the state's dearest turn."""
    log = SqliteLog(path)
    await log.load()
    rows: list[tuple[bytes, bytes | None]] = [(keys.queue(run_key(n)), b"") for n in range(length)]
    await log.commit(Turn(number=1, now_ms=0, state=Slice({}, rows, 2), records=[], events=[]))
    del rows
    state = State((await log.load()).table)
    in_state = in_log = dearest = 0.0
    pushed = length
    for number in range(2, 2 + POPS // POPS_A_TURN):
        began = time.perf_counter()
        for _ in range(POPS_A_TURN):
            key = state.first(keys.QUEUE)
            assert key is not None, "as many are pushed as popped"
            state.delete(key)
            state.put(keys.queue(run_key(pushed)), b"", new=True)
            pushed += 1
        part = state.seal(number)
        decided = time.perf_counter()
        await log.commit(Turn(number=number, now_ms=0, state=part, records=[], events=[]))
        state.landed()
        in_state += decided - began
        in_log += time.perf_counter() - decided
        dearest = max(dearest, decided - began)
    log.close()
    return in_state / POPS * 1e6, in_log / POPS * 1e6, dearest / POPS_A_TURN * 1e6


def main() -> None:
    """Print the costs."""
    print(f"{'a key in memory':<28} µs")
    for name, cost_us in short_lives():
        print(f"  {name:<26} {cost_us:4.2f}")
    print(f"  {'seal, when it stays':<26} {long_lives():4.2f}")
    print(f"\n{'a pop and a push, queued':<28} {'state µs':>8} {'log µs':>8} {'dearest turn: state µs':>24}")
    with tempfile.TemporaryDirectory(prefix="steplog-bench-") as folder:
        for length in LENGTHS:
            in_state, in_log, dearest = asyncio.run(queue(Path(folder) / f"{length}.db", length))
            print(f"  {length:>26,} {in_state:8.2f} {in_log:8.2f} {dearest:24.1f}")


if __name__ == "__main__":
    main()
