"""Brokers that stop, are missed and have a full disk (faults B1, B14, B9): three, each with a replica of everything.

That all of them are away is in ``test_outage.py``.
"""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ElectionType, KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Broker, Cluster, install
from steplog.log.topics import EVENTS, REGISTRY, SETTINGS, Layout, prepare
from tests import servers
from tests.faults.disk import build
from tests.faults.kill_loop import SHIP_BODIES, SHIP_STEPS
from tests.faults.oracles import assert_bodies
from tests.faults.sender import Sender
from tests.faults.server import Answer, Server, until
from tests.kafka_clients import DEADLINE_S, QUICK, alter_topic

from .fleet import Fleet
from .ledger import Ledger

PARTITIONS = 3  # each broker leads one of events
PATIENCE_S = 2.0
SOON_S = 90.0


class Three:
    """The brokers; the last one's disk is full while the file ``full`` exists."""

    def __init__(self, folder: Path) -> None:
        self.full = folder / "full"
        data = folder / "data"
        environment = {
            "LD_PRELOAD": str(build(folder)), "DISK_FOLDER": str(data / "broker-3"), "DISK_FULL": str(self.full)
        }  # fmt: skip
        self.cluster = Cluster(install(), 3, data=data, is_brief=True, environment=environment)
        self.with_full_disk = self.cluster.brokers[-1]

    def mend(self) -> None:
        """Have all of them run, whatever a test has left."""
        self.full.unlink(missing_ok=True)
        for broker in self.cluster.brokers:
            broker.resume()
            if not broker.is_running:
                broker.launch()
        for broker in self.cluster.brokers:
            broker.wait_until_ready(3)

    def others(self, broker: Broker) -> list[Broker]:
        return [each for each in self.cluster.brokers if each is not broker]

    def leader(self, topic: str, partition: int = 0, *, seen_by: list[Broker] | None = None) -> Broker | None:
        """The broker that leads a partition, as some of them see it."""
        found = admin_of(seen_by or self.cluster.brokers).list_topics(topic, timeout=DEADLINE_S).topics[topic]
        leader = found.partitions[partition].leader
        return next((broker for broker in self.cluster.brokers if broker.node == leader), None)

    def in_sync(self, layout: Layout, *, seen_by: list[Broker] | None = None) -> int:
        """The fewest replicas in sync that a partition of a log has."""
        topics = admin_of(seen_by or self.cluster.brokers).list_topics(timeout=DEADLINE_S).topics
        return min(len(each.isrs) for topic in SETTINGS for each in topics[layout.name(topic)].partitions.values())

    def wait_until_in_sync(self, layout: Layout) -> None:
        until(lambda: self.in_sync(layout) == 3, within_s=SOON_S, why="a broker does not catch up")

    def is_led_as_made(self, layout: Layout) -> bool:
        """Have those lead that did at first; whether they do."""
        admin = admin_of(self.cluster.brokers)
        admin.elect_leaders(ElectionType.PREFERRED).result(DEADLINE_S)
        topics = admin.list_topics(timeout=DEADLINE_S).topics
        found = [each for topic in SETTINGS for each in topics[layout.name(topic)].partitions.values()]
        return all(each.leader == each.replicas[0] for each in found)


def admin_of(brokers: list[Broker]) -> AdminClient:
    return AdminClient({"bootstrap.servers": ",".join(broker.address for broker in brokers), **QUICK})


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    servers.get_kafka()
    three = Three(tmp_path_factory.mktemp("brokers"))
    three.cluster.start()
    try:
        yield three
    finally:
        three.cluster.kill()


@pytest.fixture
def three(started: Three) -> Iterator[Three]:
    yield started
    started.mend()


@pytest.fixture
def layout(three: Three, kafka_prefix: str) -> Layout:
    """A log's topics, made."""
    layout = Layout(kafka_prefix, PARTITIONS)
    prepare(admin_of(three.cluster.brokers), layout, None)
    return layout


@pytest.fixture
def fleet(three: Three, layout: Layout, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, three.cluster.bootstrap, layout, ("one",)) as fleet:
        fleet.start()
        yield fleet
        print(fleet.printed())


@pytest.fixture
def ledger(three: Three, layout: Layout) -> Iterator[Ledger]:
    with Ledger(three.cluster.bootstrap, layout) as ledger:
        yield ledger


