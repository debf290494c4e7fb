"""A log on Kafka as people look at it: its topics, their settings and last records, and how far everybody is.

Reads alone, committed records alone, and as a member of no group. Blocks: for the command line.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from steplog.engine import keys
from steplog.errors import LogUnavailable, NotFound
from steplog.kafka_record import Record, read_record
from steplog.log.topics import (
    DEAD,
    EVENTS,
    INBOX,
    JOURNAL,
    MESSAGE_BYTES,
    REGISTRY,
    SETTINGS,
    STATE,
    Layout,
    offsets,
)
from steplog.paths import KafkaAddress

HOLDS = {
    EVENTS: "every accepted event",
    INBOX: "messages between partitions, until they are handled",
    STATE: "open runs, waits and timers: the last value of each key",
    JOURNAL: "what became of each event, and each run's steps",
    REGISTRY: "nodes, owners of partitions, and what waits look into",
    DEAD: "records that could not be read, until they are dropped",
}
ANSWER_S = 10.0
READ_AT_ONCE = 500
EXACT = 100  # a difference of offsets up to this is counted: some of them are marks of transactions
WINDOW = 200  # offsets that are read at first, from a partition's end
INPUTS = (EVENTS, INBOX)
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
        found: list[Record] = []
        for each in self._chosen(topic, partition):
            found += self._backwards(topic, each, lambda records: len(records) >= count)[-count:] if count else []
        return sorted(found, key=_moment)[-count:] if count else []

    def follow(self, topic: str, partition: int | None = None) -> Iterator[Record]:
        """Records that come from now on, for ever."""
        places = [(topic, each) for each in self._chosen(topic, partition)]
        ends = self._ends(places)
        self._assign([self._partition(*place, offset) for place, offset in ends.items()])
        while True:
            yield from [record for record in self._consume(0.2) if isinstance(record, Record)]

    # --- lag

    def lag(self) -> list[PartitionLag]:
        """How far each partition is. The engine's positions are those of the state: its group's are for tools."""
        partitions = range(self._layout.partitions)
        ends = self._ends([(topic, p) for topic in (*INPUTS, JOURNAL) for p in partitions])
        first = self._first([(topic, p) for topic in INPUTS for p in partitions])
        registry, members, history = self._registry(), self._members(), self._history()
        found = []
        for p in partitions:
            positions = self._positions(p)
            inputs = {
                topic: self._input_lag(topic, p, max(positions.get(topic, 0), first[topic, p]), ends[topic, p])
                for topic in INPUTS
            }
            owner = registry.get(b"owner/%d" % p)
            name = None if owner is None else msgspec.msgpack.decode(owner, type=str)
            node = None if name is None else registry.get(b"node/" + name.encode())
            behind = [ends[t, p] - history[t, p] for t in (JOURNAL, EVENTS) if (t, p) in history]
            found.append(
                PartitionLag(
                    partition=p, events=inputs[EVENTS], inbox=inputs[INBOX], owner=name,
                    address=None if node is None else msgspec.msgpack.decode(node)[0],
                    is_member=name is not None and members.get(p) == name, history=sum(behind) if behind else None,
                )
            )  # fmt: skip
        return found

    def _input_lag(self, topic: str, partition: int, position: int, end: int) -> InputLag:
        waiting = max(end - position, 0)
        if 0 < waiting <= EXACT:
            waiting = len(self._read(topic, partition, position, end))
        return InputLag(position=position, end=end, waiting=waiting)

    def _positions(self, partition: int) -> dict[str, int]:
        """How far a partition's inputs are decided: among the newest of its state, if not where it began."""
        wanted = {keys.position(topic): topic for topic in INPUTS}

        def have_all(records: Sequence[Record]) -> bool:
            return wanted.keys() <= {record.key for record in records}

        records = self._backwards(STATE, partition, have_all)
        return {
            wanted[record.key]: int.from_bytes(record.value, "big")
            for record in records
            if record.key in wanted and record.value is not None
        }

    def _registry(self) -> dict[bytes, bytes]:
        end = self._ends([(REGISTRY, 0)])[REGISTRY, 0]
        found: dict[bytes, bytes | None] = {}
        for record in self._read(REGISTRY, 0, 0, end):
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
        asked = {self._partition(*place): place for place in places}
        answers = self._call(lambda: offsets(self._admin, list(asked)))
        return {asked[each]: self._call(answer.result).offset for each, answer in answers.items()}

    def _first(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {
            place: self._call(
                lambda place=place: self._consumer.get_watermark_offsets(self._partition(*place), timeout=ANSWER_S)  # type: ignore[misc]  # a loop's variable
            )[0]
            for place in places
        }

    def _partition(self, topic: str, partition: int, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._layout.name(topic), partition, offset)

    def _backwards(
        self, topic: str, partition: int, is_enough: Callable[[Sequence[Record]], bool]
    ) -> list[Record]:  # fmt: skip
        """Read a partition from its end towards its beginning, until that is enough; in the order of offsets."""
        first, start = (
            self._first([(topic, partition)])[topic, partition],
            self._ends([(topic, partition)])[topic, partition],
        )
        found: list[Record] = []
        window = WINDOW
        while start > first and not is_enough(found):
            begin = max(first, start - window)
            found = self._read(topic, partition, begin, start) + found
            start, window = begin, 4 * window
        return found

    def _read(self, topic: str, partition: int, begin: int, end: int) -> list[Record]:
        """The records between two offsets, as far as they are committed."""
        found: list[Record] = []
        self._assign([self._partition(topic, partition, begin)])
        at = begin
        while at < end:
            read = self._consume(ANSWER_S)
            if not read:
                raise LogUnavailable(f"{self._address.servers}: no record came within {ANSWER_S:g} s")
            for each in read:
                if isinstance(each, Record):
                    at = each.offset + 1
                    found += [each] if at <= end else []
                else:
                    at = end
        return found

    def _assign(self, places: list[TopicPartition]) -> None:
        self._call(lambda: self._consumer.assign(places))

    def _consume(self, wait_s: float) -> list[Record | None]:
        """What has come; None stands for the end of a partition."""
        messages: list[Message] = []
        first = self._call(lambda: self._consumer.poll(wait_s))
        if first is not None:
            messages = [first, *self._call(lambda: self._consumer.consume(READ_AT_ONCE, 0))]
        return [self._record(message) for message in messages]

    def _record(self, message: Message) -> Record | None:
        error = message.error()
        if error is None:
            return read_record(message)
        if error.code() == KafkaError._PARTITION_EOF:
            return None
        raise LogUnavailable(f"{self._address.servers}: {error.str()}")

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except KafkaException as error:
            raise LogUnavailable(f"{self._address.servers}: {error.args[0].str()}") from error


_EXAMPLE = "kafka://HOST:PORT/PREFIX"


def _moment(record: Record) -> tuple[int, int, int]:
    return record.timestamp_ms or 0, record.partition, record.offset
