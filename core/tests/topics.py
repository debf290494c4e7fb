"""Topics of a test on a real Kafka: made with names of their own, and deleted afterwards with the test's groups."""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

ANSWER_S = 10.0
EMPTY_S = 20.0  # longer than the session of whoever was killed
_numbers = itertools.count(1)


class Topics:
    """What a test does with a broker besides what it tests."""

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers
        self.prefix = f"connectors-{os.getpid()}-{next(_numbers)}"
        self._options: dict[str, str | int | float | bool] = {"bootstrap.servers": brokers, "log_level": 2}
        self._admin = AdminClient(self._options)
        self._producer = self._new_producer()
        self._made: list[str] = []

    def _new_producer(self) -> Producer:
        return Producer({
            **self._options, "linger.ms": 0, "partitioner": "murmur2_random", "message.max.bytes": 8 << 20
        })  # fmt: skip

    def name(self, name: str) -> str:
        """A name that is this test's alone, for a topic or a group."""
        return f"{self.prefix}-{name}"

    def make(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic; returns its whole name."""
        topic = self.name(name)
        made = self._admin.create_topics([NewTopic(topic, partitions, 1, config=config)])
        made[topic].result(ANSWER_S)
        if topic not in self._made:
            self._made.append(topic)
        return topic

    def delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(ANSWER_S)

    def widen(self, topic: str, partitions: int) -> None:
        """Add partitions."""
        self._admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(ANSWER_S)
        self._producer = self._new_producer()  # which knows of them

    def put(self, topic: str, *values: bytes | None, key: bytes | None = None, **more: Any) -> None:
        """Write records of a key."""
        for value in values:
            self._producer.produce(topic, value, key, **more)
        assert not self._producer.flush(ANSWER_S)

    def forget(self, topic: str, before: int) -> None:
        """Delete the records of partition 0 before an offset."""
        at = TopicPartition(topic, 0, before)
        self._admin.delete_records([at])[at].result(ANSWER_S)

    def ends(self, topic: str) -> dict[int, int]:
        """The offset behind the last record, by partition."""
        partitions = self._admin.list_topics(topic, ANSWER_S).topics[topic].partitions
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client's
        asked = {TopicPartition(topic, p): latest for p in partitions}
        return {at.partition: found.result(ANSWER_S).offset for at, found in self._admin.list_offsets(asked).items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """How far a group has come, by partition."""
        reader = Consumer({**self._options, "group.id": group})
        try:
            found = reader.committed([TopicPartition(topic, p) for p in self.ends(topic)], ANSWER_S)
        finally:
            reader.close()
        return {each.partition: each.offset for each in found}

    def has_read_all(self, group: str, topic: str) -> bool:
        """Whether a group has no lag."""
        return self.committed(group, topic) == self.ends(topic)

    def read(self, topic: str) -> Sequence[tuple[bytes | None, bytes | None]]:
        """Key and value of each record, as another consumer reads them."""
        reader = Consumer({**self._options, "group.id": "nobody", "enable.auto.commit": False})
        ends = self.ends(topic)
        found: list[tuple[bytes | None, bytes | None]] = []
        try:
            reader.assign([TopicPartition(topic, p, 0) for p in ends])
            while len(found) < sum(ends.values()):
                message = reader.poll(ANSWER_S)
                assert message is not None, f"{topic} has {len(found)} of {ends}"
                found.append((message.key(), message.value()))
        finally:
            reader.close()
        return found

    def clear(self) -> None:
        for topic, done in self._admin.delete_topics(self._made).items() if self._made else ():
            try:
                done.result(ANSWER_S)
            except KafkaException:
                assert topic not in self._admin.list_topics(timeout=ANSWER_S).topics
        groups = [
            group.group_id
            for group in self._admin.list_consumer_groups().result(ANSWER_S).valid
            if group.group_id.startswith(self.prefix)
        ]
        until_s = time.monotonic() + EMPTY_S
        for group in groups:
            while not self._is_gone(group):
                assert time.monotonic() < until_s, f"group {group} has members on"
                time.sleep(0.1)

    def _is_gone(self, group: str) -> bool:
        """Delete a group, unless it still has a member that was killed."""
        try:
            self._admin.delete_consumer_groups([group])[group].result(ANSWER_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NON_EMPTY_GROUP:
                raise
            return False
        return True


@contextmanager
def topics_of(brokers: str) -> Iterator[Topics]:
    """Topics that go when the block ends."""
    topics = Topics(brokers)
    try:
        yield topics
    finally:
        topics.clear()
