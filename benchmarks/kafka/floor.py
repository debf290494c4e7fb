"""What a transaction costs without an engine: bare loops that consume, transform and produce with confluent-kafka."""

import statistics
import time
from itertools import pairwise
from typing import NamedTuple

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from steplog.log.client import ALTERNATING

PLACES = 4  # that a turn of 16 partitions writes to: two of redo, two of the journal
VALUE = b"x" * 180


class Phases(NamedTuple):
    """Seconds of one transaction."""

    produce: float
    flush: float
    offsets: float
    commit: float

    @property
    def whole(self) -> float:
        return sum(self)


class Loop:
    """Consumes from one topic what it has produced there before, and writes as many records to another."""

    def __init__(self, bootstrap: str, name: str, places: int = PLACES) -> None:
        self._sink, self._source, self._places = f"{name}-sink", f"{name}-source", places
        admin = AdminClient({"bootstrap.servers": bootstrap})
        new = [NewTopic(self._sink, places, 1), NewTopic(self._source, places, 1)]
        for made in admin.create_topics(new).values():
            made.result()
        self._producers = [
            Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{name}-{n}", "linger.ms": 0,
                      "retry.backoff.ms": 2, "queue.buffering.max.messages": 1_000_000})
            for n in range(ALTERNATING)
        ]  # fmt: skip
        for producer in self._producers:
            producer.init_transactions(30)
        self._plain = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": name, "enable.auto.commit": False,
             "auto.offset.reset": "earliest", "isolation.level": "read_committed", "fetch.wait.max.ms": 50}
        )  # fmt: skip
        self._consumer.subscribe([self._source])
        while not self._consumer.assignment():
            self._consumer.poll(0.1)
        self._turn = 0

    def fill(self, records: int) -> None:
        """Write what is to be consumed."""
        for n in range(records):
            self._plain.produce(self._source, VALUE, b"%d" % n, n % self._places)
            if n % 10_000 == 0:
                self._plain.poll(0)
        self._plain.flush()

    def transact(self, records: int) -> Phases:
        """Consume so many records, and write as many in a transaction with their offsets."""
        consumed: list[Message] = []
        while len(consumed) < records:
            consumed += self._consumer.consume(records - len(consumed), 0.1)
        reached = {message.partition(): (message.offset() or 0) + 1 for message in consumed}
        positions = [TopicPartition(self._source, partition or 0, offset) for partition, offset in reached.items()]
        producer = self._producers[self._turn % ALTERNATING]
        self._turn += 1
        times = [time.perf_counter()]
        producer.begin_transaction()
        for n, message in enumerate(consumed):
            producer.produce(self._sink, message.value(), message.key(), n % self._places)
        times.append(time.perf_counter())
        producer.flush()
        times.append(time.perf_counter())
        producer.send_offsets_to_transaction(positions, self._consumer.consumer_group_metadata(), 30)
        times.append(time.perf_counter())
        producer.commit_transaction(30)
        times.append(time.perf_counter())
        return Phases(*[after - before for before, after in pairwise(times)])

    def close(self) -> None:
        self._consumer.close()


def records_per_s(bootstrap: str, name: str, per_transaction: int, rounds: int = 100) -> float:
    """Records a second that the loop writes, with so many in each transaction."""
    loop = Loop(bootstrap, name)
    loop.fill(per_transaction * (rounds + 10))
    for _ in range(10):
        loop.transact(per_transaction)
    began = time.perf_counter()
    for _ in range(rounds):
        loop.transact(per_transaction)
    took = time.perf_counter() - began
    loop.close()
    return rounds * per_transaction / took


def small_transaction(bootstrap: str, name: str, rounds: int = 200) -> Phases:
    """The median of each phase of a transaction that writes one record of redo and two of the journal."""
    loop = Loop(bootstrap, name, places=2)
    loop.fill(3 * (rounds + 20))
    taken = [loop.transact(3) for _ in range(rounds + 20)][20:]
    loop.close()
    return Phases(*[statistics.median(phase) for phase in zip(*taken, strict=True)])
