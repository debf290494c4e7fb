"""A log on Kafka as people look at it: its topics, their settings and last records, and how far everybody is.

Reads alone, committed records alone, and as a member of no group. Blocks: for the command line.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from steplog.engine import keys
from steplog.errors import LogUnavailable, NotFound
from steplog.kafka_record import Record, read_record
from steplog.log.client import ALTERNATING, TRANSACTION_MS
from steplog.log.encoding import decode_owner
from steplog.log.redo import decode_redo
from steplog.log.topics import (
    DEAD,
    EVENTS,
    INBOX,
    JOURNAL,
    MESSAGE_BYTES,
    REDO,
    REGISTRY,
    SETTINGS,
    STATE,
    Layout,
    offset_in,
)
from steplog.paths import KafkaAddress

HOLDS = {
    EVENTS: "every accepted event",
    INBOX: "messages between partitions, until they are handled",
    STATE: "open runs, waits and timers that stay a while: the last value of each key",
    REDO: "what the latest turns have changed, until it is in the state",
    JOURNAL: "what became of each event, and each run's steps",
    REGISTRY: "nodes, owners of partitions, and what waits look into",
    DEAD: "records that could not be read, until they are dropped",
}
ANSWER_S = 10.0
FOLLOW_S = 0.2
READ_AT_ONCE = 500
EXACT = 100  # a difference of offsets up to this is counted: some of them are marks of transactions
HELD_MS = 20  # a request at the end of a partition, by the broker: so late the end is seen
WINDOW = 200  # offsets that are read at first, from a partition's end
INPUTS = (EVENTS, INBOX)
_untyped_spec: Any = OffsetSpec  # the client has no types for it
T = TypeVar("T")


class TopicSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of a log. ``records``: offsets that it holds, marks of transactions among them."""

    topic: str
    name: str  # on the cluster
    holds: str
    partitions: int
    replicas: int
    records: int
    retention_ms: int | None  # None: for ever
    is_compacted: bool


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What is set, and what steplog sets where it makes the topic. ``is_needed``: another value loses something."""

    name: str
    value: str
    made_with: str
    is_needed: bool

    @property
    def is_same(self) -> bool:
        return self.value == self.made_with


class PartitionHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Where a partition is."""

    partition: int
    leader: int | None  # the broker's id; None: there is none
    replicas: int
    in_sync: int
    first: int  # offset
    end: int


class TopicDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one topic."""

    topic: str
    name: str
    settings: tuple[Setting, ...]
    partitions: tuple[PartitionHealth, ...]


class InputLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far the engine is in a partition of ``events`` or ``inbox``."""

    position: int
    end: int
    waiting: int  # records; up to 100 they are counted, more are a difference of offsets


class PartitionLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a partition is decided, by whom, and what of it the shared history lacks."""

    partition: int
    events: InputLag
    inbox: InputLag
    owner: str | None  # a node
    address: str | None
    is_member: bool  # the owner is in the group now, and has the partition
    history: int | None  # records; None: no history is shared by several nodes


class HangingTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """One that has been open for longer than the engine's may be. Nothing of the partition can be read behind it."""

    topic: str
    name: str  # on the cluster
    partition: int
    offset: int  # of its first record
    hidden: int  # offsets, from there on
    open_ms: int
    nodes: tuple[str, ...]  # whose it is: owners of the partitions of the log that write there
    transactional_ids: tuple[str, ...]


