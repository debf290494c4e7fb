"""Engine processes on a real broker, whose processes, network and topics fail (faults A and B on Kafka).

The topics are read by a plain consumer, which holds what is committed against what has to be true (``ledger.py``).
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.engine import records
from steplog.log.client import CALL_S
from steplog.log.topics import DEAD, EVENTS, INBOX, Layout, prepare
from tests.faults.kafka_proxy import Api, At, KafkaProxy
from tests.faults.kill_loop import SHIP_BODIES, SHIP_STEPS
from tests.faults.oracles import assert_bodies, calls
from tests.faults.sender import Sender
from tests.faults.server import until
from tests.kafka_clients import QUICK, committed, produce, written

from .fleet import Fleet, freeze, thaw
from .kill_loop import kill_loop
from .ledger import Ledger

PARTITIONS = 4
SLOW, MINUTELY = Path(__file__).with_name("slow.py"), Path(__file__).with_name("minutely.py")
FAST_CLOCK = Path(__file__).with_name("fast_clock")
GROUP = 20  # events a request
CRONS = 6  # of minutely.py
ULID_TIME = 10  # characters of an id that say when


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


def own(ledger: Ledger, *names: str) -> None:
    """Wait until each of these nodes has partitions."""
    until(lambda: set(ledger.read().owners.values()) >= set(names), why=f"owners: {ledger.owners}")


# --- processes die


@pytest.mark.spec("FAULT-A7")
def test_processes_are_killed_at_random(fleet: Fleet, ledger: Ledger) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    done = kill_loop(fleet, ledger, seed=seed, runs=300, seconds=6, pause_s=(0.5, 2))
    print(done)
    assert sum(done.kills.values()) >= 2


@pytest.mark.spec("FAULT-A1")
def test_a_process_is_killed_at_each_request_of_an_append_and_a_commit(
    proxied: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy
) -> None:
    """What the dead process had sent, and the network still holds, reaches the broker when the next one is at work."""
    apis = (Api.PRODUCE, Api.TXN_OFFSET_COMMIT, Api.END_TXN)
    points: list[tuple[Api, At]] = [(api, at) for api in apis for at in ("request", "answer")]
    runs, one = 0, proxied["one"]
    sender = Sender(one)
    one.start()
    for api, at in points:
        if api is not Api.PRODUCE:  # among the commits of runs that are on their way
            commits = kafka_proxy.counts[Api.END_TXN]
            sender.send(range(runs, runs + GROUP))
            runs += GROUP
            until(lambda commits=commits: kafka_proxy.counts[Api.END_TXN] > commits + 1)  # type: ignore[misc]
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
    assert_bodies(proxied.effects, faults=len(points), bodies=runs * SHIP_BODIES)


@pytest.mark.spec("FAULT-A6")
def test_many_sleeps_are_due_when_a_process_is_killed(fleet: Fleet, ledger: Ledger) -> None:
    sleeps, one = 1_000, fleet["one"]
    fleet.start("one", "two")
    own(ledger, "one", "two")
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
    with second:
        with load(fleet, 200, seconds=5):
            until(lambda: len(ledger.read().ended) > 10)
            second.start()
            fleet.nodes["again"] = second
            assert first.ended() == 3
        ends(ledger, 200)
        assert not second.has_ended
    (line,) = [line for line in first.printed().splitlines() if line.startswith("error[")]
    assert line.startswith("error[node_replaced]: another process with the node name one has started")
    ledger.assert_adds_up(runs=200, steps=200 * SHIP_STEPS)


# --- the network and the group


@pytest.mark.spec("FAULT-B2")
def test_commits_are_delayed_beyond_their_time_out_while_new_work_comes(
    proxied: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy
) -> None:
    """One reaches the broker when its node has begun anew: it may neither commit nor abort what is not its.

    Of the other the broker has taken what the node does not know: that is not done again.
    """
    runs = 400
    proxied.start("one", "two")
    own(ledger, "one", "two")
    with load(proxied, runs, seconds=CALL_S + 4):
        ends(ledger, GROUP)
        request = kafka_proxy.hold(Api.END_TXN)
        request.wait_until_fired()  # its node commits nothing meanwhile, so the next answer is for the other one
        answer = kafka_proxy.hold(Api.END_TXN, at="answer")
        answer.wait_until_fired()
        for name in ("one", "two"):
            until(lambda name=name: "log unavailable" in proxied[name].printed(), why=f"{name} gave up")  # type: ignore[misc]
        commits = kafka_proxy.counts[Api.END_TXN]
        until(lambda: kafka_proxy.counts[Api.END_TXN] > commits + 2, why="they began anew")
        request.release()
        answer.release()
    ends(ledger, runs)
    for name in ("one", "two"):
        assert proxied[name].stop() == 0
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert_bodies(proxied.effects, faults=2, bodies=runs * SHIP_BODIES)
    assert request.fired == answer.fired == 1


@pytest.mark.spec("FAULT-B4")
def test_others_go_on_where_a_killed_process_has_left_a_transaction_open(
    kafka: Cluster, fleet: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy, layout: Layout
) -> None:
    """The partitions of the dead run elsewhere, and readers get past what it had open."""
    one = fleet.nodes["one"] = fleet.node("first", url=f"kafka://{kafka.proxied_bootstrap}/{layout.prefix}")
    fleet.start("one", "two")
    own(ledger, "first", "two")
    fault = kafka_proxy.hold(Api.END_TXN)
    with load(fleet, 100):
        fault.wait_until_fired()
        one.kill()
        killed_s = time.monotonic()
    until(lambda: set(ledger.read().owners.values()) == {"two"}, why=f"{ledger.owners}")
    took_s = time.monotonic() - killed_s
    ends(ledger, 100)
    print(f"the partitions of the dead were loaded elsewhere after {took_s:.1f} s, {time.monotonic() - killed_s:.1f}")
    fault.release()
    ledger.assert_adds_up(runs=100, steps=100 * SHIP_STEPS)
    assert_bodies(fleet.effects, faults=2, bodies=100 * SHIP_BODIES)


@pytest.mark.spec("FAULT-B5")
def test_processes_join_and_leave_at_random(fleet: Fleet, ledger: Ledger) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, runs, moves = random.Random(seed), 300, 0
    fleet["one"].start()
    with load(fleet, runs, seconds=8) as sender:
        while len(sender.accepted) < runs or moves < 4:
            away = [server for server in fleet.nodes.values() if server.has_ended]
            here = [server for server in fleet.nodes.values() if not server.has_ended]
            if away and (len(here) == 1 or chance.random() < 0.5):
                chance.choice(away).start()
            else:
                assert chance.choice(here).stop() == 0
            moves += 1
            ledger.read()
    assert moves >= 4
    ends(ledger, runs)
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert_bodies(fleet.effects, faults=moves, bodies=runs * SHIP_BODIES)


@pytest.mark.spec("FAULT-B6")
def test_partitions_are_taken_away_while_steps_run(
    kafka: Cluster, ledger: Ledger, layout: Layout, tmp_path: Path
) -> None:
    runs = 40
    with Fleet(tmp_path, kafka.bootstrap, layout, ("one", "two"), functions=SLOW) as fleet:
        fleet["one"].start()
        with load(fleet, runs):
            until(lambda: len(ledger.read().scheduled) == runs)
        fleet["two"].start()
        own(ledger, "one", "two")
        ends(ledger, runs)
        again = [r for _, r in ledger.journal if isinstance(r, records.RunStarted) and r.generation > 1]
        assert again, "the fault fired while steps ran"
        ledger.assert_adds_up(runs=runs, steps=runs * 2)
        assert_bodies(fleet.effects, faults=2, bodies=runs * 2)


@pytest.mark.spec("FAULT-B7")
def test_connections_are_reset_again_and_again(proxied: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy) -> None:
    one, resets, slowest_s = proxied["one"], 20, 0.0
    one.start()
    sender = Sender(one)
    for number in range(resets):
        assert kafka_proxy.reset() > 0
        began_s = time.monotonic()
        sender.send([number])
        ends(ledger, number + 1, within_s=15)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    print(f"the slowest of {resets} runs took {slowest_s:.1f} s after its reset")
    assert one.stop() == 0
    ledger.assert_adds_up(runs=resets, steps=resets * SHIP_STEPS)


@pytest.mark.spec("FAULT-B15")
def test_the_network_is_slow_stalls_and_resets(proxied: Fleet, ledger: Ledger, kafka_proxy: KafkaProxy) -> None:
    runs = 200
    proxied.start("one", "two")
    own(ledger, "one", "two")
    kafka_proxy.delay(Api.PRODUCE, 0.1)
    late = kafka_proxy.delay(Api.END_TXN, 0.3)
    with load(proxied, runs, seconds=6):
        for _ in range(3):
            time.sleep(0.5)  # of slow work
            kafka_proxy.stall()
            time.sleep(1)
            kafka_proxy.resume()
            assert kafka_proxy.reset() > 0
    assert late.fired > 0
    ends(ledger, runs)
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert_bodies(proxied.effects, faults=6, bodies=runs * SHIP_BODIES)


@pytest.mark.spec("FAULT-F3")
def test_two_nodes_believe_that_a_cron_is_theirs(
    kafka: Cluster, ledger: Ledger, kafka_proxy: KafkaProxy, layout: Layout, tmp_path: Path
) -> None:
    """One stands still while the commit of a tick is on its way; another takes over, and starts the same tick."""
    clock = {"PYTHONPATH": str(FAST_CLOCK), "CLOCK_FASTER": "30", "CLOCK_FROM_MS": f"{time.time() * 1000:.0f}"}
    with Fleet(tmp_path, kafka.proxied_bootstrap, layout, ("one",), functions=MINUTELY, environment=clock) as fleet:
        one = fleet["one"]
        two = fleet.nodes["two"] = fleet.node("two", url=f"kafka://{kafka.bootstrap}/{layout.prefix}")
        one.start()
        until(lambda: len(ledger.read().ended) >= CRONS)
        while True:
            fault = kafka_proxy.hold(Api.END_TXN)
            fault.wait_until_fired()
            written_by_one = ticks(kafka, layout, written)
            if started := written_by_one.keys() - ticks(kafka, layout, committed).keys():
                break
            fault.release()  # what a tick has started, and no tick
        freeze(one)
        try:
            two.start()
            until(
                lambda: started <= {id_[ULID_TIME:] for id_ in ledger.read().accepted}, why=f"owners: {ledger.owners}"
            )
            assert set(ledger.owners.values()) == {"two"}
        finally:
            thaw(one)
        fault.release()
        own(ledger, "one", "two")
        ends(ledger, len(ledger.ended) + CRONS)
        ledger.read_all()
        both = ticks(kafka, layout, written)
        assert all(both[tick] == 2 for tick in started), "each of the two has started it"
        assert max(ticks(kafka, layout, committed).values()) == 1
    runs = [r for _, r in ledger.journal if isinstance(r, records.RunScheduled) and r.events[0] in ledger.ids]
    assert len({r.function for r in runs}) == CRONS
    for function in {r.function for r in runs}:
        planned = sorted(
            datetime.fromisoformat(ledger.ids[event]) for r in runs if r.function == function for event in r.events
        )
        assert planned == [planned[0] + timedelta(minutes=n) for n in range(len(planned))], "one run at each tick"
    assert max(ledger.ended.values()) == max(ledger.steps.values()) == 1


def ticks(kafka: Cluster, layout: Layout, read: Callable[[str, str, int], list[bytes | None]]) -> Counter[str]:
    """The ticks of crons among the events, and how often each was written: what an id has behind its time."""
    found = [value for p in range(PARTITIONS) for value in read(kafka.bootstrap, layout.name(EVENTS), p)]
    return Counter([json.loads(value)["internal_id"][ULID_TIME:] for value in found if value is not None])


# --- topics


@pytest.mark.spec("FAULT-B17")
def test_poison_is_put_aside_and_its_neighbours_go_on(
    kafka: Cluster, fleet: Fleet, ledger: Ledger, layout: Layout
) -> None:
    fleet["one"].start()
    poison = (b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"v": 9}', bytes(1_000))
    with load(fleet, 60, seconds=2):
        for topic in (EVENTS, INBOX):
            produce(kafka.bootstrap, layout.name(topic), *poison)
    ends(ledger, 60)
    ledger.assert_adds_up(runs=60, steps=60 * SHIP_STEPS)
    dead = [
        value for partition in range(PARTITIONS) for value in committed(kafka.bootstrap, layout.name(DEAD), partition)
    ]
    assert Counter(dead) == Counter(poison * 2)
