"""The log on Kafka: the rules of kafka.md, over a port that a client implements (``log/broker.py``).

A partition's owners live in one record a key of the compacted ``state`` topic, written by transactions that also hold
the journal, the messages to other partitions and the positions reached. Transactions are used, never trusted alone:
the positions that stand among the state are the truth, and generations make it harmless to decide again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from steplog.engine import keys
from steplog.engine.messages import EventAccepted, Input, Message
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.state import Table
from steplog.log.broker import Broker, Fetched, Place, Produced

EVENTS, INBOX, STATE, JOURNAL, REGISTRY = "events", "inbox", "state", "journal", "registry"
INPUTS = (INBOX, EVENTS)  # the inbox first: what was told before an event was sent is known when it is routed
HANGING_S = 1.0  # a watermark that stays ahead of what is committed for so long: a dead owner's transaction hangs
POLL_S = 0.01

_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_event = msgspec.msgpack.Decoder(EventAccepted).decode
_decode_head = msgspec.msgpack.Decoder(tuple[int, int]).decode
_decode_owner = msgspec.msgpack.Decoder(str).decode


class Cache(Protocol):
    """A partition's table, in a file of this machine: a copy of the ``state`` topic up to an offset.

    ``as_of_ms`` is when the topic ended there. Later deletions are still in the topic for as long as it keeps
    tombstones: a copy that is older than that would bring deleted keys back.
    """

    offset: int  # of the first record of ``state`` that the table may not have
    as_of_ms: int  # 0: it is not whole

    @property
    def table(self) -> Table:
        """What it has."""

    def write(self, pairs: list[tuple[bytes, bytes | None]], offset: int, as_of_ms: int) -> None:
        """Bring the table up to date."""

    def clear(self) -> None:
        """Forget everything."""


class _Owned:
    """A partition that is owned here."""

    __slots__ = ("cache", "positions", "starts")

    def __init__(self, cache: Cache, positions: dict[str, int]) -> None:
        self.cache, self.positions = cache, positions
        self.starts: deque[tuple[int, int, int]] = deque()  # turn, the first offset that it has in ``state``, when


class KafkaLog:
    """The partitions that one process owns.

    ``name`` is the process's, stable over restarts; ``tombstones_ms`` is for how long the ``state`` topic keeps them.
    """

    def __init__(
        self, broker: Broker, name: str, cache: Callable[[int], Cache], *, now_ms: Callable[[], int],
        tombstones_ms: int,
    ) -> None:  # fmt: skip
        self._broker, self._name, self._open_cache = broker, name, cache
        self._now_ms, self._tombstones_ms = now_ms, tombstones_ms
        self._owned: dict[int, _Owned] = {}
        self._token: object = None
        self._registered = 0  # the registry is read up to here
        self.registry: dict[bytes, bytes] = {}  # what every process knows, as far as it was read

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have somebody told when there may be something new to take."""
        self._broker.on_change(callback)

    async def poll(self) -> tuple[int, ...] | None:
        """Take part in the group. Returns all partitions owned from now on, where that has changed.

        Nothing of the partitions owned before may be committed any more: those that stay are loaded again.
        """
        assigned = await self._broker.poll()
        if assigned is None:
            return None
        self._owned.clear()
        self._token = assigned.token
        return assigned.partitions

    async def load(self, partition: int) -> LoadedState:
        """Read a partition's state, to its true end."""
        broker, state = self._broker, Place(STATE, partition)
        asked_ms = self._now_ms()
        end = await broker.end(state)  # of everything written: what is committed lags behind
        cache = self._open_cache(partition)
        if asked_ms - cache.as_of_ms > self._tombstones_ms // 2:
            cache.clear()
        await self._read_state(cache, state, end)
        cache.write([], cache.offset, asked_ms)
        await broker.append([Produced(Place(REGISTRY, 0), b"owner/%d" % partition, _encode(self._name))])
        head = cache.table.get(keys.HEAD)
        turn, now_ms = (0, 0) if head is None else _decode_head(head)
        positions = {topic: _position(cache.table, topic) for topic in INPUTS}
        self._owned[partition] = _Owned(cache, positions)
        return LoadedState(turn=turn, now_ms=now_ms, table=cache.table)

    async def take(self, partition: int) -> list[Input]:
        """Read what waits for a partition: events, and before them everything that came to its inbox before them."""
        positions = self._owned[partition].positions
        before = positions[EVENTS]
        events = await self._fetch(partition, EVENTS)
        if events:
            await self.read_registry()
            end = await self._broker.end(Place(INBOX, partition))
        else:
            end = 0
        inbox = fetched = await self._fetch(partition, INBOX)
        while fetched and positions[INBOX] < end:
            fetched = await self._fetch(partition, INBOX)
            inbox = inbox + fetched
        if positions[INBOX] < end:  # a transaction is open there; its end may be up to this process, so it cannot wait
            positions[EVENTS], events = before, []
        return [
            Input(fetched.place.topic, fetched.offset, _decode_message(fetched.value))
            for fetched in [*inbox, *events]
            if fetched.value is not None
        ]

    async def commit(self, turns: Mapping[int, Turn]) -> None:
        """Make turns of several partitions durable, all or none.

        After an error nothing is known: ``renew``, and load every partition again.
        """
        records: list[Produced] = []
        positions: dict[Place, int] = {}
        for partition, turn in turns.items():
            records += _records(partition, turn)
            for topic in INPUTS:
                positions[Place(topic, partition)] = self._owned[partition].positions[topic]
        registered = [record for turn in turns.values() for record in turn.registered]
        if registered:  # before what needs it: whoever routes an event that was sent later knows of it
            await self._broker.append([Produced(Place(REGISTRY, 0), key, value) for key, value in registered])
        first = await self._broker.transact(records, positions, self._token)
        for partition, turn in turns.items():
            _written(self._owned[partition], turn, first[Place(STATE, partition)])

    async def append(self, events: list[EventAccepted], partitions: int) -> None:
        """Write events for their partitions to route."""
        await self._broker.append(
            [Produced(Place(EVENTS, e.slot % partitions), e.internal_id, _encode(e)) for e in events]
        )

    async def renew(self) -> None:
        """Begin again after an error: what the old producer left is ended, and what was owned is to be loaded."""
        self._owned.clear()
        await self._broker.renew()

    async def read_registry(self) -> None:
        """Read what every process knows, up to what was written before this was asked."""
        place = Place(REGISTRY, 0)
        end = await self._broker.end(place)
        while self._registered < end:
            fetched, self._registered = await self._broker.read(place, self._registered)
            self.registry.update((f.key, f.value) for f in fetched if f.value is not None)

    async def _fetch(self, partition: int, topic: str) -> list[Fetched]:
        positions = self._owned[partition].positions
        fetched, positions[topic] = await self._broker.read(Place(topic, partition), positions[topic])
        return fetched

    async def _read_state(self, cache: Cache, place: Place, end: int) -> None:
        position, stuck_s = cache.offset, 0.0
        while position < end:
            fetched, after = await self._broker.read(place, position)
            if after > position:
                cache.write([(f.key, f.value) for f in fetched], after, 0)
                position, stuck_s = after, 0.0
                continue
            if stuck_s >= HANGING_S:
                await self._end_hanging(place.partition)
                stuck_s = 0.0
            await asyncio.sleep(POLL_S)
            stuck_s += POLL_S

    async def _end_hanging(self, partition: int) -> None:
        """The last owner has left a transaction open, which hides what was written after it began."""
        await self.read_registry()
        owner = self.registry.get(b"owner/%d" % partition)
        if owner is not None:
            name = _decode_owner(owner)
            await (self._broker.renew() if name == self._name else self._broker.fence(name))


