"""What a log on Kafka holds: the topics of journal and events, as the engine writes them, in several partitions."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from steplog.engine.records import StoredEvent
from steplog.history.kafka import TOPICS

from .partition import Partition

PARTITIONS = 3
WAIT_S = 20.0
_numbers = itertools.count(1)


class Head(msgspec.Struct):
    """What says where a record belongs."""

    run: str = ""
    event: str = ""


_decode_head = msgspec.json.Decoder(Head).decode
_decode_event = msgspec.json.Decoder(StoredEvent).decode


class KafkaJournal:
    """The topics of one log, written in transactions."""

    def __init__(self, servers: str) -> None:
        self.prefix = f"steplog-tests-{os.getpid()}-{next(_numbers)}"
        self.log = f"kafka://{servers}/{self.prefix}"
        self._settings: dict[str, str | int | float | bool] = {"bootstrap.servers": servers, "log_level": 0}
        self._admin = AdminClient(self._settings)
        self._producer = self.producer("engine")
        topics = [NewTopic(self.topic(name), num_partitions=PARTITIONS, replication_factor=1) for name in TOPICS]
        for made in self._admin.create_topics(topics).values():
            made.result(WAIT_S)

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def producer(self, name: str) -> Producer:
        """A producer that writes transactions."""
        producer = Producer(
            {**self._settings, "transactional.id": f"{self.prefix}-{name}", "transaction.timeout.ms": 10_000}
        )
        producer.init_transactions(WAIT_S)
        return producer

    def write(
        self, records: Sequence[bytes] = (), events: Sequence[bytes] = (), *, is_aborted: bool = False
    ) -> None:  # fmt: skip
        """Write one turn's records, and events, in one transaction."""
        producer = self._producer
        producer.begin_transaction()
        for record in records:
            head = _decode_head(record)
            self._produce("journal", head.run or head.event, record)
        for event in events:
            self._produce("events", _decode_event(event).internal_id, event)
        producer.flush(WAIT_S)
        if is_aborted:
            producer.abort_transaction(WAIT_S)
        else:
            producer.commit_transaction(WAIT_S)

    def write_raw(self, name: str, partition: int, *values: bytes) -> None:
        """Write values as they are."""
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(self.topic(name), value, partition=partition)
        self._producer.commit_transaction(WAIT_S)

    def write_all(self, log: Partition, *, events_first: bool = True) -> None:
        """Write everything that a partition has committed, turn by turn. Events come as a whole before it, or after."""
        if events_first:
            self.write(events=[event for _, some in log.log.events for event in some])
        for _, records in log.log.journal:
            self.write(records)
        if not events_first:
            self.write(events=[event for _, some in log.log.events for event in some])

    def delete_before(self, name: str, partition: int, offset: int) -> None:
        """Delete records as the topic's retention does."""
        place = TopicPartition(self.topic(name), partition, offset)
        for deleted in self._admin.delete_records([place]).values():
            deleted.result(WAIT_S)

    def close(self) -> None:
        for deleted in self._admin.delete_topics([self.topic(name) for name in TOPICS]).values():
            deleted.result(WAIT_S)

    def _produce(self, name: str, key: str, value: bytes) -> None:
        partition = sum(key.encode()) % PARTITIONS
        self._producer.produce(self.topic(name), value, key=key.encode(), partition=partition)


@contextmanager
def kafka_journal(servers: str) -> Iterator[KafkaJournal]:
    """Topics that go with the block."""
    journal = KafkaJournal(servers)
    try:
        yield journal
    finally:
        journal.close()
