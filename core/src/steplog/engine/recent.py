"""The latest events of the names that waits look back for (``since="trigger"``, docs/decisions/0011).

Theory of operation. Every accepted event stands in the log, in order; this is a cache of it, of which any part may be
dropped at any time. A name gets a *window* with the first wait that looks back for it. The window is whole from some
place on: from there it takes every event that comes, and what a wait wants of the time before is read back from the
log, each turn at most once. So names need not be known before, a start has nothing to recover, and an event that nobody
looks back for costs nothing.

An event counts for 10 minutes after its receipt. Memory, and what is read back for one wait, are bounded in bytes; a
wait that had to do with less is told since when it could look.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from steplog.engine.draft import Draft, encode
from steplog.engine.functions import ENVIRONMENTS
from steplog.engine.records import Place, event_seen
from steplog.engine.waits import Path, value_hash

KEPT_MS = 600_000
MOST_NAMES = 1_000  # with a window; beyond it, the one that was asked for least recently goes
MOST_TRIED = 10_000  # events of a name that a wait is held against
EVENT_BYTES = 500  # what an event takes in memory besides its body


class EventLog(Protocol):
    """The accepted events, as the log has them."""

    def accepted(self, first: int, last: int) -> Iterator[tuple[int, list[bytes]]]:
        """Read the events, JSON, of each turn that accepted any, from turn ``last`` back to turn ``first``."""


class Arrival:
    """An event in a window."""

    __slots__ = ("body", "groups", "name", "place", "received_ms")

    def __init__(self, name: str, place: Place, received_ms: int, body: bytes) -> None:
        self.name, self.place, self.received_ms, self.body = name, place, received_ms, body
        self.groups: list[tuple[Path, bytes]] = []  # where a window has it by its values

    @property
    def size_bytes(self) -> int:
        return len(self.body) + EVENT_BYTES


class Found(NamedTuple):
    """What a wait can look back at."""

    arrivals: list[Arrival]  # the latest first
    cut_ms: int  # what was received until then may be missing; 0: nothing is


class _Window:
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


class Recent:
    """The windows of all names."""

    def __init__(self, draft: Draft, log: EventLog, most_bytes: int) -> None:
        self._draft, self._log, self._most_bytes = draft, log, most_bytes
        self._windows: dict[tuple[int, str], _Window] = {}  # the one that was asked for last at the end
        self._size_bytes = 0

    def note(self, env: int, name: str, received_ms: int, body: bytes, event: Any) -> None:
        """Take in an event that is about to be accepted, where somebody looks back for its name."""
        window = self._windows.get((env, name))
        if window is None:
            return
        if window.asked_ms < self._draft.now_ms - KEPT_MS:
            self._forget((env, name))
            return
        before_bytes = window.size_bytes
        self._drop_old(window)
        window.append(Arrival(name, self._draft.next_place, received_ms, body), event)
        self._grown(window.size_bytes - before_bytes)

    def since(self, env: int, name: str, place: Place, path: Path, value: bytes) -> Found:
        """The events of a name from a place on, as far as they are kept, that have a value at a path, if there is one.

        The place lies in a turn that is decided. A window that begins later is filled from the log.
        """
        window = self._ask(env, name)
        if place < window.whole_from and not window.is_cut:
            self._read_back(window, env, name, place[0])
        window.index(path)
        oldest_ms = self._draft.now_ms - KEPT_MS
        cut_ms = window.cut_ms if place < window.whole_from and window.cut_ms >= oldest_ms else 0
        found: list[Arrival] = []
        for arrival in window.latest(path, value):
            if arrival.place < place:
                break
            if len(found) == MOST_TRIED:
                cut_ms = max(cut_ms, arrival.received_ms)
                break
            if arrival.received_ms >= oldest_ms:
                found.append(arrival)
        return Found(found, cut_ms)

    def _ask(self, env: int, name: str) -> _Window:
        """Find a window, or open it with what this turn has accepted so far."""
        draft = self._draft
        window = self._windows.pop((env, name), None)
        if window is not None:
            self._windows[env, name] = window
        else:
            if len(self._windows) >= MOST_NAMES:
                self._forget(next(iter(self._windows)))
            window = self._windows[env, name] = _Window((draft.number, 0))
            for index, body in enumerate(draft.events):
                arrival = _read(body, (draft.number, index), env, name, _needle(name))
                if arrival is not None:
                    window.append(arrival, None)
            self._grown(window.size_bytes)
        window.asked_ms = draft.now_ms
        return window

    def _read_back(self, window: _Window, env: int, name: str, first_turn: int) -> None:
        """Fill a window from the log: from a turn on, or from where on events still count."""
        needle, oldest_ms = _needle(name), self._draft.now_ms - KEPT_MS
        older: list[Arrival] = []
        read_bytes, free_bytes = 0, self._most_bytes - self._size_bytes
        window_from = first_turn
        for turn, bodies in self._log.accepted(first_turn, window.whole_from[0] - 1):
            latest_ms = _decode_stored(bodies[-1]).received_at
            if latest_ms < oldest_ms:
                break
            if read_bytes > self._most_bytes or free_bytes < 0:
                window.is_cut, window.cut_ms, window_from = True, latest_ms, turn + 1
                break
            for index in range(len(bodies) - 1, -1, -1):
                read_bytes += len(bodies[index])
                arrival = _read(bodies[index], (turn, index), env, name, needle)
                if arrival is not None:
                    older.append(arrival)
                    free_bytes -= arrival.size_bytes
        window.whole_from = (window_from, 0)
        before_bytes = window.size_bytes
        window.prepend(older)
        self._grown(window.size_bytes - before_bytes)

    def _drop_old(self, window: _Window) -> None:
        """Drop what counts no more."""
        oldest_ms = self._draft.now_ms - KEPT_MS
        while window.arrivals and window.arrivals[0].received_ms < oldest_ms:
            window.drop_first()

    def _grown(self, by_bytes: int) -> None:
        """Take note of what has been added, and make room where that is too much."""
        self._size_bytes += by_bytes
        if self._size_bytes <= self._most_bytes:
            return
        windows = self._windows.values()
        for window in windows:
            self._drop_old(window)
        self._size_bytes = sum(window.size_bytes for window in windows)
        while self._size_bytes > self._most_bytes:
            self._cut(max(windows, key=lambda window: window.size_bytes))

    def _cut(self, window: _Window) -> None:
        """Drop the oldest quarter of a window for lack of room."""
        before_bytes = window.size_bytes
        while window.arrivals and window.size_bytes * 4 >= before_bytes * 3:
            dropped = window.drop_first()
            window.whole_from = (dropped.place[0], dropped.place[1] + 1)
            window.is_cut, window.cut_ms = True, max(window.cut_ms, dropped.received_ms)
        self._size_bytes -= before_bytes - window.size_bytes

    def _forget(self, key: tuple[int, str]) -> None:
        self._size_bytes -= self._windows.pop(key).size_bytes


class _Stored(msgspec.Struct):
    """What is asked of an event in the log."""

    name: str
    env: str
    received_at: int


_decode_stored = msgspec.json.Decoder(_Stored).decode


def _needle(name: str) -> bytes:
    """What the record of an event of this name contains: most others need not be decoded."""
    return b'"name":' + encode(name)


def _read(body: bytes, place: Place, env: int, name: str, needle: bytes) -> Arrival | None:
    """Read an event from its record; None where it is another one's."""
    if needle not in body:
        return None
    stored = _decode_stored(body)
    if stored.name != name or stored.env != ENVIRONMENTS[env]:
        return None
    return Arrival(name, place, stored.received_at, body)
