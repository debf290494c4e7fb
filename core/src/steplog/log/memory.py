"""A log in memory, with the contract of the real ones: for simulation and tests.

What is committed survives ``load``; what the engine holds besides does not. So dropping the engine and loading again is
a crash.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence

from steplog.engine import keys
from steplog.engine.operations import Produce
from steplog.engine.processor import LoadedState, Turn


class MemoryTable:
    """The state table: keys in order, with their values."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        first = bisect_left(self._keys, start)
        last = min(bisect_left(self._keys, stop), first + limit)
        return [(key, self._values[key]) for key in self._keys[first:last]]

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        first = bisect_left(self._keys, start)
        return self._keys[first : min(bisect_left(self._keys, stop), first + limit)]

    def read(self, prefixes: Sequence[bytes]) -> list[list[tuple[bytes, bytes]]]:
        return [self.scan(prefix, keys.after(prefix), len(self._keys)) for prefix in prefixes]

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self._values.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]
        else:
            if key not in self._values:
                insort(self._keys, key)
            self._values[key] = value


class MemoryLog:
    """Everything that was committed, as the log keeps it."""

    def __init__(self) -> None:
        self.journal: list[tuple[int, list[bytes]]] = []
        self.events: list[tuple[int, list[bytes]]] = []
        self.produced: list[Produce] = []
        self._redo: deque[tuple[int, dict[bytes, bytes | None]]] = deque()
        self._table = MemoryTable()
        self._turn = self._now_ms = 0

    async def load(self) -> LoadedState:
        for _, changes in self._redo:
            for key, value in changes.items():
                self._table.write(key, value)
        self._redo.clear()
        return LoadedState(turn=self._turn, now_ms=self._now_ms, table=self._table, events=self)

    async def commit(self, turn: Turn) -> None:
        assert turn.number == self._turn + 1, "turns are committed in order"
        self._turn, self._now_ms = turn.number, turn.now_ms
        while self._redo and self._redo[0][0] < turn.state.redo_from:
            self._redo.popleft()
        self._redo.append((turn.number, turn.state.changes))
        for key, value in turn.state.flush:
            self._table.write(key, value)
        if turn.records:
            self.journal.append((turn.number, turn.records))
        if turn.events:
            self.events.append((turn.number, turn.events))
        self.produced += turn.produced

    def accepted(self, first: int, last: int) -> Iterator[tuple[int, list[bytes]]]:
        for turn, events in reversed(self.events):
            if turn < first:
                return
            if turn <= last:
                yield turn, events

    def close(self) -> None:
        """Nothing is held."""
