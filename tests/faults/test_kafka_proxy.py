"""The proxy between Kafka's clients and a broker does what it says, to the api that it says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from compose.kafka_local import Cluster
from tests.kafka_clients import DEADLINE_S, committed, create_topic, transactional

from .kafka_proxy import Api, At, KafkaProxy


@pytest.fixture
def topic(kafka: Cluster, kafka_prefix: str) -> str:
    name = f"{kafka_prefix}.t"
    create_topic(kafka.bootstrap, name)
    return name


@pytest.fixture
def producer(kafka: Cluster, kafka_proxy: KafkaProxy, kafka_prefix: str) -> Producer:
    """A transactional producer whose every connection goes through the proxy."""
    return transactional(kafka.proxied_bootstrap, kafka_prefix)


@contextmanager
def committing(producer: Producer, topic: str) -> Iterator[None]:
    """Commit a transaction of one record while the block runs."""
    with ThreadPoolExecutor(1) as thread:
        producer.begin_transaction()
        producer.produce(topic, b"value")
        commit = thread.submit(producer.commit_transaction, DEADLINE_S)
        yield
        commit.result(DEADLINE_S)


def test_every_request_goes_through_it_and_is_counted(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str
) -> None:
    for _ in range(2):
        with committing(producer, topic):
            pass
    assert committed(kafka.bootstrap, topic) == [b"value"] * 2
    counts = kafka_proxy.counts
    assert (counts[Api.PRODUCE], counts[Api.END_TXN], counts[Api.FETCH]) == (2, 2, 0)
    assert counts[Api.INIT_PRODUCER_ID] > 0


@pytest.mark.parametrize(("at", "seen"), [("request", []), ("answer", [b"value"])])
def test_one_api_alone_is_held_before_or_after_the_broker_acts(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str, at: At, seen: list[bytes]
) -> None:
    fault = kafka_proxy.hold(Api.END_TXN, at=at)
    with committing(producer, topic):
        fault.wait_until_fired()
        assert committed(kafka.bootstrap, topic) == seen
        fault.release()
    assert committed(kafka.bootstrap, topic) == [b"value"]
    assert (fault.fired, kafka_proxy.counts[Api.END_TXN]) == (1, 1)


@pytest.mark.parametrize("at", ["request", "answer"])
def test_a_connection_is_reset_before_or_after_the_broker_acts(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str, at: At
) -> None:
    fault = kafka_proxy.hang_up(Api.END_TXN, at=at)
    with committing(producer, topic):
        pass
    assert (fault.fired, kafka_proxy.counts[Api.END_TXN]) == (1, 2)
    assert committed(kafka.bootstrap, topic) == [b"value"]


def test_all_connections_are_reset_and_clients_come_again(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str
) -> None:
    assert kafka_proxy.reset() > 0
    with committing(producer, topic):
        pass
    assert committed(kafka.bootstrap, topic) == [b"value"]


def test_a_stalled_network_passes_nothing_until_it_goes_on(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str
) -> None:
    producer.begin_transaction()
    kafka_proxy.stall()
    producer.produce(topic, b"value")
    assert producer.flush(0.2) == 1
    kafka_proxy.resume()
    assert producer.flush(DEADLINE_S) == 0
    producer.commit_transaction(DEADLINE_S)
    assert committed(kafka.bootstrap, topic) == [b"value"]


def test_each_request_of_an_api_is_passed_on_later(
    kafka: Cluster, kafka_proxy: KafkaProxy, producer: Producer, topic: str
) -> None:
    fault = kafka_proxy.delay(Api.PRODUCE, 0.05)
    for _ in range(2):
        with committing(producer, topic):
            pass
    assert fault.fired == 2
    kafka_proxy.clear()
    with committing(producer, topic):
        pass
    assert fault.fired == 2
    assert committed(kafka.bootstrap, topic) == [b"value"] * 3
