"""A Kafka cluster in memory, as unpleasant as a real one: what a commit has decided shows late and bit by bit, answers
are lost, the dead leave transactions open, and a process that was away too long goes on as if it still owned something.

Its time is the event loop's. ``Cluster`` is what all processes share, ``Connection`` what one process has of it.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from steplog.engine.ids import hash16
from steplog.log.broker import (
    ANY_PARTITION,
    Assigned,
    BrokerError,
    Fenced,
    Fetched,
    Headers,
    OffsetOutOfRange,
    Place,
    Produced,
    Refused,
    Target,
)
from steplog.log.client import ALTERNATING
from steplog.log.kafka import INPUTS

from .plans import START_MS

SESSION_S = 6.0  # a process that does nothing for so long is put out of the group
TRANSACTION_S = 10.0  # an open transaction is ended by the cluster after so long
MOST_READ = 7  # records at once
MISSING = "missing"  # the topic that is not there
FOREIGN_PARTITIONS, FOREIGN_BYTES = 3, 1 << 20


class Transaction(msgspec.Struct, eq=False):
    """Of a producer. Its outcome is decided at once, and reaches each place later."""

    name: str
    epoch: int
    began_s: float
    outcome: str | None = None  # committed | aborted
    landed: set[Place] = msgspec.field(default_factory=set)


class Entry(msgspec.Struct, eq=False):
    """A record in a topic."""

    key: bytes
    value: bytes | None
    transaction: Transaction | None
    at_s: float
    headers: Headers = ()
    is_gone: bool = False  # by compaction

    def is_pending(self, place: Place) -> bool:
        """Whether readers of what is committed have to stop before it."""
        return self.transaction is not None and place not in self.transaction.landed

    @property
    def is_committed(self) -> bool:
        return self.transaction is None or self.transaction.outcome == "committed"


class Troubles(msgspec.Struct, frozen=True, kw_only=True):
    """How often what goes wrong."""

    fails_before: float = 0.0  # a call that has done nothing
    fails_after: float = 0.0  # a call whose answer is lost
    stalls: float = 0.0  # a call after which the process does nothing for longer than its session
    refuses: float = 0.0  # a record by its topic, which is not steplog's
    reading_stalls: float = 0.0  # a stall of who reads events back; it is no member of the group
    slow_s: float = 0.01  # the longest way to the cluster and back
    lands_s: float = 0.05  # how late an outcome reaches a place


class Cluster:
    """The topics, the transactions and the group."""

    def __init__(self, chance: Random, partitions: int, troubles: Troubles, fired: Callable[[str], None]) -> None:
        self.chance, self.partitions, self.troubles, self.fired = chance, partitions, troubles, fired
        self.logs: dict[Place, list[Entry]] = {}
        self.is_calm = False
        self._stable: dict[Place, int] = {}
        self._first: dict[Place, int] = {}
        self.listeners: dict[str, Callable[[], None]] = {}  # told when there may be something new
        self.appended: Callable[[Sequence[Produced]], None] = lambda _: None  # told of what is written outside them
        self.committed: Callable[[Transaction], None] = lambda _: None  # told of each commit
        self._epochs: dict[str, int] = {}
        self._open: dict[str, Transaction] = {}
        self._records: dict[int, list[tuple[Place, Entry]]] = {}  # of each transaction, by its id()
        self._members: dict[str, float] = {}  # name → when it was last heard of
        self._settled: dict[str, int] = {}  # name → the generation whose assignment it has
        self._given_up: set[str] = set()  # those that know that a new assignment comes
        self.generation = 0
        self._owners: dict[int, str] = {}

    # --- topics

    def log(self, place: Place) -> list[Entry]:
        return self.logs.setdefault(place, [])

    def add(self, records: Sequence[Produced], transaction: Transaction | None) -> dict[Place, int]:
        first: dict[Place, int] = {}
        for record in records:
            place = self._foreign(record) if record.is_foreign else record.place
            log = self.log(place)
            first.setdefault(place, len(log))
            entry = Entry(record.key or b"", record.value, transaction, self.now_s, record.headers)
            log.append(entry)
            if transaction is not None:
                self._records.setdefault(id(transaction), []).append((place, entry))
        if transaction is None:
            self.appended(records)
            if any(record.place.topic in INPUTS for record in records):
                self._changed()
        return first

    def _foreign(self, record: Produced) -> Place:
        """Where a record of a foreign topic goes; the names of those begin with a slash here."""
        topic, partition = record.place
        if not self.is_calm and self.chance.random() < self.troubles.refuses:
            self.fired("record refused")
            raise Refused(topic, "as the troubles have it")
        if partition == ANY_PARTITION:
            partition = hash16(record.key or b"")[0] % FOREIGN_PARTITIONS
        return Place(f"/{topic}", partition)

    def _land(self, transaction: Transaction, place: Place) -> None:
        """A place hears of a transaction's outcome."""
        transaction.landed.add(place)
        if place.topic in INPUTS:
            self._changed()

    def _changed(self) -> None:
        for listener in self.listeners.values():
            listener()

    def stable_end(self, place: Place) -> int:
        """Up to where readers of what is committed get."""
        log, end = self.log(place), self._stable.get(place, 0)  # it never goes back
        while end < len(log) and not log[end].is_pending(place):
            end += 1
        self._stable[place] = end
        return end

    def compact(self, place: Place, *, keep_tombstones_s: float) -> None:
        """Drop what a later record of the same key has replaced, and old tombstones."""
        log, latest = self.log(place), dict[bytes, int]()
        upto = self.stable_end(place)
        for offset in range(upto):
            if log[offset].is_committed:
                latest[log[offset].key] = offset
        for offset in range(upto):
            entry = log[offset]
            is_old = entry.value is None and entry.at_s < self.now_s - keep_tombstones_s
            entry.is_gone = entry.is_gone or not entry.is_committed or latest[entry.key] != offset or is_old

    def first(self, place: Place) -> int:
        """The first offset that was not deleted."""
        return self._first.get(place, 0)

    def trim(self, until: dict[Place, int]) -> None:
        for place, offset in until.items():
            assert offset <= len(self.log(place)), "a topic cannot begin behind its end"
            if offset > self.first(place):
                self._first[place] = offset
                self.fired("records deleted")

    # --- transactions

    def begin(self, name: str, epoch: int) -> Transaction:
        self.check(name, epoch)
        assert name not in self._open, "a producer has one transaction at a time"
        transaction = self._open[name] = Transaction(name, epoch, self.now_s)
        asyncio.get_running_loop().call_later(TRANSACTION_S, self._time_out, transaction)
        return transaction

    def check(self, name: str, epoch: int) -> None:
        if self._epochs.get(name) != epoch:
            raise Fenced(f"producer {name} of epoch {epoch} is fenced")

    def end(self, transaction: Transaction, outcome: str) -> None:
        """Decide a transaction; each place hears of it later."""
        if transaction.outcome is not None:
            return
        transaction.outcome = outcome
        if self._open.get(transaction.name) is transaction:
            del self._open[transaction.name]
        places = dict.fromkeys(place for place, _ in self._records.get(id(transaction), []))
        for place in places:
            delay_s = 0.0 if self.is_calm else self.chance.random() * self.troubles.lands_s
            asyncio.get_running_loop().call_later(delay_s, self._land, transaction, place)
        if outcome == "committed":
            self.committed(transaction)

    def records_of(self, transaction: Transaction) -> list[tuple[Place, Entry]]:
        return self._records.get(id(transaction), [])

    def renew(self, name: str) -> int:
        """A new epoch: the producers of earlier ones are fenced, and what they left open is ended."""
        hanging = self._open.get(name)
        if hanging is not None:
            self.fired("hanging transaction ended")
            self.end(hanging, "aborted")
        self._epochs[name] = self._epochs.get(name, 0) + 1
        return self._epochs[name]

    def _time_out(self, transaction: Transaction) -> None:
        if transaction.outcome is None:
            self.fired("transaction timed out")
            self._epochs[transaction.name] += 1
            self.end(transaction, "aborted")

    # --- the group

    def join(self, name: str) -> None:
        self._members[name] = self.now_s
        self._settled.pop(name, None)
        self._rebalance()

    def leave(self, name: str) -> None:
        """At once, or because nothing was heard for a session."""
        if name in self._members:
            del self._members[name]
            self._settled.pop(name, None)
            self._rebalance()

    def beat(self, name: str) -> None:
        """A sign of life."""
        now_s = self.now_s
        if name in self._members:
            self._members[name] = now_s
        for other, heard_s in list(self._members.items()):
            if now_s - heard_s > SESSION_S:
                self.fired("put out of the group")
                self.leave(other)

    def poll(self, name: str) -> Assigned | None:
        """A member asks; everyone has to give up what it had before anyone gets what is new."""
        if name not in self._members:
            self.join(name)
        if self._settled.get(name) == self.generation:
            return None
        self._given_up.add(name)
        if self._given_up < self._members.keys():
            return Assigned((), None) if name in self._settled and self._settled.pop(name) is not None else None
        if not self._owners:
            members = sorted(self._members)
            self._owners = {p: members[p * len(members) // self.partitions] for p in range(self.partitions)}
        self._settled[name] = self.generation
        owned = tuple(p for p, owner in self._owners.items() if owner == name)
        return Assigned(owned, (name, self.generation))

    def check_token(self, token: object) -> None:
        """The broker knows the generation, and not who owns what."""
        name, generation = token if isinstance(token, tuple) else ("", -1)
        if generation != self.generation or name not in self._members:
            raise Fenced(f"{name} decided in generation {generation}, the group is in {self.generation}")

    def _rebalance(self) -> None:
        self.generation += 1
        self._owners = {}
        self._given_up = set()
        self.fired("rebalance")
        self._changed()

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()


class Connection:
    """What one process has of the cluster (``log/broker.py``)."""

    def __init__(self, cluster: Cluster, name: str, *, is_reader: bool = False) -> None:
        self._cluster, self._name = cluster, name
        self._stalls = cluster.troubles.reading_stalls if is_reader else cluster.troubles.stalls
        self._epochs: list[int] = []  # of its producers, which take turns
        self._turns = itertools.count()
        self._has_joined = False

    def on_change(self, callback: Callable[[], None]) -> None:
        self._cluster.listeners[self._name] = callback

    async def poll(self) -> Assigned | None:
        await self._way("poll")
        if not self._has_joined:  # a new process of an old name, too
            self._has_joined = True
            self._cluster.join(self._name)
        return self._cluster.poll(self._name)

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        await self._way("read")
        cluster = self._cluster
        if cluster.stable_end(place) <= offset:
            await asyncio.sleep(wait_s)
        log, end = cluster.log(place), min(cluster.stable_end(place), offset + MOST_READ)
        if not cluster.first(place) <= offset <= len(log):
            raise OffsetOutOfRange(f"{place} has {cluster.first(place)} to {len(log)}, {offset} was asked for")
        entries = [(at, log[at]) for at in range(offset, end)]
        kept = [(at, e) for at, e in entries if e.is_committed and not e.is_gone]
        return [Fetched(place, at, e.key, e.value, e.headers) for at, e in kept], end

    def is_at_end(self, place: Place, offset: int) -> bool:
        return self._cluster.first(place) <= offset == self._cluster.stable_end(place)

    def forget(self, place: Place) -> None: ...

    def reopen(self) -> None: ...

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        await self._way("end")
        return {place: len(self._cluster.log(place)) for place in places}

    async def offset_at(self, place: Place, at_ms: int) -> int:
        await self._way("offset at")
        log = self._cluster.log(place)
        return next((at for at, entry in enumerate(log) if START_MS + entry.at_s * 1000 >= at_ms), len(log))

    async def transact(
        self, records: Sequence[Produced], positions: dict[Place, int], token: object
    ) -> dict[Place, int]:
        cluster, number = self._cluster, next(self._turns) % ALTERNATING
        name, epoch = _producer(self._name, number), self._epochs[number] if self._epochs else 0
        await self._way("begin")
        transaction = cluster.begin(name, epoch)
        half = cluster.chance.randrange(len(records) + 1)
        first = cluster.add(records[:half], transaction)
        await self._way("produce")
        cluster.check(name, epoch)
        for place, offset in cluster.add(records[half:], transaction).items():
            first.setdefault(place, offset)
        await self._way("flush")
        cluster.check(name, epoch)
        cluster.check_token(token)
        await self._way("send offsets")
        cluster.check(name, epoch)
        await self._way("commit", end=lambda: cluster.end(transaction, "committed"))
        if transaction.outcome != "committed":
            raise BrokerError("the transaction was aborted")
        return first

    async def describe(self, topic: str) -> Target | None:
        await self._way("describe")
        return None if topic == MISSING else Target(FOREIGN_PARTITIONS, FOREIGN_BYTES)

    async def append(self, records: Sequence[Produced]) -> dict[Place, int]:
        await self._way("append", end=lambda: self._cluster.add(records, None))
        return {record.place: len(self._cluster.log(record.place)) for record in records}

    async def trim(self, until: dict[Place, int]) -> None:
        await self._way("trim", end=lambda: self._cluster.trim(until))

    async def renew(self) -> None:
        self._epochs = []
        for number in range(ALTERNATING):
            await self._way("renew")
            self._epochs.append(self._cluster.renew(_producer(self._name, number)))

    async def fence(self, name: str) -> None:
        for number in range(ALTERNATING):
            await self._way("fence")
            self._cluster.fired("another's hanging transaction ended")
            self._cluster.renew(_producer(name, number))

    async def _way(self, what: str, end: Callable[[], object] = lambda: None) -> None:
        """Go to the cluster, have something done there, and come back, if all goes well."""
        cluster, chance, troubles = self._cluster, self._cluster.chance, self._cluster.troubles
        await asyncio.sleep(chance.random() * troubles.slow_s)
        cluster.beat(self._name)
        if cluster.is_calm:
            end()
            return
        if chance.random() < troubles.fails_before:
            cluster.fired(f"{what} failed")
            raise BrokerError(f"{what} failed")
        if chance.random() < self._stalls:
            cluster.fired(f"stalled before {what}")
            await asyncio.sleep(SESSION_S * (1 + 2 * chance.random()))
        end()
        if chance.random() < troubles.fails_after:
            cluster.fired(f"answer to {what} lost")
            raise BrokerError(f"the answer to {what} was lost")
        await asyncio.sleep(chance.random() * troubles.slow_s)


def _producer(name: str, number: int) -> str:
    """The name of one of a process's producers."""
    return f"{name}.{number}"
