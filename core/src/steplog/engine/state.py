"""The state of all owners: an ordered key-value space that is mostly in memory and wholly in the log.

Theory of operation. A turn's changes are written to the log as one redo record; the *table* behind it is brought up to
date later, in slices. Between the two lies the overlay:

- ``_pending`` holds every key whose last value has not reached the table, in the order in which the keys entered it.
  A key that was born and died while pending, and was new when it entered, never reaches the table at all.
- ``_entered`` remembers which keys entered in which turn. Slices are taken from the oldest turn on, so the redo can be
  cut below the oldest turn that still has a pending key: replaying what is left gives every pending key its last value.
- Ordered families (timers, queues) keep a ``Head``: a window onto their first keys, with a bound below which every key
  is known. Popping never asks the table and never walks over deleted rows.
- Grouped families (waits) keep ``Groups``: which pending keys lie below a prefix of fixed length. Reading all keys of a
  group is one range read, and no walk over the overlay.

An owner that is kept in memory until ``oldest_turn`` has passed its last write is complete in the table, so it can be
read back without a merge. Invariant: table + pending, later wins, is the state; a test holds it against a plain dict.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

import msgspec

from steplog.engine import keys

PENDING_KEYS = 64_000  # beyond it, slices go to the table: a queue of 50,000 runs need not
PENDING_TURNS = 4_096  # an older key goes to the table too, so that the redo stays short
REDO_BYTES = 64 << 20  # likewise; it bounds what is pending as well, and how long a restart takes
KEY_BYTES = 40  # about
YOUNG_TURNS = 64  # most keys are gone after so many; the others are what an older turn is remembered by
HELD_BYTES = 16 << 10  # of redo that a key may hold up when its turn is no longer young: writing a row costs less
SLICE_KEYS = 1_000  # to the table in one turn: fewer cost more than they save, more hold the turn up
HEAD_KEYS = 1_000  # read into a head at once


class Table(Protocol):
    """What the log keeps behind the overlay: the keys and values as of the last slice."""

    def get(self, key: bytes) -> bytes | None:
        """Read one value."""

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Read at most ``limit`` pairs from ``start`` (inclusive) to ``stop`` (exclusive), in order."""

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Read the keys of what ``scan`` reads, and no value."""

    def read(self, prefixes: Sequence[bytes]) -> list[list[tuple[bytes, bytes]]]:
        """Read every pair below each prefix, in order."""


class Slice(NamedTuple):
    """What a turn writes of the state."""

    changes: dict[bytes, bytes | None]  # the turn's own, None deletes: the redo record
    flush: list[tuple[bytes, bytes | None]]  # for the table, sorted by key
    redo_from: int  # redo records of earlier turns are no longer needed


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When the overlay spills."""

    pending_keys: int = PENDING_KEYS
    pending_turns: int = PENDING_TURNS
    redo_bytes: int = REDO_BYTES
    young_turns: int = YOUNG_TURNS
    held_bytes: int = HELD_BYTES
    slice_keys: int = SLICE_KEYS
    head_keys: int = HEAD_KEYS


class Head:
    """A window onto the first keys of an ordered family.

    Every key below ``_bound`` is in ``_alive``; keys at or above it are in the table, or in ``_beyond`` while pending.
    """

    def __init__(self, state: "State", kind: int, size: int) -> None:
        self._state, self._size = state, size
        self._stop = bytes([kind + 1])
        self._heap: list[bytes] = []  # may hold dead keys; ``_alive`` decides
        self._alive: set[bytes] = set()
        self._beyond: set[bytes] = set()
        self._least_beyond = bytes([kind + 1])  # no key beyond is less
        self._bound = bytes([kind])
        self._complete = False  # nothing lies at or above the bound
        self._trim_at = 4 * size

    def first(self) -> bytes | None:
        """Return the least key of the family, or None."""
        while True:
            heap, alive = self._heap, self._alive  # a refill makes a new heap
            while heap:
                if heap[0] in alive:
                    return heap[0]
                heappop(heap)
            if self._complete:
                return None
            self._refill()

    def put(self, key: bytes) -> None:
        if self._complete or key < self._bound:
            if key not in self._alive:
                self._alive.add(key)
                heappush(self._heap, key)
                if len(self._heap) > self._trim_at:
                    self._trim()
        else:
            self._beyond.add(key)
            self._least_beyond = min(self._least_beyond, key)

    def deleted(self, key: bytes, *, is_gone: bool) -> None:
        self._alive.discard(key)
        self._beyond.discard(key)

    def flushed(self, key: bytes) -> None:
        """The key is in the table now."""
        self._beyond.discard(key)

    def _refill(self) -> None:
        rows = self._state.table_keys(self._bound, self._stop, self._size)
        if len(rows) < self._size:
            self._complete, bound = True, self._stop
        else:
            bound = rows[-1] + b"\0"
        if self._least_beyond < bound:
            near = [key for key in self._beyond if key < bound]
            self._beyond.difference_update(near)
            self._least_beyond = min(self._beyond, default=self._stop)
            self._alive.update(near)
        self._alive.update(row for row in rows if not self._state.is_deleted(row))
        self._bound = bound
        self._heap = list(self._alive)
        heapify(self._heap)

    def _trim(self) -> None:
        """Give up the far end of a window that has grown; what is pending stays known."""
        self._heap = sorted(self._alive)
        far = self._heap[self._size :]
        self._trim_at = max(4 * self._size, 2 * len(self._heap))
        if 2 * sum(map(self._state.is_pending, far)) >= len(far):
            return  # most of it would have to stay known
        del self._heap[self._size :]
        self._alive = set(self._heap)
        self._bound, self._complete = far[0], False
        self._beyond.update(key for key in far if self._state.is_pending(key))
        self._least_beyond = min(self._least_beyond, far[0])


