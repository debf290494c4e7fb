"""Reads events back for waits that look back, from the topics of all partitions (docs/decisions/0016).

Theory of operation. A wait is committed before it asks here. What it wants is read up to an end that is asked for after
that; an event behind that end was written after the wait was there, so it meets the wait by itself. So every event is
met, without a word between partitions; one that is met twice counts once.

The names that are asked for have a *window* in each partition (``engine/windows.py``), whole from some time of receipt
on. A pass reads what has come since the last one, once for all that ask, and goes back, in blocks, where somebody wants
more. All of it is a cache, of which any part may be dropped; nothing here is durable, for a process that loads a
partition asks again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from steplog.engine.effects import Effect, ReadEvents
from steplog.engine.messages import EventsRead
from steplog.engine.recent import KEPT_MS, MOST_TRIED
from steplog.engine.records import event_seen
from steplog.engine.windows import Arrival, Window, decode_stored
from steplog.log.broker import BrokerError, Fetched, Place
from steplog.log.encoding import event_of
from steplog.log.topics import EVENTS

AGAIN_S = 0.5  # after an error
READ_S = 0.05
BLOCK = 500  # records that are read at once on the way back
MOST_MISSED = 100_000  # records since the last pass; where there are more, it begins anew at the end
SLACK_MS = 5_000  # by which the time of a record may differ from that of the receipt of its event

LATE_MS = 60_000  # an event is written at most so long after its receipt

Name = tuple[int, str]  # environment, name of events


class Reader(Protocol):
    """Reads any partition of a topic, whoever owns it. Every call may fail with ``BrokerError``."""

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        """Read some committed records from an offset on; returns them, and the offset behind all that was looked at."""

    def forget(self, place: Place) -> None:
        """Nobody reads on there for now."""

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The high watermarks: the offsets behind everything that was written, committed or not."""

    async def offset_at(self, place: Place, at_ms: int) -> int:
        """The offset of the first record with this time or a later one; the end where there is none."""


