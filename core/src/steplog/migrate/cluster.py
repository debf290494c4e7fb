"""A log on Kafka, as a migration reads it and makes it: with plain clients, one partition after another."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec

from steplog.errors import LogUnavailable, MigrationRefused
from steplog.kafka_record import read_record
from steplog.log.broker import Fetched, Place
from steplog.log.moves import KEY, Move, decode_move, encode_move
from steplog.log.topics import EVENTS, REGISTRY, SETTINGS, STATE, Layout, offset_in
from steplog.paths import KafkaAddress

CALL_S = 10.0
STUCK_S = 15.0  # longer than any transaction may be open
EMPTY_S = 15.0  # longer than the session of an engine that was killed
READ = 1_000
CLOSED_BYTES = 128  # no event is so small; the marks of transactions are smaller


class Cluster:
    """The topics of one log. Its errors are ``LogUnavailable``."""

    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self.settings: dict[str, Any] = {
            "bootstrap.servers": address.servers, "client.id": address.topic("migrate"), "log_level": 0,
            **dict(address.settings),
        }  # fmt: skip
        self.admin = AdminClient(self.settings)
        self.topics = self._topics()

    @property
    def partitions(self) -> int:
        """How many the log has; 0 where it has none."""
        return self.topics.get(STATE, 0)

    @property
    def layout(self) -> Layout:
        return Layout(self.address.prefix, self.partitions)

    def look(self) -> None:
        """Ask which topics there are."""
        self.topics = self._topics()

    def registry(self) -> dict[bytes, bytes]:
        """What every process of the log knows."""
        found: dict[bytes, bytes] = {}
        for record in self.records(REGISTRY, 0) if REGISTRY in self.topics else ():
            if record.value is None:
                found.pop(record.key, None)
            else:
                found[record.key] = record.value
        return found

    def move(self) -> Move | None:
        """The mark of the log."""
        mark = self.registry().get(KEY)
        return None if mark is None else decode_move(mark)

    def mark(self, producer: Producer, move: Move | None) -> None:
        """Set the mark, or take it away."""
        with ours(self.address):
            producer.begin_transaction()
            producer.produce(
                self.address.topic(REGISTRY), None if move is None else encode_move(move), KEY, partition=0
            )  # fmt: skip
            producer.commit_transaction(CALL_S)

    def producer(self, **settings: Any) -> Producer:
        """The one that migrations of this log write with: another one of them is fenced."""
        name = self.address.topic("migrate")
        producer = Producer({**self.settings, "transactional.id": name, "linger.ms": 5, **settings})
        with ours(self.address):
            producer.init_transactions(CALL_S)
        return producer

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that there is, and the one behind everything, committed or not."""
        consumer = self._consumer()
        try:
            with ours(self.address):
                return consumer.get_watermark_offsets(self._at(topic, partition), timeout=CALL_S)
        finally:
            consumer.close()

    def records(self, topic: str, partition: int, first: int = 0, end: int | None = None) -> Iterator[Fetched]:
        """Read what is committed between two offsets, as far as it is kept; to the present end where none is given."""
        consumer = self._consumer()
        place = Place(topic, partition)
        try:
            with ours(self.address):
                low, high = consumer.get_watermark_offsets(self._at(topic, partition), timeout=CALL_S)
                at, end = max(low, first), high if end is None else min(high, end)
                if at < end:
                    consumer.assign([self._at(topic, partition, at)])
                seen_s = time.monotonic()
                while at < end:
                    first_message = consumer.poll(0.5)
                    for message in [] if first_message is None else [first_message, *consumer.consume(READ, 0)]:
                        after = _after(message)
                        if after > at:
                            at, seen_s = after, time.monotonic()
                        if message.error() is None and at <= end:
                            record = read_record(message)
                            headers = tuple([(name, value or b"") for name, value in record.headers or ()])
                            yield Fetched(place, record.offset, record.key or b"", record.value, headers)
                    if time.monotonic() - seen_s > STUCK_S:
                        raise LogUnavailable(
                            f"{self.address.topic(topic)}, partition {partition}: nothing can be read from offset {at} "
                            f"on, though there is something before {end}"
                        )
        finally:
            consumer.close()

    def settled_end(self, topic: str, partition: int) -> int:
        """The offset behind everything, once nothing before it is open."""
        untyped: Any = OffsetSpec
        place, until_s = self._at(topic, partition), time.monotonic() + STUCK_S
        while time.monotonic() < until_s:
            with ours(self.address):
                (answer,) = self.admin.list_offsets(
                    {place: untyped.latest()}, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=CALL_S
                ).values()
                stable = offset_in(answer.result())
            if stable == self.ends(topic, partition)[1]:
                return stable
            time.sleep(0.02)
        raise LogUnavailable(f"{self.address.topic(topic)}, partition {partition}: a transaction stays open")

    def wait_until_empty(self) -> None:
        """Wait until no engine takes part. Raises ``MigrationRefused``."""
        until_s = time.monotonic() + EMPTY_S
        while names := self.members():
            if time.monotonic() > until_s:
                raise MigrationRefused(
                    f"{', '.join(names)} {'takes' if len(names) == 1 else 'take'} part in {self.address.prefix}; "
                    "stop every engine of this log first"
                )
            time.sleep(0.2)

    def fence(self, names: Sequence[str], alternating: int) -> None:
        """End what processes of these names have left hanging; whoever comes back under one cannot commit."""
        for name in names:
            for number in range(alternating):
                id_ = f"{self.address.prefix}.{name}.{number}"
                with ours(self.address):
                    Producer({**self.settings, "transactional.id": id_}).init_transactions(CALL_S)

    @property
    def events_bytes(self) -> str:
        """The largest record that the topic of events takes."""
        (answer,) = self.admin.describe_configs([self._resource()], request_timeout=CALL_S).values()
        with ours(self.address):
            return str(answer.result()["max.message.bytes"].value)

    def close_events(self) -> None:
        """Let nobody write events any more."""
        self._set_limit(str(CLOSED_BYTES))
        for partition in range(self.partitions):
            self._probe(partition)

    def open_events(self, limit: str) -> None:
        """Let events be written again."""
        self._set_limit(limit)

    def delete(self) -> None:
        """Delete every topic, and the registry, which has the mark, last."""
        for group in ([topic for topic in self.topics if topic != REGISTRY], [REGISTRY]):
            names = [self.address.topic(topic) for topic in group if topic in self.topics]
            if not names:
                continue
            with ours(self.address):
                for deleted in self.admin.delete_topics(names, operation_timeout=CALL_S).values():
                    deleted.result()
                until_s = time.monotonic() + CALL_S
                while set(names) & self.admin.list_topics(timeout=CALL_S).topics.keys():
                    if time.monotonic() > until_s:
                        raise LogUnavailable(f"{', '.join(names)} cannot be deleted")
                    time.sleep(0.05)
        self.look()

    # --- the cluster

    def _topics(self) -> dict[str, int]:
        """Which topics of the log there are, and how many partitions each has."""
        with ours(self.address):
            found = self.admin.list_topics(timeout=CALL_S).topics
        names = {topic: found.get(self.address.topic(topic)) for topic in SETTINGS}
        return {topic: len(each.partitions) for topic, each in names.items() if each is not None}

    def members(self) -> list[str]:
        """Who takes part as an engine."""
        group = self.address.topic("engine")
        with ours(self.address):
            described = self.admin.describe_consumer_groups([group], request_timeout=CALL_S)[group].result()
        return sorted({str(member.group_instance_id or member.client_id) for member in described.members})

    def _probe(self, partition: int) -> None:
        """Write a record that nobody reads until it is refused: then everybody's are."""
        until_s = time.monotonic() + CALL_S
        producer = Producer({**self.settings, "linger.ms": 0})
        answers: list[KafkaError | None] = []
        while time.monotonic() < until_s:
            producer.produce(
                self.address.topic(EVENTS), None, bytes(2 * CLOSED_BYTES), partition=partition,
                on_delivery=lambda error, _: answers.append(error),
            )  # fmt: skip
            producer.flush(CALL_S)
            answer = answers[-1] if answers else None
            if answer is not None and answer.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                return
            time.sleep(0.05)
        raise LogUnavailable(f"{self.address.topic(EVENTS)} takes records on, though it was closed")

    def _resource(self) -> ConfigResource:
        return ConfigResource(ConfigResource.Type.TOPIC, self.address.topic(EVENTS))

    def _set_limit(self, limit: str) -> None:
        entry = ConfigEntry("max.message.bytes", limit, incremental_operation=AlterConfigOpType.SET)
        name = self.address.topic(EVENTS)
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
        with ours(self.address):
            for altered in self.admin.incremental_alter_configs([resource], request_timeout=CALL_S).values():
                altered.result()

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                **self.settings, "group.id": self.address.topic("migrate"), "enable.auto.commit": False,
                "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 8 << 10, "fetch.wait.max.ms": 50,
            }
        )  # fmt: skip

    def _at(self, topic: str, partition: int, offset: int = -1001) -> TopicPartition:
        return TopicPartition(self.address.topic(topic), partition, offset)


class ours:  # noqa: N801 - reads as a statement
    """Turn the client's errors into ours."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, KafkaException):
            raise LogUnavailable(f"{self._address.servers}: {error.args[0].str()}") from error


def _after(message: Message) -> int:
    """The offset that a message, or the end of a partition, has brought us to."""
    error, offset = message.error(), message.offset() or 0
    if error is None:
        return offset + 1
    if error.code() == KafkaError._PARTITION_EOF:
        return offset
    raise KafkaException(error)
