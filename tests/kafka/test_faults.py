"""Engine processes on a real broker, whose processes, network and topics fail (faults A and B on Kafka).

The topics are read by a plain consumer, which holds what is committed against what has to be true (``ledger.py``).
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.engine import records
from steplog.log.topics import Layout, prepare
from tests.faults.kafka_proxy import Api, At, KafkaProxy
from tests.faults.kill_loop import SHIP_BODIES, SHIP_STEPS
from tests.faults.oracles import assert_bodies, calls
from tests.faults.sender import Sender
from tests.faults.server import until
from tests.kafka_clients import QUICK

from .fleet import Fleet
from .kill_loop import kill_loop
from .ledger import Ledger

PARTITIONS = 4
GROUP = 20  # events a request


@pytest.fixture
def layout(kafka: Cluster, kafka_prefix: str) -> Layout:
    """A log's topics, made."""
    layout = Layout(kafka_prefix, PARTITIONS)
    prepare(AdminClient({"bootstrap.servers": kafka.bootstrap, **QUICK}), layout, None)
    return layout


@pytest.fixture
def ledger(kafka: Cluster, layout: Layout) -> Iterator[Ledger]:
    with Ledger(kafka.bootstrap, layout) as ledger:
        yield ledger


@pytest.fixture
def kafka_proxy(kafka: Cluster) -> Iterator[KafkaProxy]:
    with KafkaProxy(kafka.brokers[0]) as proxy:
        yield proxy


@pytest.fixture
def fleet(kafka: Cluster, layout: Layout, tmp_path: Path) -> Iterator[Fleet]:
    """Nodes without a proxy."""
    with Fleet(tmp_path, kafka.bootstrap, layout) as fleet:
        yield fleet


@pytest.fixture
def proxied(kafka: Cluster, layout: Layout, kafka_proxy: KafkaProxy, tmp_path: Path) -> Iterator[Fleet]:
    """Nodes whose connections go through the proxy."""
    with Fleet(tmp_path, kafka.proxied_bootstrap, layout) as fleet:
        yield fleet


@contextmanager
def load(fleet: Fleet, runs: int, *, seconds: float = 0) -> Iterator[Sender]:
    """Send orders from a thread, spread over some seconds; all of them are accepted when the block has ended."""
    sender = Sender(fleet)

    def send() -> None:
        began_s = time.monotonic()
        for first in range(0, runs, GROUP):
            time.sleep(max(began_s + seconds * first / runs - time.monotonic(), 0))
            sender.send(range(first, min(first + GROUP, runs)))

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    try:
        yield sender
        sending.join(60)
        assert len(sender.accepted) == runs, f"{len(sender.accepted)} of {runs} events were accepted"
    finally:
        sender.is_over = True
        sending.join()


def ends(ledger: Ledger, runs: int, *, within_s: float = 60) -> None:
    """Wait until so many runs have ended."""
    until(
        lambda: len(ledger.read().ended) >= runs, within_s=within_s,
        why=f"of {len(ledger.scheduled)} runs {len(ledger.ended)} have ended, of {runs}",
    )  # fmt: skip


def all_own(fleet: Fleet, ledger: Ledger) -> None:
    """Wait until every node has partitions."""
    until(lambda: set(ledger.read().owners.values()) >= set(fleet.nodes), why=f"owners: {ledger.owners}")


# --- processes die


@pytest.mark.spec("FAULT-A7")
def test_processes_are_killed_at_random(fleet: Fleet, ledger: Ledger) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    done = kill_loop(fleet, ledger, seed=seed, runs=300, seconds=10, pause_s=(0.5, 2))
    print(done)
    assert sum(done.kills.values()) >= 2


@pytest.mark.spec("FAULT-A1")
def test_a_process_is_killed_at_each_request_of_an_append_and_a_commit(
    proxied: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy
) -> None:
    """What the dead process had sent, and the network still holds, reaches the broker when the next one is at work."""
    points: list[tuple[Api, At, str]] = [
        (Api.PRODUCE, "request", "before append"),
        (Api.PRODUCE, "answer", "after append"),
        (Api.TXN_OFFSET_COMMIT, "request", "before positions"),
        (Api.TXN_OFFSET_COMMIT, "answer", "after positions"),
        (Api.END_TXN, "request", "before commit"),
        (Api.END_TXN, "answer", "after commit"),
    ]
    runs, one = 0, proxied["one"]
    sender = Sender(one)
    one.start()
    for api, at, name in points:
        for of_results in (False, True):
            if of_results:  # the first runs of the load are on their way
                if api is Api.PRODUCE:
                    continue
                sender.send(range(runs, runs + GROUP))
                runs += GROUP
                until(lambda: ledger.read().open, why=name)
            fault = kafka_proxy.hold(api, at=at)
            sending = threading.Thread(target=sender.send, args=(range(runs, runs + GROUP),))
            sending.start()
            fault.wait_until_fired()
            one.kill()
            one.start()
            fault.release()
            sending.join()
            runs += GROUP
    ends(ledger, runs)
    assert one.stop() == 0
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert_bodies(proxied.effects, faults=len(points) * 2, bodies=runs * SHIP_BODIES)


@pytest.mark.spec("FAULT-A6")
def test_many_sleeps_are_due_when_a_process_is_killed(fleet: Fleet, ledger: Ledger) -> None:
    sleeps, one = 1_000, fleet["one"]
    one.start()
    fleet["two"].start()
    all_own_two = lambda: {"one", "two"} <= set(ledger.read().owners.values())  # noqa: E731
    until(all_own_two)
    due_ms = round(time.time() * 1000) + 3_000
    for first in range(0, sleeps, 250):
        events = [{"name": "nap", "data": {"due_ms": due_ms + n % 1_000}} for n in range(first, first + 250)]
        assert fleet.post(events).status == 200
    until(lambda: len(ledger.read().ended) > 0)
    one.kill()
    woken = len(ledger.read().ended)
    assert 0 < woken < sleeps, "the fault fired among the wakes"
    ends(ledger, sleeps)  # the other has all partitions when the session of the dead one is over
    ledger.assert_adds_up(runs=sleeps, steps=sleeps * 2)
    woke = [r for _, r in ledger.journal if isinstance(r, records.StepCompleted) and r.op == "Sleep"]
    assert len(woke) == sleeps
    assert min(r.at for r in woke) >= due_ms
    assert min(call.at_ms for call in calls(fleet.effects)) >= due_ms
    assert_bodies(fleet.effects, faults=1, bodies=sleeps)


@pytest.mark.spec("FAULT-A9", "FAULT-B3")
def test_a_second_process_of_the_same_name_ends_the_first(fleet: Fleet, ledger: Ledger) -> None:
    first, second = fleet["one"], fleet.node("one", folder="again")
    first.start()
    with second, load(fleet, 200, seconds=8):
        until(lambda: len(ledger.read().ended) > 10)
        second.start()
        fleet.nodes["again"] = second
        code = first.ended()
        assert code == 3
    (line,) = [line for line in first.printed().splitlines() if line.startswith("error[")]
    assert "kafka.node" in line
    ends(ledger, 200)
    ledger.assert_adds_up(runs=200, steps=200 * SHIP_STEPS)
    assert not second.has_ended
