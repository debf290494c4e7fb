"""The log on Kafka: the rules of kafka.md, over a port that a client implements (``log/broker.py``).

A partition's owners live in the topics ``state`` and ``redo`` (``log/redo.py``), written by transactions that also hold
the journal, the messages to other partitions and the positions reached. Transactions are used, never trusted alone: the
positions that stand among the state are the truth, and generations make it harmless to decide again.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from steplog.engine import keys
from steplog.engine.messages import EventAccepted, Input
from steplog.engine.operations import Produce
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.state import Table
from steplog.errors import SteplogError
from steplog.log import encoding, moves
from steplog.log.broker import Assigned, Broker, BrokerError, Fetched, Place, Produced, Refused
from steplog.log.redo import START, Changes, Replay, decode_redo, redo_key, redo_place, redo_records
from steplog.log.targets import Targets
from steplog.log.topics import EVENTS, INBOX, JOURNAL, REGISTRY, STATE, shared

INPUTS = (INBOX, EVENTS)  # the inbox first: what was told before an event was sent is known when it is routed
HANGING_S = 1.0  # a watermark that stays ahead of what is committed for so long: a dead owner's transaction hangs
READ_S = 0.05
STUCK_S = 30.0  # longer than a transaction may be open
MOST_REDO = 50_000  # records that a partition may have others keep
_REGISTRY = Place(REGISTRY, 0)
_REDO = b"redo/"

_decode_head = msgspec.msgpack.Decoder(tuple[int, int]).decode


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

        They are of the redo: until they are in ``state`` a key may vanish, and nothing would tell a copy of it.
        """

    def uncover(self) -> None:
        """Show what was written alone."""

    def clear(self) -> None:
        """Forget everything."""


class _Owned:
    """A partition that is owned here."""

    __slots__ = (
        "cache", "committed", "held", "held_until", "inputs", "is_due", "is_proven", "owed", "positions", "registered",
        "start", "starts",
    )  # fmt: skip

    def __init__(self, partition: int, cache: Cache, owed: Changes) -> None:
        self.cache = cache
        self.inputs = [Place(topic, partition) for topic in INPUTS]
        self.owed = owed  # what the next turn has to write besides its own
        self.positions = {topic: _position(cache.table, topic) for topic in INPUTS}  # up to which it was read
        self.committed = dict(self.positions)  # and decided
        self.held: list[Fetched] = []  # events that wait for what was told before
        self.held_until = 0  # the inbox was read so far
        self.starts: deque[tuple[int, int]] = deque()  # turns, and no later offset than that of their redo
        self.start = _start(cache.table)  # of its redo, as its state says
        self.registered = 0  # the same, as the registry says
        self.is_due = False  # its state is to say it anew
        self.is_proven = False  # a commit has shown since that it was owned when it was loaded


