"""Brokers that die, come back and fall behind (faults B1, B8, B14), three of them; and one whose topics are changed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Broker, Cluster
from steplog.log.topics import EVENTS, Layout, prepare
from tests import servers
from tests.faults.kill_loop import SHIP_BODIES, SHIP_STEPS
from tests.faults.oracles import assert_bodies
from tests.faults.sender import Sender
from tests.faults.server import rss_bytes, until
from tests.kafka_clients import QUICK

from .fleet import Fleet
from .ledger import Ledger

PARTITIONS = 3
AT_ONCE_S = 2.0  # an answer that says no
HELD_BYTES = 64 << 20  # by a node that cannot write, at most


@pytest.fixture(scope="module")
def brokers() -> Iterator[Cluster]:
    with servers.kafka_cluster(3) as cluster:
        yield cluster


@pytest.fixture
def layout(brokers: Cluster, kafka_prefix: str) -> Layout:
    layout = Layout(kafka_prefix, PARTITIONS)
    prepare(admin_of(brokers), layout, None)
    return layout


@pytest.fixture
def fleet(brokers: Cluster, layout: Layout, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, brokers.bootstrap, layout, ("one",)) as fleet:
        yield fleet


@pytest.fixture
def ledger(brokers: Cluster, layout: Layout) -> Iterator[Ledger]:
    with Ledger(brokers.bootstrap, layout) as ledger:
        yield ledger


def admin_of(cluster: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap, **QUICK})


def leader_of(cluster: Cluster, topic: str, partition: int = 0) -> Broker:
    """The broker that leads a partition."""
    found = admin_of(cluster).list_topics(topic, timeout=30).topics[topic].partitions[partition]
    (leader,) = [broker for broker in cluster.brokers if broker.node == found.leader]
    return leader


def in_sync(cluster: Cluster, topic: str) -> int:
    """The fewest replicas in sync of a topic's partitions."""
    partitions = admin_of(cluster).list_topics(topic, timeout=30).topics[topic].partitions
    return min(len(each.isrs) for each in partitions.values())


def all_in_sync(cluster: Cluster, layout: Layout) -> None:
    until(lambda: in_sync(cluster, layout.name(EVENTS)) == 3, within_s=60, why="a broker does not catch up")


def ends(ledger: Ledger, runs: int) -> None:
    until(
        lambda: len(ledger.read().ended) >= runs,
        within_s=40,
        why=f"of {runs} runs {len(ledger.ended)} have ended, {len(ledger.scheduled)} were scheduled",
    )


@pytest.mark.spec("FAULT-B1")
def test_the_leader_of_an_event_partition_dies_while_events_come(
    brokers: Cluster, fleet: Fleet, ledger: Ledger, layout: Layout
) -> None:
    runs = 120
    fleet.start()
    sender = Sender(fleet)

    def send() -> None:
        for first in range(0, runs, 10):
            sender.send(range(first, first + 10))

    sending = threading.Thread(target=send)
    sender.send(range(runs, runs + 10))
    leader = leader_of(brokers, layout.name(EVENTS))
    leader.pause()  # it has connections, and answers nobody
    sending.start()
    until(lambda: leader_of_others(brokers, leader, layout) is not leader, within_s=60)
    leader.kill()
    sending.join(90)
    assert len(sender.accepted) == runs + 10
    ends(ledger, runs + 10)
    leader.start()
    all_in_sync(brokers, layout)
    assert set(sender.accepted) <= ledger.ids
    assert_each_once(fleet, ledger, runs + 10, faults=3)


def leader_of_others(cluster: Cluster, dead: Broker, layout: Layout) -> Broker:
    """Who leads the first partition, as the other brokers see it."""
    others = ",".join(broker.address for broker in cluster.brokers if broker is not dead)
    admin = AdminClient({"bootstrap.servers": others, **QUICK})
    topic = layout.name(EVENTS)
    leader = admin.list_topics(topic, timeout=30).topics[topic].partitions[0].leader
    return next((broker for broker in cluster.brokers if broker.node == leader), dead)


@pytest.mark.spec("FAULT-B14")
def test_nothing_is_accepted_with_too_few_replicas(
    brokers: Cluster, fleet: Fleet, ledger: Ledger, layout: Layout
) -> None:
    """Two of three are gone: what was accepted before is there, and nothing that was not written is said to be."""
    fleet.start()
    sender = Sender(fleet)
    sender.send(range(10))
    ends(ledger, 10)
    gone = [broker for broker in brokers.brokers if broker is not leader_of(brokers, layout.name(EVENTS))]
    for broker in gone:
        broker.kill()
    answer = fleet.post({"name": "order", "id": "refused", "data": {"n": 1}})
    assert answer.status == 503
    for broker in gone:
        broker.launch()
    sender.send(range(10, 20))
    all_in_sync(brokers, layout)
    until(lambda: len(ledger.read().open) == 0 and len(ledger.ended) >= 20, within_s=90)
    assert set(sender.accepted) <= ledger.ids
    assert_each_once(fleet, ledger, 20 + ("refused" in ledger.ids), faults=4)


@pytest.mark.spec("FAULT-B8")
def test_all_brokers_are_away_for_a_while(brokers: Cluster, fleet: Fleet, ledger: Ledger, layout: Layout) -> None:
    fleet.start()
    sender = Sender(fleet)
    sender.send(range(20))
    until(lambda: ledger.read().ended)
    for broker in brokers.brokers:
        broker.kill()
    before_bytes = rss_bytes(fleet["one"].pid("engine"))
    until(lambda: fleet.post({"name": "order", "id": "first", "data": {"n": 1}}).status == 503)
    slowest_s = refused = 0.0
    over_s = time.monotonic() + 6
    filler = "x" * 10_000
    while time.monotonic() < over_s:
        began_s = time.monotonic()
        events = [{"name": "order", "id": f"void-{n}", "data": {"n": n, "x": filler}} for n in range(50)]
        assert fleet.post(events).status == 503
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        refused += 1
    grown_bytes = rss_bytes(fleet["one"].pid("engine")) - before_bytes
    print(f"{refused:.0f} requests refused, the slowest after {slowest_s:.2f} s; {grown_bytes >> 20} MiB more")
    assert slowest_s < AT_ONCE_S
    assert grown_bytes < HELD_BYTES
    for broker in brokers.brokers:
        broker.launch()
    for broker in brokers.brokers:
        broker.wait_until_ready(3)
    sender.send(range(20, 40))
    ends(ledger, 40)
    all_in_sync(brokers, layout)
    until(lambda: not ledger.read().open)
    assert set(sender.accepted) <= ledger.ids
    assert_each_once(fleet, ledger, len(ledger.scheduled), faults=6)


def assert_each_once(fleet: Fleet, ledger: Ledger, runs: int, *, faults: int) -> None:
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert_bodies(fleet.effects, faults=faults, bodies=runs * SHIP_BODIES)