class Groups:
    """The keys of a family whose last value, or deletion, has not reached the table, by their first bytes."""

    def __init__(self, prefix_bytes: int) -> None:
        self._length = prefix_bytes
        self._pending: dict[bytes, set[bytes]] = {}

    def pending(self, prefix: bytes) -> set[bytes]:
        """Those below a prefix."""
        return self._pending.get(prefix, set())

    def put(self, key: bytes) -> None:
        self._pending.setdefault(key[: self._length], set()).add(key)

    def deleted(self, key: bytes, *, is_gone: bool) -> None:
        if is_gone:
            self.landed(key)
        else:
            self.put(key)

    def landed(self, key: bytes) -> None:
        """The table knows of the key, or never will."""
        group = self._pending.get(key[: self._length])
        if group is not None:
            group.discard(key)
            if not group:
                del self._pending[key[: self._length]]


class State:
    """The ordered key-value space of one partition."""

    def __init__(
        self, table: Table, limits: Limits = Limits(), *, ordered: Iterable[int] = (keys.TIMER, keys.QUEUE),
        grouped: Iterable[tuple[int, int]] = ((keys.WAIT, keys.WAIT_PREFIX_BYTES),),
    ) -> None:  # fmt: skip
        self._table, self._limits = table, limits
        self._pending: dict[bytes, bytes | None] = {}
        self._new: set[bytes] = set()  # pending keys that the table cannot have
        self._landing: dict[bytes, bytes | None] = {}  # on their way to the table
        self._entered: deque[tuple[int, int, list[bytes]]] = deque()  # turn, bytes sealed before it, keys
        self._entering: list[bytes] = []
        self._sealed_bytes = 0
        self.changes: dict[bytes, bytes | None] = {}  # of the turn that is being decided
        self._heads = {kind: Head(self, kind, limits.head_keys) for kind in ordered}
        self._groups = {kind: Groups(size) for kind, size in grouped}
        self._indexes: dict[int, Head | Groups] = {**self._heads, **self._groups}

    def put(self, key: bytes, value: bytes, *, new: bool = False) -> None:
        """Set a value; ``new`` says that the key has never been set, or was deleted and is gone from the table."""
        self.changes[key] = value
        if key not in self._pending:
            self._entering.append(key)
            if new:
                self._new.add(key)
        self._pending[key] = value
        index = self._indexes.get(key[0])
        if index is not None:
            index.put(key)

    def delete(self, *gone: bytes) -> None:
        """Remove keys, whether or not they are there."""
        changes, pending, new, indexes = self.changes, self._pending, self._new, self._indexes
        for key in gone:
            changes[key] = None
            is_gone = key in new
            if is_gone:
                new.discard(key)
                del pending[key]
            else:
                if key not in pending:
                    self._entering.append(key)
                pending[key] = None
            index = indexes.get(key[0])
            if index is not None:
                index.deleted(key, is_gone=is_gone)

    def get(self, key: bytes) -> bytes | None:
        """Read a value."""
        if key in self._pending:
            return self._pending[key]
        if key in self._landing:
            return self._landing[key]
        return self._table.get(key)

    def scan(self, prefix: bytes, limit: int, *, after: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Read the first ``limit`` pairs with a prefix, beyond a key where one is given.

        Its work grows with the overlay: not for the hot path.
        """
        first, stop = max(prefix, after + b"\0"), keys.after(prefix)
        overlay = {
            key: value for part in (self._landing, self._pending) for key, value in part.items() if first <= key < stop
        }
        merged = {key: value for key, value in overlay.items() if value is not None}
        start, wanted = first, limit
        while True:
            rows = self._table.scan(start, stop, wanted)
            merged.update((key, value) for key, value in rows if key not in overlay)
            if len(rows) < wanted:
                return sorted(merged.items())[:limit]
            start = rows[-1][0] + b"\0"
            known = sorted(pair for pair in merged.items() if pair[0] < start)
            if len(known) >= limit:
                return known[:limit]

    def owned(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Read everything below an owner's prefix that is wholly in the table: one range read, no merge."""
        return self._table.scan(prefix, keys.after(prefix), 1 << 40)

    def owned_by(self, prefixes: Sequence[bytes]) -> list[list[tuple[bytes, bytes]]]:
        """Read several owners at once, as ``owned`` does one."""
        return self._table.read(prefixes)

    def stored(self, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        """Read the pairs from ``first`` to ``last`` as the table has them, for keys that are wholly there."""
        return self._table.scan(first, last + b"\0", 1 << 40)

    def first(self, kind: int) -> bytes | None:
        """Return the least key of an ordered family."""
        return self._heads[kind].first()

    def group(self, prefix: bytes, limit: int, *, beyond: bytes = b"") -> list[bytes]:
        """Return the first ``limit`` keys of a group, in order: of those greater than ``beyond``, where it is given."""
        start, stop = max(prefix, beyond + b"\0") if beyond else prefix, keys.after(prefix)
        pending = self._groups[prefix[0]].pending(prefix)
        found: list[bytes] = []
        while True:
            rows = self._table.keys(start, stop, limit)
            upto = rows[-1] if len(rows) == limit else stop
            merged = pending.union(rows)
            found += sorted([key for key in merged if start <= key <= upto and not self.is_deleted(key)])
            if len(found) >= limit or len(rows) < limit:
                return found[:limit]
            start = upto + b"\0"

    @property
    def oldest_turn(self) -> int | None:
        """The oldest turn that still has a pending key; every write before it is in the table."""
        return self._entered[0][0] if self._entered else None

    def seal(self, turn: int, *, is_whole: bool = False) -> Slice:
        """End a turn: hand out its changes, and what is due for the table. Call ``landed`` when they are durable.

        ``is_whole``: everything that is pending is due.
        """
        assert not self._landing, "a slice is on its way; call landed() first"
        changes, self.changes = self.changes, {}
        if self._entering:
            self._entered.append((turn, self._sealed_bytes, self._entering))
            self._entering = []
        self._sealed_bytes += KEY_BYTES * len(changes) + sum(map(len, filter(None, changes.values())))
        self._forget_gone()
        flush = self._take_slice(len(self._pending) if is_whole else self._due(turn))
        return Slice(changes, flush, self._entered[0][0] if self._entered else turn + 1)

    def landed(self) -> None:
        """The last slice is durable."""
        for key in self._landing:
            group = self._groups.get(key[0])
            if group is not None and key not in self._pending:
                group.landed(key)
        self._landing.clear()

    def is_deleted(self, key: bytes) -> bool:
        overlay = self._pending if key in self._pending else self._landing
        return overlay.get(key, b"") is None

    def is_pending(self, key: bytes) -> bool:
        return key in self._pending or key in self._landing

    def table_keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Read keys as the table has them, with those that are just landing."""
        rows = self._table.keys(start, stop, limit)
        if not self._landing:
            return rows
        upto = rows[-1] if len(rows) == limit else stop
        landing = {key for key, value in self._landing.items() if value is not None and start <= key <= upto}
        return sorted(landing.union(rows))

    def _forget_gone(self) -> None:
        """Forget the oldest turns whose keys are all gone, so that the redo reaches back no further than it must.

        Of a turn that is no longer young its dead keys are forgotten: they would fill the memory behind one that lives.
        """
        entered, pending, place = self._entered, self._pending, -self._limits.young_turns
        if len(entered) > -place:
            turn, sealed_bytes, found = entered[place]
            kept = list(filter(pending.__contains__, found))
            if kept:
                entered[place] = turn, sealed_bytes, kept
            else:
                del entered[place]
        while entered:
            found = entered[0][2]
            while found and found[-1] not in pending:
                found.pop()
            if found:
                return
            entered.popleft()

    def _take_slice(self, wanted: int) -> list[tuple[bytes, bytes | None]]:
        if wanted == 0:
            return []
        flush: list[tuple[bytes, bytes | None]] = []
        while self._entered and len(flush) < wanted:
            for key in self._entered.popleft()[2]:
                if key in self._pending:
                    value = self._pending.pop(key)
                    self._new.discard(key)
                    flush.append((key, value))
                    head = self._heads.get(key[0])
                    if head is not None:
                        head.flushed(key)
            if not self._pending:
                self._entered.clear()
        flush.sort()  # neighbours in the table are written together
        self._landing.update(flush)
        return flush

    def _due(self, turn: int) -> int:
        """How many keys are to leave the overlay."""
        limits = self._limits
        excess = len(self._pending) - limits.pending_keys
        if excess > 0:
            return max(limits.slice_keys, excess // 2)
        if not self._entered:
            return 0
        oldest, sealed_bytes, found = self._entered[0]
        if oldest < turn - limits.pending_turns or self._sealed_bytes - sealed_bytes > limits.redo_bytes:
            return limits.slice_keys
        if oldest >= turn - limits.young_turns:
            return 0
        next_bytes = self._entered[1][1] if len(self._entered) > 1 else self._sealed_bytes
        return 1 if next_bytes - sealed_bytes > len(found) * limits.held_bytes else 0  # those of its turn go with it