class KafkaLog:
    """The partitions that one process owns, of ``partitions`` in all.

    ``name`` is the process's, stable over restarts; ``tombstones_ms`` is for how long the ``state`` topic keeps them.
    ``on_progress`` is told how much of a partition's state was read, and how much there is.
    """

    def __init__(
        self, broker: Broker, name: str, cache: Callable[[int], Cache], *, partitions: int, now_ms: Callable[[], int],
        tombstones_ms: int, on_progress: Callable[[int, int, int], None] = lambda *_: None, most_redo: int = MOST_REDO,
    ) -> None:  # fmt: skip
        self._broker, self._name, self._open_cache = broker, name, cache
        self._partitions, self._now_ms, self._tombstones_ms = partitions, now_ms, tombstones_ms
        self._on_progress, self._most_redo = on_progress, most_redo
        self._owned: dict[int, _Owned] = {}
        self._token: object = None
        self._owner = encoding.encode_owner(name)
        self._process_key = b"process/" + name.encode()
        self._redo_ends: dict[Place, int] = {}  # no later than where they end
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
        """Which of some partitions are as they were left here: nobody else has loaded them since.

        A process that has lost them without knowing may have loaded them again: their owner, who was there before, has
        gone on and says nothing. So only what was committed after a load shows that nobody was.
        """
        await self.read_registry()
        proven = [p for p in partitions if (owned := self._owned.get(p)) is not None and owned.is_proven]
        return [p for p in proven if self.registry.get(_owner_key(p)) == self._owner]

    def release(self, partitions: Iterable[int]) -> None:
        """Forget partitions."""
        for partition in partitions:
            self._owned.pop(partition, None)
            for topic in INPUTS:
                self._broker.forget(Place(topic, partition))

    async def load(self, partitions: Sequence[int]) -> dict[int, LoadedState]:
        """Read the state of partitions, to its true end."""
        asked_ms = self._now_ms()
        states = {Place(STATE, p): p for p in partitions}
        redo = dict.fromkeys([self._redo(p) for p in partitions])
        ends = await self._broker.ends([*states, *redo])  # of everything written: what is committed lags behind
        caches = {p: self._open_cache(p) for p in partitions}
        for cache in caches.values():
            cache.uncover()
            if asked_ms - cache.as_of_ms > self._tombstones_ms // 2:
                cache.clear()
        await _all([self._read_state(caches[p], place, ends[place], asked_ms) for place, p in states.items()])
        replays = {p: Replay() for p in partitions}
        starts = {place: min(_start(caches[p].table) for p in partitions if self._redo(p) == place) for place in redo}
        await _all([self._read_redo(place, first, ends[place], replays) for place, first in starts.items()])
        await self._broker.append([Produced(_REGISTRY, _owner_key(p), self._owner) for p in partitions])
        self._redo_ends.update({place: ends[place] for place in redo})
        return {p: self._loaded(p, caches[p], replays[p]) for p in partitions}

    def _loaded(self, partition: int, cache: Cache, replay: Replay) -> LoadedState:
        owed = replay.changes()
        if owed:
            cache.overlay(sorted(owed.items()))
        turn, now_ms = replay.head or _stored_head(cache.table)
        self._owned[partition] = _Owned(partition, cache, owed)
        return LoadedState(turn=turn, now_ms=now_ms, table=cache.table)

    async def take(self, partitions: Iterable[int]) -> dict[int, list[Input]]:
        """Read what waits for partitions: events, and before them everything that came to the inbox before them.

        An event that a transaction in the inbox may concern is held until the outcome of that is known.
        """
        owned = {partition: self._owned[partition] for partition in partitions if not self._is_idle(partition)}
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
        leaving = {
            partition: self._leaving(self._owned[partition], partition, turn) for partition, turn in turns.items()
        }
        for partition, turn in turns.items():
            records += [Produced(Place(STATE, partition), key, value) for key, value in leaving[partition].items()]
            records += redo_records(self._redo(partition), partition, turn)
            records += self._told(partition, turn)
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
        ends = {place: offset + written[place] for place, offset in first.items()}
        for partition, turn in turns.items():
            redo, state = self._redo(partition), Place(STATE, partition)
            self._redo_ends[redo] = ends[redo]
            self._owned[partition].starts.append((turn.number, first[redo]))
            _written(self._owned[partition], turn, leaving[partition], ends.get(state, 0))
        for owned in self._owned.values():
            owned.is_proven = True
        self._reach(ends)

    def _leaving(self, owned: _Owned, partition: int, turn: Turn) -> Changes:
        """What of the state leaves the redo with a turn."""
        needed = min(turn.state.redo_from, turn.number)  # the last one says which turn it is, and when
        while owned.starts and owned.starts[0][0] < needed:
            owned.starts.popleft()
        if not (owned.owed or turn.state.flush or owned.is_due):
            return {}
        start = owned.starts[0][1] if owned.starts else self._redo_ends[self._redo(partition)]
        return {**owned.owed, **dict(turn.state.flush), START: keys.number(start)}

    def _told(self, partition: int, turn: Turn) -> list[Produced]:
        """What others are told by a turn."""
        journal = Place(JOURNAL, partition % shared(self._partitions))
        return [
            *[encoding.journal(journal, record) for record in turn.records],
            *[encoding.produced(to, message) for to, message in turn.outbox],
            *[encoding.foreign(record) for record in turn.produced],
            *[encoding.dead(partition, each, turn.now_ms) for each in turn.dead],
        ]

    async def problem(self, record: Produce) -> SteplogError | None:
        """Say why a record for a topic of others cannot be written, if it cannot."""
        return await self._targets.problem(record)

    async def append(self, events: list[EventAccepted]) -> dict[Place, int]:
        """Write events for their partitions to route; returns the offset behind the last one in each place."""
        ends = await self._broker.append([encoding.produced(e.slot % self._partitions, e) for e in events])
        self._reach(ends)
        return ends

    async def announce(self) -> None:
        """Say that this process has its name from now on."""
        await self.register(self._process_key, self._owner)

    async def is_replaced(self) -> bool:
        """Whether another process has taken the name since."""
        await self.read_registry()
        return self.registry.get(self._process_key, self._owner) != self._owner

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
        """See whether reading goes on: where it does not though there is more, it begins anew, and this says so.

        Raises ``BrokerError`` where the cluster does not answer, also to a process that owns nothing.
        """
        read = {Place(topic, p): each.positions[topic] for p, each in self._owned.items() for topic in INPUTS}
        ends = await self._broker.ends([_REGISTRY, *read])
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

    async def shorten(self) -> list[int]:
        """Delete redo that no partition needs, and see to it that less is needed.

        Returns the partitions that hold the others up because nothing happens there: a turn is to write all they have.
        """
        places = {self._redo(p) for p in self._owned}
        self._redo_ends.update(await self._broker.ends(list(places)))
        idle = []
        for partition, owned in self._owned.items():
            oldest = owned.starts[0][1] if owned.starts else owned.start
            if self._redo_ends[self._redo(partition)] - oldest > self._most_redo:
                idle.append(partition)
            owned.is_due = owned.is_due or oldest > owned.start
        moved = {p: each for p, each in self._owned.items() if each.start > each.registered}
        await self._broker.append([Produced(_REGISTRY, _redo_key(p), keys.number(e.start)) for p, e in moved.items()])
        for each in moved.values():
            each.registered = each.start
        await self.read_registry()
        needed = {
            place: min(self._needed_from(p) for p in range(self._partitions) if self._redo(p) == place)
            for place in places
        }
        await self._broker.trim({place: offset for place, offset in needed.items() if offset > 0})
        return idle

    def _needed_from(self, partition: int) -> int:
        return _number(self.registry.get(_redo_key(partition)))

    def _redo(self, partition: int) -> Place:
        return redo_place(partition, self._partitions)

    def _reach(self, ends: Mapping[Place, int]) -> None:
        for place, end in ends.items():
            if place.topic in (EVENTS, JOURNAL):
                self.reached[place] = max(self.reached.get(place, 0), end)

    def _is_idle(self, partition: int) -> bool:
        """Whether nothing waits for a partition, as far as is known here."""
        owned = self._owned[partition]
        return not owned.held and all(self._broker.is_at_end(p, owned.positions[p.topic]) for p in owned.inputs)

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
                self.registry_version += sum(not each.key.startswith(_REDO) for each in fetched)
                for each in fetched:
                    if each.value is None:
                        self.registry.pop(each.key, None)
                    else:
                        self.registry[each.key] = each.value

    async def _read_state(self, cache: Cache, place: Place, end: int, asked_ms: int) -> None:
        first = cache.offset

        def take(fetched: list[Fetched], after: int) -> None:
            cache.write(list({f.key: f.value for f in fetched}.items()), after, 0)  # the last of each key
            self._on_progress(place.partition, after - first, end - first)

        await self._read(place, first, end, take, [place.partition])
        cache.write([], cache.offset, asked_ms)

    async def _read_redo(self, place: Place, first: int, end: int, replays: dict[int, Replay]) -> None:
        wanted = {redo_key(p): replay for p, replay in replays.items() if self._redo(p) == place}

        def take(fetched: list[Fetched], _: int) -> None:
            for each in fetched:
                replay = wanted.get(each.key)
                if replay is not None and each.value is not None:
                    replay.add(decode_redo(each.value))

        await self._read(place, first, end, take, [p for p in replays if self._redo(p) == place])

    async def _read(
        self, place: Place, first: int, end: int, take: Callable[[list[Fetched], int], None], partitions: list[int]
    ) -> None:  # fmt: skip
        """Read everything that is committed between two offsets, whatever the last owners have left open."""
        offset, stuck_s, loop = first, 0.0, asyncio.get_running_loop()
        while offset < end:
            began_s = loop.time()
            fetched, after = await self._broker.read(place, offset, wait_s=READ_S)
            if after > offset:
                take(fetched, after)
                offset, stuck_s = after, 0.0
                continue
            if stuck_s >= HANGING_S:
                await self._end_hanging(partitions)
                partitions = [p for p in range(self._partitions) if place in (Place(STATE, p), self._redo(p))]
                stuck_s = 0.0
            stuck_s += loop.time() - began_s
        self._broker.forget(place)

    async def _end_hanging(self, partitions: Sequence[int]) -> None:
        """A last owner has left a transaction open, which hides what was written after it began."""
        await self.read_registry()
        owners = [self.registry.get(_owner_key(partition)) for partition in partitions]
        for name in dict.fromkeys([encoding.decode_owner(owner).node for owner in owners if owner is not None]):
            await (self._broker.renew() if name == self._name else self._broker.fence(name))


