"""The latest events of the names that waits look back for (``since="trigger"``, docs/decisions/0011).

Theory of operation. Every accepted event stands in the log, in order; this is a cache of it, of which any part may be
dropped at any time. A name gets a *window* with the first wait that looks back for it. The window is whole from some
place on: from there it takes every event that comes, and what a wait wants of the time before is read back from the
log, each turn at most once. So names need not be known before, a start has nothing to recover, and an event that nobody
looks back for costs nothing.

An event counts for 10 minutes after its receipt. Memory, and what is read back for one wait, are bounded in bytes; a
wait that had to do with less is told since when it could look.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from steplog.engine.draft import Draft
from steplog.engine.records import Place
from steplog.engine.waits import Path
from steplog.engine.windows import Arrival, Window, decode_stored, needle_of, read_arrival

KEPT_MS = 600_000
MOST_NAMES = 1_000  # with a window; beyond it, the one that was asked for least recently goes
MOST_TRIED = 10_000  # events of a name that a wait is held against


class EventLog(Protocol):
    """The accepted events, as the log has them."""

    def accepted(self, first: int, last: int) -> Iterator[tuple[int, list[bytes]]]:
        """Read the events, JSON, of each turn that accepted any, from turn ``last`` back to turn ``first``."""


class Found(NamedTuple):
    """What a wait can look back at."""

    arrivals: list[Arrival]  # the latest first
    cut_ms: int  # what was received until then may be missing; 0: nothing is


class Recent:
    """The windows of all names."""

    def __init__(self, draft: Draft, log: EventLog | None, most_bytes: int) -> None:
        self._draft, self._log, self._most_bytes = draft, log, most_bytes
        self._windows: dict[tuple[int, str], Window] = {}  # the one that was asked for last at the end
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

    def _ask(self, env: int, name: str) -> Window:
        """Find a window, or open it with what this turn has accepted so far."""
        draft = self._draft
        window = self._windows.pop((env, name), None)
        if window is not None:
            self._windows[env, name] = window
        else:
            if len(self._windows) >= MOST_NAMES:
                self._forget(next(iter(self._windows)))
            window = self._windows[env, name] = Window((draft.number, 0))
            for index, body in enumerate(draft.events):
                arrival = read_arrival(body, (draft.number, index), env, name, needle_of(name))
                if arrival is not None:
                    window.append(arrival, None)
            self._grown(window.size_bytes)
        window.asked_ms = draft.now_ms
        return window

    def _read_back(self, window: Window, env: int, name: str, first_turn: int) -> None:
        """Fill a window from the log: from a turn on, or from where on events still count."""
        needle, oldest_ms = needle_of(name), self._draft.now_ms - KEPT_MS
        older: list[Arrival] = []
        assert self._log is not None, "a log without events is read by an effect"
        read_bytes, free_bytes = 0, self._most_bytes - self._size_bytes
        window_from = first_turn
        for turn, bodies in self._log.accepted(first_turn, window.whole_from[0] - 1):
            latest_ms = decode_stored(bodies[-1]).received_at
            if latest_ms < oldest_ms:
                break
            if read_bytes > self._most_bytes or free_bytes < 0:
                window.is_cut, window.cut_ms, window_from = True, latest_ms, turn + 1
                break
            for index in range(len(bodies) - 1, -1, -1):
                read_bytes += len(bodies[index])
                arrival = read_arrival(bodies[index], (turn, index), env, name, needle)
                if arrival is not None:
                    older.append(arrival)
                    free_bytes -= arrival.size_bytes
        window.whole_from = (window_from, 0)
        before_bytes = window.size_bytes
        window.prepend(older)
        self._grown(window.size_bytes - before_bytes)

    def _drop_old(self, window: Window) -> None:
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

    def _cut(self, window: Window) -> None:
        """Drop the oldest quarter of a window for lack of room."""
        before_bytes = window.size_bytes
        while window.arrivals and window.size_bytes * 4 >= before_bytes * 3:
            dropped = window.drop_first()
            window.whole_from = (dropped.place[0], dropped.place[1] + 1)
            window.is_cut, window.cut_ms = True, max(window.cut_ms, dropped.received_ms)
        self._size_bytes -= before_bytes - window.size_bytes

    def _forget(self, key: tuple[int, str]) -> None:
        self._size_bytes -= self._windows.pop(key).size_bytes