class Inspector:
    """Looks at one log. Raises ``NotFound`` where it has no topics, ``LogUnavailable`` where no broker answers."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._settings: dict[str, Any] = {
            "bootstrap.servers": address.servers, "client.id": address.topic("topics"), "log_level": 0,
            **dict(address.settings),
        }  # fmt: skip
        self._admin: AdminClient = AdminClient(self._settings)
        self._consumer = Consumer(
            {
                **self._settings, "group.id": address.topic("topics"), "isolation.level": "read_committed",
                "enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": HELD_MS, "fetch.queue.backoff.ms": HELD_MS,
            }
        )  # fmt: skip
        self._found = self._metadata()
        self._layout = Layout(address.prefix, len(self._found[EVENTS].partitions))

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- topics

    def topics(self) -> list[TopicSummary]:
        """Every topic of the log."""
        configs = self._configs(list(SETTINGS))
        places = [(topic, p) for topic in SETTINGS for p in range(self._count(topic))]
        first, ends = self._first(places), self._ends(places)
        summaries = []
        for topic, config in configs.items():
            is_compacted = "compact" in config["cleanup.policy"]
            retention_ms = int(config["retention.ms"])
            summaries.append(
                TopicSummary(
                    topic=topic, name=self._layout.name(topic), holds=HOLDS[topic], partitions=self._count(topic),
                    replicas=len(self._found[topic].partitions[0].replicas),
                    records=sum(ends[place] - first[place] for place in places if place[0] == topic),
                    retention_ms=None if is_compacted or retention_ms < 0 else retention_ms, is_compacted=is_compacted,
                )
            )  # fmt: skip
        return summaries

    def describe(self, topic: str) -> TopicDescription:
        """One topic: its settings beside those it is made with, and its partitions."""
        (config,) = self._configs([topic]).values()
        found = self._found[topic].partitions
        places = [(topic, p) for p in sorted(found)]
        first, ends = self._first(places), self._ends(places)
        replicas = len(found[0].replicas)
        made_with = {
            **SETTINGS[topic], "max.message.bytes": str(MESSAGE_BYTES), "min.insync.replicas": str(max(1, replicas - 1))
        }  # fmt: skip
        return TopicDescription(
            topic=topic, name=self._layout.name(topic),
            settings=tuple(
                Setting(name=name, value=config.get(name, ""), made_with=value, is_needed=name == "cleanup.policy")
                for name, value in made_with.items()
            ),
            partitions=tuple(
                PartitionHealth(
                    partition=p, leader=found[p].leader if found[p].leader >= 0 else None,
                    replicas=len(found[p].replicas), in_sync=len(found[p].isrs), first=first[topic, p],
                    end=ends[topic, p],
                )
                for _, p in places
            ),
        )  # fmt: skip

    # --- records

    def last(self, topic: str, count: int, partition: int | None = None) -> list[Record]:
        """The newest records of a topic, or of one of its partitions, in the order of their times."""
        chosen = self._chosen(topic, partition)
        read = self._backwards(topic, chosen, lambda records: len(records) >= count)
        newest = [record for records in read.values() for record in records[-count:]]
        return sorted(newest, key=_moment)[-count:] if count else []

    def follow(self, topic: str, partition: int | None = None) -> Iterator[Record]:
        """Records that come from now on, for ever."""
        places = [(topic, each) for each in self._chosen(topic, partition)]
        ends = self._ends(places)
        self._assign([self._partition(*place, offset) for place, offset in ends.items()])
        while True:
            yield from [record for _, record in self._consume(FOLLOW_S) if record is not None]

    # --- lag

    def lag(self) -> list[PartitionLag]:
        """How far each partition is. The engine's positions are those of the state: its group's are for tools."""
        partitions = range(self._layout.partitions)
        places = [(topic, p) for topic in (*INPUTS, JOURNAL) for p in range(self._layout.count(topic))]
        ends, first = self._ends(places), self._first(places)
        registry, members, history = self._registry(), self._members(), self._history()
        positions = {place: max(at, first[place]) for place, at in self._positions(partitions).items()}
        waiting = {place: max(ends[place] - at, 0) for place, at in positions.items()}
        for topic in INPUTS:  # some of a few offsets are marks of transactions
            ranges = {p: (positions[topic, p], ends[topic, p]) for p in partitions if 0 < waiting[topic, p] <= EXACT}
            waiting.update({(topic, p): len(records) for p, records in self._read(topic, ranges).items()})
        found = []
        for p in partitions:
            inputs = {
                topic: InputLag(position=positions[topic, p], end=ends[topic, p], waiting=waiting[topic, p])
                for topic in INPUTS
            }
            owner = registry.get(b"owner/%d" % p)
            name = None if owner is None else decode_owner(owner).node
            node = None if name is None else registry.get(b"node/" + name.encode())
            read = [(EVENTS, p), (JOURNAL, p % self._layout.count(JOURNAL))]
            behind = [ends[place] - history[place] for place in read if place in history]
            found.append(
                PartitionLag(
                    partition=p, events=inputs[EVENTS], inbox=inputs[INBOX], owner=name,
                    address=None if node is None else msgspec.msgpack.decode(node)[0],
                    is_member=name is not None and members.get(p) == name, history=sum(behind) if behind else None,
                )
            )  # fmt: skip
        return found

    def hanging(self, now_ms: int) -> list[HangingTransaction]:
        """Transactions that should have ended: the engine's are open for ten seconds at most."""
        places = [(topic, p) for topic in SETTINGS for p in range(self._count(topic))]
        stable, ends = self._offsets(places, _untyped_spec.latest(), IsolationLevel.READ_COMMITTED), self._ends(places)
        first = {place: self._written(*place, stable[place]) for place in places if stable[place] < ends[place]}
        late = {
            place: now_ms - record.timestamp_ms
            for place, record in first.items()
            if record.timestamp_ms is not None and now_ms - record.timestamp_ms > TRANSACTION_MS
        }
        if not late:
            return []
        registry = self._registry()
        whose = {place: self._writers(place, first[place], registry) for place in late}
        engines = tuple(dict.fromkeys([node for (topic, _), nodes in whose.items() if topic == REDO for node in nodes]))
        found = []
        for (topic, p), open_ms in late.items():
            nodes = whose[topic, p] or engines  # every transaction of an engine writes to redo
            found.append(
                HangingTransaction(
                    topic=topic, name=self._layout.name(topic), partition=p, offset=first[topic, p].offset,
                    hidden=ends[topic, p] - stable[topic, p], open_ms=open_ms, nodes=nodes,
                    transactional_ids=tuple(
                        [f"{self._address.prefix}.{node}.{n}" for node in nodes for n in range(ALTERNATING)]
                    ),
                )
            )  # fmt: skip
        return found

    def _writers(self, place: tuple[str, int], first: Record, registry: Mapping[bytes, bytes]) -> tuple[str, ...]:
        """The nodes whose transaction has begun in a place with this record; none where any may write."""
        topic, partition = place
        if topic == REDO:
            partitions: Sequence[int] = [decode_redo(first.value).partition] if first.value is not None else []
        elif topic == STATE:
            partitions = [partition]
        elif topic == JOURNAL:
            partitions = range(partition, self._layout.partitions, self._layout.count(JOURNAL))
        else:
            partitions = []
        owners = [registry.get(b"owner/%d" % p) for p in partitions]
        return tuple(dict.fromkeys([decode_owner(owner).node for owner in owners if owner is not None]))

    def _written(self, topic: str, partition: int, offset: int) -> Record:
        """The record at an offset, committed or not."""
        consumer = Consumer(
            {
                **self._settings, "group.id": self._address.topic("topics"), "isolation.level": "read_uncommitted",
                "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": HELD_MS,
            }
        )  # fmt: skip
        try:
            self._call(lambda: consumer.assign([self._partition(topic, partition, offset)]))
            message = self._call(lambda: consumer.poll(ANSWER_S))
        finally:
            consumer.close()
        if message is None:
            raise LogUnavailable(f"{self._address.servers}: no record came within {ANSWER_S:g} s")
        _, record = self._record(message)
        assert record is not None, "ends of partitions are not asked for"
        return record

    def _positions(self, partitions: Sequence[int]) -> dict[tuple[str, int], int]:
        """How far inputs are decided: as the newest redo says, or the state; 0 where nothing was."""
        wanted = {keys.position(topic): topic for topic in INPUTS}
        found: dict[tuple[str, int], int] = {}

        def note(records: Iterable[tuple[int, Mapping[bytes, bytes | None]]]) -> None:
            """Newest first."""
            for partition, changes in records:
                for key in wanted.keys() & changes.keys():
                    value = changes[key]
                    if value is not None:
                        found.setdefault((wanted[key], partition), int.from_bytes(value, "big"))

        def have_all(records: Sequence[Record]) -> bool:
            return wanted.keys() <= {record.key for record in records}

        places = range(self._layout.count(REDO))
        for records in self._backwards(REDO, places, lambda _: False).values():
            turns = [decode_redo(record.value) for record in records if record.value is not None]
            note((redo.partition, redo.changes) for redo in reversed(turns))
        left = [p for p in partitions if any((topic, p) not in found for topic in INPUTS)]
        for partition, records in self._backwards(STATE, left, have_all).items():
            note((partition, {record.key or b"": record.value}) for record in reversed(records))
        return {(topic, p): found.get((topic, p), 0) for topic in INPUTS for p in partitions}

    def _registry(self) -> dict[bytes, bytes]:
        end = self._ends([(REGISTRY, 0)])[REGISTRY, 0]
        found: dict[bytes, bytes | None] = {}
        for record in self._read(REGISTRY, {0: (0, end)})[0]:
            found[record.key or b""] = record.value
        return {key: value for key, value in found.items() if value is not None}

    def _members(self) -> dict[int, str]:
        """Which node the group gives each partition to now."""
        group = f"{self._address.prefix}.engine"
        described = self._call(
            lambda: self._admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result(ANSWER_S)
        )
        return {
            each.partition: member.client_id.removeprefix("steplog-")
            for member in described.members
            for each in (member.assignment.topic_partitions if member.assignment else ())
        }

    def _history(self) -> dict[tuple[str, int], int]:
        """How far the history that several nodes share is, as its group says."""
        names = {self._layout.name(topic): topic for topic in (JOURNAL, EVENTS)}
        group = f"{self._address.prefix}.history"
        asked = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=ANSWER_S
        )[group]
        try:
            found = self._call(lambda: asked.result(ANSWER_S))
        except LogUnavailable:  # there is no such group
            return {}
        return {
            (names[each.topic], each.partition): each.offset
            for each in found.topic_partitions
            if each.topic in names and each.offset >= 0
        }

    # --- the cluster

    def _metadata(self) -> Mapping[str, Any]:
        cluster = self._call(lambda: self._admin.list_topics(timeout=ANSWER_S))
        found = {topic: cluster.topics.get(self._address.topic(topic)) for topic in SETTINGS}
        missing = [self._address.topic(topic) for topic, each in found.items() if each is None]
        if missing:
            raise NotFound(f"{self._address.servers} has no topic {missing[0]}, so no log; name one: --log {_EXAMPLE}")
        return found

    def _count(self, topic: str) -> int:
        return len(self._found[topic].partitions)

    def _chosen(self, topic: str, partition: int | None) -> Sequence[int]:
        if partition is None:
            return range(self._count(topic))
        if partition >= self._count(topic):
            raise NotFound(f"{self._layout.name(topic)} has no partition {partition}; it has {self._count(topic)}")
        return (partition,)

    def _configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = {topic: ConfigResource(ResourceType.TOPIC, self._layout.name(topic)) for topic in topics}
        found = self._admin.describe_configs(list(resources.values()), request_timeout=ANSWER_S)
        return {
            topic: {name: str(entry.value) for name, entry in self._call(found[each].result).items()}
            for topic, each in resources.items()
        }

    def _ends(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return self._offsets(places, _untyped_spec.latest())

    def _first(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return self._offsets(places, _untyped_spec.earliest())

    def _offsets(
        self, places: Sequence[tuple[str, int]], spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[tuple[str, int], int]:  # fmt: skip
        asked = {self._partition(*place): place for place in places}
        answers = self._call(
            lambda: self._admin.list_offsets(
                dict.fromkeys(asked, spec), isolation_level=isolation, request_timeout=ANSWER_S
            )
        )
        return self._call(lambda: {asked[each]: offset_in(answer.result()) for each, answer in answers.items()})

    def _partition(self, topic: str, partition: int, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._layout.name(topic), partition, offset)

    def _backwards(
        self, topic: str, partitions: Sequence[int], is_enough: Callable[[Sequence[Record]], bool]
    ) -> dict[int, list[Record]]:  # fmt: skip
        """Read partitions from their ends towards their beginnings, each until that is enough; by offset."""
        places = [(topic, p) for p in partitions]
        first, starts = self._first(places), self._ends(places)
        found: dict[int, list[Record]] = {p: [] for p in partitions}
        window = WINDOW
        while more := [p for _, p in places if starts[topic, p] > first[topic, p] and not is_enough(found[p])]:
            ranges = {p: (max(first[topic, p], starts[topic, p] - window), starts[topic, p]) for p in more}
            for p, records in self._read(topic, ranges).items():
                found[p] = records + found[p]
                starts[topic, p] = ranges[p][0]
            window *= 4
        return found

    def _read(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> dict[int, list[Record]]:
        """The records of partitions between two offsets, as far as they are committed."""
        found: dict[int, list[Record]] = {p: [] for p in ranges}
        left = {p for p, (begin, end) in ranges.items() if begin < end}
        self._assign([self._partition(topic, p, ranges[p][0]) for p in left])
        while left:
            read = self._consume(ANSWER_S)
            if not read:
                raise LogUnavailable(f"{self._address.servers}: no record came within {ANSWER_S:g} s")
            for p, record in read:
                end = ranges[p][1]
                if record is not None and record.offset < end:
                    found[p].append(record)
                if record is None or record.offset + 1 >= end:
                    left.discard(p)
        return found

    def _assign(self, places: list[TopicPartition]) -> None:
        self._call(lambda: self._consumer.assign(places))

    def _consume(self, wait_s: float) -> list[tuple[int, Record | None]]:
        """What has come, by partition; None stands for the end of one."""
        first = self._call(lambda: self._consumer.poll(wait_s))
        if first is None:
            return []
        messages = [first, *self._call(lambda: self._consumer.consume(READ_AT_ONCE, 0))]
        return [self._record(message) for message in messages]

    def _record(self, message: Message) -> tuple[int, Record | None]:
        error, partition = message.error(), message.partition()
        if error is not None and (error.code() != KafkaError._PARTITION_EOF or partition is None):
            raise LogUnavailable(f"{self._address.servers}: {error.str()}")
        assert partition is not None, "a record is somewhere"
        return partition, None if error is not None else read_record(message)

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except KafkaException as error:
            raise LogUnavailable(f"{self._address.servers}: {error.args[0].str()}") from error


_EXAMPLE = "kafka://HOST:PORT/PREFIX"


def _moment(record: Record) -> tuple[int, int, int]:
    return record.timestamp_ms or 0, record.partition, record.offset
