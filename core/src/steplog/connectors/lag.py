"""How far connectors have read: what their groups have committed, beside where the topics end."""

from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from steplog.config.connectors import KafkaConnector
from steplog.connectors.kafka import ANSWER_S, connection, group_of
from steplog.connectors.running import Cluster
from steplog.errors import LogUnavailable, NotFound


class SourceLag(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of a topic that a connector reads."""

    connector: str
    topic: str
    partition: int
    committed: int | None  # None: nothing was read yet
    end: int
    waiting: int  # offsets: marks of transactions are among them
    client: str | None  # that has the partition now


def lag_of(name: str, table: KafkaConnector, prefix: str, cluster: Cluster | None) -> list[SourceLag]:
    """How far a connector has come in each partition.

    Raises ``NotFound`` for a topic that is not there, ``LogUnavailable`` where no broker answers.
    """
    settings: dict[str, str | int | float | bool] = {**connection(table, cluster), "log_level": 0}
    group = group_of(name, table, prefix)
    consumer = Consumer({**settings, "group.id": group, "enable.auto.commit": False})
    try:
        clients = _clients(AdminClient(settings), group)
        return [each for topic in table.topics for each in _of_topic(consumer, name, table, topic, clients)]
    except KafkaException as error:
        raise LogUnavailable(f"connector {name}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _clients(admin: AdminClient, group: str) -> dict[tuple[str, int], str]:
    """Who has each partition; nobody where there is no such group."""
    (asked,) = admin.describe_consumer_groups([group], request_timeout=ANSWER_S).values()
    return {
        (each.topic, each.partition): member.client_id
        for member in asked.result().members
        for each in member.assignment.topic_partitions
    }


def _of_topic(
    consumer: Consumer, name: str, table: KafkaConnector, topic: str, clients: dict[tuple[str, int], str]
) -> Iterator[SourceLag]:
    found = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic]
    if found.error is not None:
        raise NotFound(f"connector {name}: there is no topic {topic!r}: {found.error.str()}")
    places = [TopicPartition(topic, partition) for partition in sorted(found.partitions)]
    for place in consumer.committed(places, timeout=ANSWER_S):
        low, end = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), timeout=ANSWER_S)
        committed = place.offset if place.offset >= 0 else None
        first = (low if table.start == "earliest" else end) if committed is None else max(committed, low)
        yield SourceLag(
            connector=name, topic=topic, partition=place.partition, committed=committed, end=end,
            waiting=end - first, client=clients.get((topic, place.partition)),
        )  # fmt: skip