class Lookback:
    """Answers what waits of this process ask: ``answer`` gets the message for the run."""

    def __init__(
        self, reader: Reader, partitions: int, *, answer: Callable[[EventsRead], None], now_ms: Callable[[], int],
        most_bytes: int,
    ) -> None:  # fmt: skip
        self._answer, self._now_ms, self._most_bytes = answer, now_ms, most_bytes
        self._reader = reader
        self._tails = {p: _Tail(reader, Place(EVENTS, p), most_bytes // partitions) for p in range(partitions)}
        self._asked: dict[tuple[bytes, bytes], ReadEvents] = {}  # by run and step
        self._names: dict[Name, int] = {}  # when each was asked for; the last at the end
        self._wake = asyncio.Event()

    def take(self, effects: list[Effect]) -> list[Effect]:
        """Note what is asked for by committed turns; returns the other effects."""
        asked = {(effect.run, effect.step): effect for effect in effects if isinstance(effect, ReadEvents)}
        if not asked:
            return effects
        self._asked.update(asked)
        self._wake.set()
        return [effect for effect in effects if not isinstance(effect, ReadEvents)]

    def forget(self, is_gone: Callable[[bytes], bool]) -> None:
        """Some runs are not here any more."""
        self._asked = {key: question for key, question in self._asked.items() if not is_gone(question.run)}

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked = dict(self._asked)
            if not asked:
                continue
            try:
                await self._read(_wanted_since(asked.values()))
            except BrokerError:
                self._wake.set()
                await asyncio.sleep(AGAIN_S)
                continue
            for key, question in asked.items():
                if self._asked.get(key) is question:
                    del self._asked[key]
                    self._answer(self._found(question))
            self._make_room()

    async def _read(self, wanted: Mapping[Name, int]) -> None:
        """Bring the windows of some names up to date, and back to a time of receipt each."""
        now_ms = self._now_ms()
        for name in wanted:
            self._names.pop(name, None)
            self._names[name] = now_ms
        ends = await self._reader.ends([tail.place for tail in self._tails.values()])
        for tail in self._tails.values():
            try:
                await tail.read(wanted, ends[tail.place])
            finally:
                self._reader.forget(tail.place)

    def _found(self, question: ReadEvents) -> EventsRead:
        """What was read for a question, in the order of receipt."""
        found: list[Arrival] = []
        cut_ms = 0
        for partition, tail in self._tails.items():
            after = question.trigger[1] if partition == question.trigger[0] else -1
            for name, path, value in question.spots:
                window = tail.windows[question.env, name]
                window.index(path)
                if window.is_cut and window.cut_ms >= question.since_ms:
                    cut_ms = max(cut_ms, window.cut_ms)
                for arrival in window.latest(path, value):
                    if arrival.place[0] <= after or arrival.received_ms < question.since_ms - LATE_MS:
                        break
                    if arrival.received_ms >= question.since_ms:
                        found.append(arrival)
        found.sort(key=lambda arrival: (arrival.received_ms, decode_stored(arrival.body).internal_id))
        if len(found) > MOST_TRIED:
            cut_ms = max(cut_ms, found[-MOST_TRIED - 1].received_ms)
        events = tuple([arrival.body for arrival in found[-MOST_TRIED:]])
        return EventsRead(run=question.run, step=question.step, events=events, cut_ms=cut_ms)

    def _make_room(self) -> None:
        """Forget the names that nobody has asked for lately, and those beyond the bound, the oldest first."""
        size_bytes = sum(window.size_bytes for tail in self._tails.values() for window in tail.windows.values())
        oldest_ms = self._now_ms() - KEPT_MS
        for name, asked_ms in list(self._names.items()):
            if asked_ms >= oldest_ms and size_bytes <= self._most_bytes:
                return
            del self._names[name]
            size_bytes -= sum(tail.forget(name) for tail in self._tails.values())


def _wanted_since(asked: Iterable[ReadEvents]) -> dict[Name, int]:
    """Since when the events of each name are asked for."""
    wanted: dict[Name, int] = {}
    for question in asked:
        for name, _, _ in question.spots:
            key = (question.env, name)
            wanted[key] = min(wanted.get(key, question.since_ms), question.since_ms)
    return wanted


class _Tail:
    """The windows of one partition: of what was written before ``_end``, as far back as somebody wanted."""

    def __init__(self, reader: Reader, place: Place, most_bytes: int) -> None:
        self._reader, self.place, self._most_bytes = reader, place, most_bytes
        self._end: int | None = None
        self._whole_ms: dict[Name, int] = {}  # a window has what was received from then on
        self.windows: dict[Name, Window] = {}

    async def read(self, wanted: Mapping[Name, int], end: int) -> None:
        """Bring every window up to an end, and those of some names back to a time of receipt."""
        if self._end is None or end - self._end > MOST_MISSED:
            self.windows.clear()
            self._whole_ms.clear()
            self._end = end
        while self._end < end:
            stop = min(end, self._end + BLOCK)
            for record in await self._fetch(self._end, stop):
                self._append(record)
            self._end = stop
        lacking: dict[Name, int] = {}
        for name, since_ms in wanted.items():
            window = self.windows.setdefault(name, Window((end, 0)))
            if since_ms < self._whole_ms.get(name, since_ms + 1) and not window.is_cut:
                lacking[name] = since_ms
        if lacking:
            await self._read_back(lacking)

    def forget(self, name: Name) -> int:
        """Drop a window; returns its bytes."""
        self._whole_ms.pop(name, None)
        window = self.windows.pop(name, None)
        return 0 if window is None else window.size_bytes

    def _append(self, record: Fetched) -> None:
        event = event_of(record)
        window = None if event is None else self.windows.get((event.env, event.name))
        if event is not None and window is not None:
            arrival = Arrival(event.name, (record.offset, 0), event.received_ms, event.body)
            window.append(arrival, event_seen(event.body) if window.paths else None)

    async def _read_back(self, lacking: Mapping[Name, int]) -> None:
        """Fill windows with what came before: in blocks, from the latest on, until it is enough, or too much."""
        first = await self._reader.offset_at(self.place, min(lacking.values()) - SLACK_MS)
        older: dict[Name, list[Arrival]] = {name: [] for name in lacking}
        upto = max(self.windows[name].whole_from[0] for name in lacking)
        read_bytes = cut_ms = 0
        while upto > first and read_bytes <= self._most_bytes:
            begin = max(first, upto - BLOCK)
            for record in reversed(await self._fetch(begin, upto)):
                event = event_of(record)
                if event is None:
                    continue
                read_bytes, cut_ms = read_bytes + len(event.body), event.received_ms
                name = (event.env, event.name)
                if name in older and record.offset < self.windows[name].whole_from[0]:
                    older[name].append(Arrival(event.name, (record.offset, 0), event.received_ms, event.body))
            upto = begin
        for name, since_ms in lacking.items():
            window = self.windows[name]
            window.prepend(older[name])
            window.whole_from = (min(window.whole_from[0], upto), 0)
            window.is_cut, window.cut_ms = upto > first, cut_ms if upto > first else 0
            self._whole_ms[name] = since_ms

    async def _fetch(self, begin: int, end: int) -> list[Fetched]:
        """Read all that is committed between two offsets; waits where a transaction is open."""
        found: list[Fetched] = []
        while begin < end:
            fetched, after = await self._reader.read(self.place, begin, wait_s=READ_S)
            found += [record for record in fetched if record.offset < end]
            begin = after
        return found