def event_of(record: Fetched) -> EventAccepted:
    """Read a record of ``events``."""
    assert record.value is not None, "events are not deleted by key"
    return _decode_event(record.value)


def _written(owned: _Owned, turn: Turn, offset: int) -> None:
    """The table may know of a turn, now that it is committed."""
    owned.starts.append((turn.number, offset, turn.now_ms))
    while owned.starts[0][0] < min(turn.state.redo_from, turn.number):
        owned.starts.popleft()
    if turn.state.flush:
        _, offset, as_of_ms = owned.starts[0]
        owned.cache.write(turn.state.flush, offset, as_of_ms)


def _records(partition: int, turn: Turn) -> list[Produced]:
    """What a turn writes."""
    state, journal = Place(STATE, partition), Place(JOURNAL, partition)
    return [
        Produced(state, keys.HEAD, _encode((turn.number, turn.now_ms))),
        *[Produced(state, key, value) for key, value in turn.state.changes.items()],
        *[Produced(journal, b"", record) for record in turn.records],
        *[Produced(Place(_topic(message), to), b"", _encode(message)) for to, message in turn.outbox],
    ]


def _topic(message: Message) -> str:
    return EVENTS if isinstance(message, EventAccepted) else INBOX


def _position(table: Table, topic: str) -> int:
    """Where to go on reading. The state says it; the group's own offsets are for fencing, and for tools."""
    value = table.get(keys.position(topic))
    return 0 if value is None else int.from_bytes(value, "big")
