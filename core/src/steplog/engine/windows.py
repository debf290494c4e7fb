"""Events of one name that waits look back at: in the order of the log, and found by what they have at a path.

A window is a cache of the log, whole from some place on. Who fills it says what a place is: ``engine/recent.py`` for
the one partition of a process, ``log/lookback.py`` for a partition of Kafka.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from steplog.engine.draft import encode
from steplog.engine.functions import ENVIRONMENTS
from steplog.engine.records import Place, event_seen
from steplog.engine.waits import Path, value_hash

EVENT_BYTES = 500  # what an event takes in memory besides its body


class Arrival:
    """An event in a window."""

    __slots__ = ("body", "groups", "name", "place", "received_ms")

    def __init__(self, name: str, place: Place, received_ms: int, body: bytes) -> None:
        self.name, self.place, self.received_ms, self.body = name, place, received_ms, body
        self.groups: list[tuple[Path, bytes]] = []  # where a window has it by its values

    @property
    def size_bytes(self) -> int:
        return len(self.body) + EVENT_BYTES


class Window:
    """The events of one name from a place on: in order, and by what they have at the paths that were asked for."""

    __slots__ = ("arrivals", "asked_ms", "by_value", "cut_ms", "is_cut", "paths", "size_bytes", "whole_from")

    def __init__(self, whole_from: Place) -> None:
        self.whole_from = whole_from
        self.is_cut = False  # what came before is not read back any more
        self.cut_ms = 0  # it was received until then
        self.asked_ms = 0
        self.size_bytes = 0
        self.arrivals: deque[Arrival] = deque()
        self.paths: set[Path] = set()
        self.by_value: dict[tuple[Path, bytes], deque[Arrival]] = {}

    def append(self, arrival: Arrival, event: Any) -> None:
        self.arrivals.append(arrival)
        self.size_bytes += arrival.size_bytes
        for path in self.paths:
            self._index(arrival, path, event)

    def prepend(self, older: Sequence[Arrival]) -> None:
        """Take in what came before; ``older`` begins with the latest."""
        self.arrivals.extendleft(older)
        self.size_bytes += sum(arrival.size_bytes for arrival in older)
        self.by_value.clear()
        paths, self.paths = self.paths, set()
        for arrival in self.arrivals if paths else ():
            arrival.groups.clear()
        for path in paths:
            self.index(path)

    def index(self, path: Path) -> None:
        """Let events be found by what they have at a path."""
        if path and path not in self.paths:
            self.paths.add(path)
            for arrival in self.arrivals:
                self._index(arrival, path, event_seen(arrival.body))

    def latest(self, path: Path, value: bytes) -> Iterator[Arrival]:
        """The events with a value at a path, which is indexed, or all of them; the latest first."""
        return reversed(self.by_value.get((path, value), ()) if path else self.arrivals)

    def drop_first(self) -> Arrival:
        arrival = self.arrivals.popleft()
        self.size_bytes -= arrival.size_bytes
        for group in arrival.groups:
            self.by_value[group].popleft()
            if not self.by_value[group]:
                del self.by_value[group]
        return arrival

    def _index(self, arrival: Arrival, path: Path, event: Any) -> None:
        value = value_hash(event, path)
        if value is not None:
            arrival.groups.append((path, value))
            self.by_value.setdefault((path, value), deque()).append(arrival)


class _Stored(msgspec.Struct):
    """What is asked of an event in the log."""

    internal_id: str
    name: str
    env: str
    received_at: int
    slot: int


decode_stored = msgspec.json.Decoder(_Stored).decode


def needle_of(name: str) -> bytes:
    """What the record of an event of this name contains: most others need not be decoded."""
    return b'"name":' + encode(name)


def read_arrival(body: bytes, place: Place, env: int, name: str, needle: bytes) -> Arrival | None:
    """Read an event from its record; None where it is another one's."""
    if needle not in body:
        return None
    stored = decode_stored(body)
    if stored.name != name or stored.env != ENVIRONMENTS[env]:
        return None
    return Arrival(name, place, stored.received_at, body)
