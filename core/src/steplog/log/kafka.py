"""The log on Kafka: the rules of kafka.md, over a port that a client implements (``log/broker.py``).

A partition's owners live in the compacted ``state`` topic (``log/redo.py``), written by transactions that also hold the
journal, the messages to other partitions and the positions reached. Transactions are used, never trusted alone: the
positions that stand among the state are the truth, and generations make it harmless to decide again.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from steplog.engine import keys
from steplog.engine.messages import EventAccepted, Input
from steplog.engine.operations import Produce
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.state import Table
from steplog.errors import SteplogError
from steplog.log import encoding, moves
from steplog.log.broker import Assigned, Broker, Fetched, Place, Produced, Refused
from steplog.log.redo import Changes, Replay, redo_records
from steplog.log.targets import Targets
from steplog.log.topics import EVENTS, INBOX, JOURNAL, REGISTRY, STATE

INPUTS = (INBOX, EVENTS)  # the inbox first: what was told before an event was sent is known when it is routed
HANGING_S = 1.0  # a watermark that stays ahead of what is committed for so long: a dead owner's transaction hangs
READ_S = 0.05
STUCK_S = 30.0  # longer than a transaction may be open
_REGISTRY = Place(REGISTRY, 0)

_encode = msgspec.msgpack.Encoder().encode
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
        """Bring the table up to date. No key comes twice."""

    def overlay(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        """Show other values in the table, which stay with the next ``write``, and only then.

        They are of the redo: without a record of its own a key may vanish, and nothing tells a copy of it.
        """

    def uncover(self) -> None:
        """Show what was written alone."""

    def clear(self) -> None:
        """Forget everything."""


class _Owned:
    """A partition that is owned here."""

    __slots__ = ("cache", "committed", "end", "held", "held_until", "owed", "positions", "redo", "starts")

    def __init__(self, cache: Cache, replay: Replay, positions: dict[str, int], end: int) -> None:
        self.cache = cache
        self.owed: Changes = replay.owed()  # what the next turn has to write besides its own
        self.redo = deque(replay.keys)  # redo records that are still there
        self.end = end  # of its state, as it was left here
        self.positions = positions  # up to which it was read
        self.committed = dict(positions)  # and decided
        self.held: list[Fetched] = []  # events that wait for what was told before
        self.held_until = 0  # the inbox was read so far
        self.starts: deque[tuple[int, int, int]] = deque()  # turn, the first offset that it has in ``state``, when


class KafkaLog:
    """The partitions that one process owns, of ``partitions`` in all.

    ``name`` is the process's, stable over restarts; ``tombstones_ms`` is for how long the ``state`` topic keeps them.
    ``on_progress`` is told how much of a partition's state was read, and how much there is.
    """

    def __init__(
        self, broker: Broker, name: str, cache: Callable[[int], Cache], *, partitions: int, now_ms: Callable[[], int],
        tombstones_ms: int, on_progress: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        self._broker, self._name, self._open_cache = broker, name, cache
        self._partitions, self._now_ms, self._tombstones_ms = partitions, now_ms, tombstones_ms
        self._on_progress = on_progress
        self._owned: dict[int, _Owned] = {}
        self._token: object = None
        self._targets = Targets(broker.describe, now_ms)
        self._registered = 0  # the registry is read up to here
        self._registry_lock = asyncio.Lock()  # around reading it
        self.registry: dict[bytes, bytes] = {}  # what every process knows, as far as it was read
        self.registry_version = 0  # rises with every change of it
        self._behind: dict[Place, tuple[int, float]] = {}  # where reading has come, and since when, where there is more
        self.reached: dict[Place, int] = {}  # of events and journal: the offset behind the last record of ours

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have somebody told when there may be something new to take."""
        self._broker.on_change(callback)

    async def poll(self) -> Assigned | None:
        """Take part in the group. Returns what is owned from now on, where that has changed.

        Without a token it is not known yet: nothing may be committed until it is.
        """
        assigned = await self._broker.poll()
        if assigned is not None:
            self._token = assigned.token
        return assigned

    async def kept(self, partitions: Iterable[int]) -> list[int]:
        """Which of some partitions are as they were left here: nobody else has written their state since."""
        left = {Place(STATE, p): self._owned[p].end for p in partitions if p in self._owned}
        ends = await self._broker.ends(list(left)) if left else {}
        # The mark of our last transaction may be written or not; who comes after it has waited for it, and writes more.
        return [place.partition for place, end in left.items() if ends[place] in (end, end + self._broker.marks)]

    def release(self, partitions: Iterable[int]) -> None:
        """Forget partitions."""
        for partition in partitions:
            self._owned.pop(partition, None)
            for topic in INPUTS:
                self._broker.forget(Place(topic, partition))

    async def load(self, partition: int) -> LoadedState:
        """Read a partition's state, to its true end."""
        broker, state = self._broker, Place(STATE, partition)
        asked_ms = self._now_ms()
        end = (await broker.ends([state]))[state]  # of everything written: what is committed lags behind
        cache = self._open_cache(partition)
        cache.uncover()
        if asked_ms - cache.as_of_ms > self._tombstones_ms // 2:
            cache.clear()
        replay = await self._read_state(cache, state, end)
        cache.write([], end if replay.offset is None else replay.offset, asked_ms)
        await broker.append([Produced(_REGISTRY, b"owner/%d" % partition, _encode(self._name))])
        if owed := replay.owed():
            cache.overlay(sorted(owed.items()))
        turn, now_ms = replay.head or _stored_head(cache.table)
        positions = {topic: _position(cache.table, topic) for topic in INPUTS}
        self._owned[partition] = _Owned(cache, replay, positions, end)
        return LoadedState(turn=turn, now_ms=now_ms, table=cache.table)

    async def take(self, partitions: Iterable[int]) -> dict[int, list[Input]]:
        """Read what waits for partitions: events, and before them everything that came to the inbox before them.

        An event that a transaction in the inbox may concern is held until the outcome of that is known.
        """
        owned = {partition: self._owned[partition] for partition in partitions}
        fresh = []
        for partition, each in owned.items():
            if not each.held:
                each.held = await self._fetch(partition, EVENTS)
                if each.held:
                    fresh.append(partition)
        if fresh:
            ends = await self._broker.ends([_REGISTRY, *[Place(INBOX, partition) for partition in fresh]])
            for partition in fresh:
                owned[partition].held_until = ends[Place(INBOX, partition)]
            await self._read_registry(ends[_REGISTRY])
        return {partition: await self._take(partition, each) for partition, each in owned.items()}

    async def commit(self, turns: Mapping[int, Turn]) -> None:
        """Make turns of several partitions durable, all or none.

        After an error nothing is known: ``renew``, and load every partition again.
        """
        records: list[Produced] = []
        positions: dict[Place, int] = {}
        for partition, turn in turns.items():
            records += _records(partition, self._owned[partition], turn)
            committed = {EVENTS: self._owned[partition].committed[EVENTS], **turn.taken}  # one at least: it fences
            positions.update({Place(topic, partition): offset for topic, offset in committed.items()})
        registered = [record for turn in turns.values() for record in turn.registered]
        if registered:  # before what needs it: whoever routes an event that was sent later knows of it
            await self._broker.append([Produced(_REGISTRY, key, value) for key, value in registered])
        try:
            first = await self._broker.transact(records, positions, self._token)
        except Refused as error:
            self._targets.refused(error.topic, error.reason)
            raise
        written = Counter([record.place for record in records])
        for partition, turn in turns.items():
            state = Place(STATE, partition)
            _written(self._owned[partition], turn, first[state])
            self._owned[partition].end = first[state] + written[state]
        self._reach({place: offset + written[place] for place, offset in first.items()})

    async def problem(self, record: Produce) -> SteplogError | None:
        """Say why a record for a topic of others cannot be written, if it cannot."""
        return await self._targets.problem(record)

    async def append(self, events: list[EventAccepted]) -> dict[Place, int]:
        """Write events for their partitions to route; returns the offset behind the last one in each place."""
        ends = await self._broker.append([encoding.produced(e.slot % self._partitions, e) for e in events])
        self._reach(ends)
        return ends

    async def register(self, key: bytes, value: bytes) -> None:
        """Tell every process something."""
        await self._broker.append([Produced(_REGISTRY, key, value)])

    async def renew(self) -> None:
        """Begin again after an error: what the old producer left is ended, and what was owned is to be loaded."""
        self._owned.clear()
        self._targets.forget()
        await self._broker.renew()

    async def read_registry(self) -> None:
        """Read what every process knows, up to what was written before this was asked.

        Raises ``LogMoved`` for a log that is, or was, moved elsewhere.
        """
        await self._read_registry((await self._broker.ends([_REGISTRY]))[_REGISTRY])
        mark = self.registry.get(moves.KEY)
        if mark is not None:
            raise moves.refusal(moves.decode_move(mark))

    async def watch(self, now_s: float) -> str | None:
        """See whether reading goes on: where it does not though there is more, it begins anew, and this says so."""
        read = {Place(topic, p): each.positions[topic] for p, each in self._owned.items() for topic in INPUTS}
        ends = await self._broker.ends(list(read))
        behind = {place: offset for place, offset in read.items() if offset < ends[place]}
        self._behind = {
            place: self._behind[place] if self._behind.get(place, (-1, 0.0))[0] == offset else (offset, now_s)
            for place, offset in behind.items()
        }
        stuck = [place for place, (_, since_s) in self._behind.items() if now_s - since_s > STUCK_S]
        if not stuck:
            return None
        self._behind.clear()
        self._broker.reopen()
        names = ", ".join(f"{place.topic} [{place.partition}]" for place in stuck)
        return f"nothing was read of {names} for {STUCK_S:.0f} s, though there is more; the connection is made anew"

    async def trim(self) -> None:
        """Delete what was handled of the inboxes."""
        await self._broker.trim({Place(INBOX, p): each.committed[INBOX] for p, each in self._owned.items()})

    def _reach(self, ends: Mapping[Place, int]) -> None:
        for place, end in ends.items():
            if place.topic in (EVENTS, JOURNAL):
                self.reached[place] = max(self.reached.get(place, 0), end)

    async def _take(self, partition: int, owned: _Owned) -> list[Input]:
        inbox = fetched = await self._fetch(partition, INBOX)
        while fetched and owned.positions[INBOX] < owned.held_until:
            fetched = await self._fetch(partition, INBOX)
            inbox = inbox + fetched
        given = inbox
        if owned.held and owned.positions[INBOX] >= owned.held_until:  # else a transaction is open there
            given, owned.held = [*inbox, *owned.held], []
        understood = [(each, encoding.understood(each, self._partitions)) for each in given]
        return [Input(each.place.topic, each.offset, message) for each, message in understood if message is not None]

    async def _fetch(self, partition: int, topic: str) -> list[Fetched]:
        positions = self._owned[partition].positions
        fetched, positions[topic] = await self._broker.read(Place(topic, partition), positions[topic])
        return fetched

    async def _read_registry(self, end: int) -> None:
        async with self._registry_lock:
            while self._registered < end:
                fetched, self._registered = await self._broker.read(_REGISTRY, self._registered, wait_s=READ_S)
                self.registry_version += len(fetched)
                for each in fetched:
                    if each.value is None:
                        self.registry.pop(each.key, None)
                    else:
                        self.registry[each.key] = each.value

    async def _read_state(self, cache: Cache, place: Place, end: int) -> Replay:
        replay, first, stuck_s, loop = Replay(), cache.offset, 0.0, asyncio.get_running_loop()
        while cache.offset < end:
            began_s = loop.time()
            fetched, after = await self._broker.read(place, cache.offset, wait_s=READ_S)
            if after > cache.offset:
                cache.write(list(replay.take(fetched).items()), after, 0)
                stuck_s = 0.0
                self._on_progress(place.partition, cache.offset - first, end - first)
                continue
            if stuck_s >= HANGING_S:
                await self._end_hanging(place.partition)
                stuck_s = 0.0
            stuck_s += loop.time() - began_s
        self._broker.forget(place)
        return replay

    async def _end_hanging(self, partition: int) -> None:
        """The last owner has left a transaction open, which hides what was written after it began."""
        await self.read_registry()
        owner = self.registry.get(b"owner/%d" % partition)
        if owner is not None:
            name = _decode_owner(owner)
            await (self._broker.renew() if name == self._name else self._broker.fence(name))