class Impatient:
    """Waits for no answer for long."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def post(self, events: object) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=PATIENCE_S)) as own:
            return self._server.post(events, own)


@contextlib.contextmanager
def sending(sender: Sender, numbers: range) -> Iterator[None]:
    """Send in groups of ten from a thread; all of them are accepted when the block has ended."""

    def send() -> None:
        for first in range(numbers.start, numbers.stop, 10):
            sender.send(range(first, first + 10))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
        thread.join(SOON_S)
        assert not thread.is_alive(), f"{len(sender.accepted)} events were accepted"
    finally:
        sender.is_over = True
        thread.join()
        sender.is_over = False


def assert_each_once(fleet: Fleet, ledger: Ledger, sender: Sender, *, sent: int, faults: int) -> None:
    """Check that nothing accepted is lost, and nothing is done twice. What was refused may have been written."""

    def is_over() -> bool:
        ledger.read()
        return (
            set(sender.accepted) <= set(ledger.ids.values())
            and ledger.accepted.keys() <= ledger.routed.keys()
            and not ledger.open
        )

    begun_s = time.monotonic()
    while not is_over() or len(ledger.ended) < sent:
        assert time.monotonic() < begun_s + SOON_S, (
            f"of {len(ledger.accepted)} events {len(ledger.routed)} are routed, of {len(ledger.scheduled)} runs "
            f"{len(ledger.open)} are open"
        )
    runs = len(set(ledger.ids.values()))
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert len(set(ledger.ids.values())) == runs
    assert_bodies(fleet.effects, faults=faults, bodies=runs * SHIP_BODIES)


@pytest.mark.spec("FAULT-B1")
def test_the_leader_of_an_event_partition_stops_while_events_come(
    three: Three, fleet: Fleet, ledger: Ledger, layout: Layout
) -> None:
    """It answers nobody while others are elected, and dies; clients hear nothing, and send again."""
    sender = Sender(Impatient(fleet["one"]))
    sender.send(range(10))
    leader = three.leader(layout.name(REGISTRY))  # which a node asks most
    assert leader is not None
    (partition,) = [n for n in range(PARTITIONS) if three.leader(layout.name(EVENTS), n) is leader]
    others = three.others(leader)
    leader.pause()
    with sending(sender, range(10, 130)):
        until(lambda: three.leader(layout.name(EVENTS), partition, seen_by=others) in others, within_s=SOON_S)
        leader.kill()
    print(f"{sender.unanswered} requests without an answer, {sender.refused} refused")
    assert sender.unanswered > 0, "clients saw time-outs"
    leader.start()
    three.wait_until_in_sync(layout)
    assert_each_once(fleet, ledger, sender, sent=130, faults=3)
    assert set(ledger.ids.values()) == {f"order-{n}" for n in range(130)}


@pytest.mark.spec("FAULT-B14")
def test_nothing_is_accepted_with_too_few_replicas(three: Three, fleet: Fleet, ledger: Ledger, layout: Layout) -> None:
    """One of three that are wanted is gone: the cluster refuses. A second is gone: it does not answer."""
    for topic in SETTINGS:
        alter_topic(three.cluster.bootstrap, layout.name(topic), "min.insync.replicas", "3")
    sender = Sender(fleet)
    sender.send(range(10))
    until(lambda: len(ledger.read().ended) == 10)
    leader = three.leader(layout.name(EVENTS))
    assert leader is not None
    first, second = three.others(leader)
    first.kill()
    until(lambda: three.in_sync(layout, seen_by=[leader, second]) == 2, within_s=SOON_S)
    until(lambda: refusal(leader, layout.name(EVENTS)) == KafkaError.NOT_ENOUGH_REPLICAS, within_s=SOON_S)
    answer = fleet.post({"name": "order", "id": "refused", "data": {"n": 0}})
    assert (answer.status, answer.ids) == (503, [])
    second.kill()
    with sending(sender, range(10, 20)):
        until(lambda: sender.refused > 0, within_s=SOON_S)
        assert len(sender.accepted) == 10
        first.launch()
        second.launch()
    three.wait_until_in_sync(layout)
    assert_each_once(fleet, ledger, sender, sent=20, faults=4)
    assert set(ledger.ids.values()) - {"refused"} == {f"order-{n}" for n in range(20)}


def refusal(leader: Broker, topic: str) -> int:
    """What a leader answers to a record, not an event, that all replicas are to have."""
    errors: list[int] = []

    def note(error: KafkaError | None, _: Message) -> None:
        errors.append(KafkaError.NO_ERROR if error is None else error.code())

    settings = {"bootstrap.servers": leader.address, "acks": "all", "retries": 0, "request.timeout.ms": 1_000, **QUICK}
    producer = Producer(settings)
    producer.produce(topic, b"never", partition=0, on_delivery=note)
    producer.flush(DEADLINE_S)
    (error,) = errors
    return error


@pytest.mark.spec("FAULT-B9")
def test_a_broker_whose_disk_is_full_dies_and_comes_back_when_there_is_space(
    three: Three, fleet: Fleet, ledger: Ledger, layout: Layout
) -> None:
    """It dies in the middle of a write, and the others go on. It comes back, leads again, and what it tells is true."""
    broker, name = three.with_full_disk, layout.name(EVENTS)
    (partition,) = [n for n in range(PARTITIONS) if three.leader(name, n) is broker]
    sender = Sender(fleet)
    sender.send(range(10))
    three.full.touch()
    with sending(sender, range(10, 100)):
        until(lambda: not broker.is_running, within_s=SOON_S, why="it runs with a full disk")
    assert three.full.with_suffix(".fired").exists()
    assert "No space left on device" in broker.log.read_text()
    three.full.unlink()
    broker.start()
    three.wait_until_in_sync(layout)
    until(lambda: three.is_led_as_made(layout), within_s=SOON_S)
    assert three.leader(name, partition) is broker
    assert_each_once(fleet, ledger, sender, sent=100, faults=3)
    assert fleet["one"].stop() == 0
    fleet.nodes = {"two": fleet.node("two")}  # which knows only what the brokers tell
    fleet.start()
    sender.send(range(110))  # the state has which of these were there
    assert_each_once(fleet, ledger, sender, sent=110, faults=4)