def _written(owned: _Owned, turn: Turn, leaving: Changes, state_end: int) -> None:
    """The table may know of a turn, now that it is committed."""
    owned.committed.update(turn.taken)
    if leaving:
        start = leaving[START]
        owned.start = _number(start)
        owned.owed, owned.is_due = {}, False  # its overlay is kept, or there is none
        owned.cache.write([*turn.state.flush, (START, start)], state_end, turn.now_ms)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; where one fails, none of the others goes on."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(call)
    except* BrokerError as errors:
        raise errors.exceptions[0] from None


def _owner_key(partition: int) -> bytes:
    return b"owner/%d" % partition


def _redo_key(partition: int) -> bytes:
    return _REDO + b"%d" % partition


def _start(table: Table) -> int:
    """Where a partition's redo begins."""
    return _number(table.get(START))


def _stored_head(table: Table) -> tuple[int, int]:
    """Turn and time of a log that was moved here, and has committed nothing since."""
    head = table.get(keys.HEAD)
    return (0, 0) if head is None else _decode_head(head)


def _position(table: Table, topic: str) -> int:
    """Where to go on reading. The state says it; the group's own offsets are for fencing, and for tools."""
    return _number(table.get(keys.position(topic)))


def _number(value: bytes | None) -> int:
    """Read an offset (``keys.number``); 0 where none is written."""
    return 0 if value is None else int.from_bytes(value, "big")