def _written(owned: _Owned, turn: Turn, offset: int) -> None:
    """The table may know of a turn, now that it is committed."""
    owned.committed.update(turn.taken)
    owned.starts.append((turn.number, offset, turn.now_ms))
    while owned.starts[0][0] < min(turn.state.redo_from, turn.number):
        owned.starts.popleft()
    if turn.state.flush or owned.owed:
        _, offset, as_of_ms = owned.starts[0]
        owned.owed = {}
        owned.cache.write(turn.state.flush, offset, as_of_ms)


def _records(partition: int, owned: _Owned, turn: Turn) -> list[Produced]:
    """What a turn writes."""
    state = Place(STATE, partition)
    return [
        *[Produced(state, key, value) for key, value in _state_records(owned, turn)],
        *[encoding.journal(partition, record) for record in turn.records],
        *[encoding.produced(to, message) for to, message in turn.outbox],
        *[encoding.foreign(record) for record in turn.produced],
        *[encoding.dead(partition, each, turn.now_ms) for each in turn.dead],
    ]


def _state_records(owned: _Owned, turn: Turn) -> list[tuple[bytes, bytes | None]]:
    """What it writes of the state: after an error ``owned`` is of no use any more."""
    needed = keys.redo(min(turn.state.redo_from, turn.number), 0)  # the last one says which turn it is, and when
    gone: Changes = {}
    while owned.redo and owned.redo[0] < needed:
        gone[owned.redo.popleft()] = None
    leaving = {**owned.owed, **dict(turn.state.flush)}
    redo = redo_records(turn)
    owned.redo.extend([key for key, _ in redo])
    return [*leaving.items(), *gone.items(), *redo]


def _stored_head(table: Table) -> tuple[int, int]:
    """Turn and time of a log that was moved here, and has committed nothing since."""
    head = table.get(keys.HEAD)
    return (0, 0) if head is None else _decode_head(head)


def _position(table: Table, topic: str) -> int:
    """Where to go on reading. The state says it; the group's own offsets are for fencing, and for tools."""
    value = table.get(keys.position(topic))
    return 0 if value is None else int.from_bytes(value, "big")
