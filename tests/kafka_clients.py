"""Plain Kafka clients for tests: what is made and what can be read without steplog."""

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic

DEADLINE_S = 30
QUICK: dict[str, str | int] = {
    "log_level": 0, "retry.backoff.ms": 10, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 100,
    "metadata.recovery.strategy": "none",  # as steplog's clients (member.py)
}  # fmt: skip


def create_topic(
    bootstrap: str, name: str, *, partitions: int = 1, replicas: int = 1, settings: Mapping[str, str] | None = None
) -> None:
    """Create a topic, and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUICK})
    (created,) = admin.create_topics([NewTopic(name, partitions, replicas, config=dict(settings or {}))]).values()
    created.result(DEADLINE_S)


def alter_topic(bootstrap: str, name: str, key: str, value: str) -> None:
    """Set a topic's setting."""
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUICK})  # it has to outlive its answers
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(DEADLINE_S)


def transactional(bootstrap: str, name: str) -> Producer:
    """A producer with a transactional id, ready to begin."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, **QUICK})
    producer.init_transactions(DEADLINE_S)
    return producer


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    """Append values to partition 0; all replicas have them when it returns."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, **QUICK})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(DEADLINE_S) == 0, "the broker took too long"


def committed(bootstrap: str, topic: str, partition: int = 0) -> list[bytes | None]:
    """The values that a read-committed consumer finds in a partition now, from its beginning."""
    return _values(bootstrap, topic, partition, "read_committed")


def written(bootstrap: str, topic: str, partition: int = 0) -> list[bytes | None]:
    """The same, with what is open and what was aborted."""
    return _values(bootstrap, topic, partition, "read_uncommitted")


def _values(bootstrap: str, topic: str, partition: int, isolation: str) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": topic, "enable.partition.eof": True,
            "isolation.level": isolation, **QUICK,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0)])
    values: list[bytes | None] = []
    try:
        while (message := consumer.poll(DEADLINE_S)) is not None:  # one of an empty value is false
            if error := message.error():
                assert error.code() == KafkaError._PARTITION_EOF, error
                return values
            values.append(message.value())
    finally:
        consumer.close()
    raise AssertionError(f"{topic} has no end within {DEADLINE_S} s")


def read_until(bootstrap: str, group: str, topic: str, count: int) -> None:
    """Wait until a group has committed so many records of a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **QUICK})
    try:
        places = [TopicPartition(topic, p) for p in consumer.list_topics(topic, DEADLINE_S).topics[topic].partitions]
        deadline_s = time.monotonic() + DEADLINE_S
        while (read := sum(max(each.offset, 0) for each in consumer.committed(places, DEADLINE_S))) < count:
            assert time.monotonic() < deadline_s, f"{group} has read {read} of {topic}, not {count}"
            time.sleep(0.1)
    finally:
        consumer.close()
