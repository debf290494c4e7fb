"""Events: groups, duplicates, the future, and those that steps send."""

import msgspec
import pytest

from steplog.engine import keys, records
from steplog.engine.effects import Dispatch, MakeRoom, Resume
from steplog.engine.events import LEAST_TS_MS, MOST_TS_MS
from steplog.engine.functions import EngineConfig
from steplog.engine.ids import decode_ulid, encode_ulid
from steplog.engine.messages import SweepSeen
from steplog.engine.operations import EventOut

from .partition import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    SPILLING,
    Partition,
    all_of,
    answered,
    ended,
    function,
    parked,
    raised,
    ran,
    returned,
    sent,
    slept,
    the,
)

PACK = function("pack")
MIDNIGHT = NOON + 12 * HOUR


def skipped(partition: Partition) -> list[list[str]]:
    return [[f"{s.function} {s.reason}" for s in routed.skipped] for routed in partition.of(records.EventRouted)]


# --- acceptance


def test_a_group_of_events_is_one_commit_and_one_answer() -> None:
    partition = Partition(PACK)
    group = [partition.event("pack", is_last=False) for _ in range(2)]
    partition.processor.post(group[0])
    assert not partition.processor.advance(partition.now_ms), "the turn waits for the rest of the group"
    released = partition.post(group[1], partition.event("pack", ticket=7))
    assert answered(released) == [7]
    assert len(all_of(Dispatch, released)) == 3
    assert partition.commits == 1


def test_an_answer_follows_the_commit() -> None:
    partition = Partition(PACK)
    partition.decide(partition.event("pack", ticket=7))  # the process dies before it is written
    assert partition.crash() == []
    assert partition.log.events == []


@pytest.mark.spec("EVT-05")
def test_a_past_time_delays_nothing() -> None:
    partition = Partition(PACK)
    assert the(Dispatch, partition.send("pack", ts_ms=NOON - 400 * DAY)).generation == 1


@pytest.mark.spec("EVT-06")
def test_a_future_time_delays_the_start() -> None:
    partition = Partition(PACK, limits=SPILLING)
    assert partition.send("pack", ts_ms=NOON + DAY) == []
    (scheduled,) = partition.of(records.RunScheduled)
    assert scheduled.due == NOON + DAY
    assert partition.crash() == []
    assert partition.advance(DAY - 1) == []
    run = the(Dispatch, partition.advance(1))
    assert (run.generation, run.run_id) == (1, scheduled.run)
    partition.post(returned(run))
    assert partition.kinds(run.run_id) == ["run.scheduled", "run.started", "run.completed"]
    assert partition.stored() == []


@pytest.mark.spec("FAULT-F5", "EVT-05", "EVT-06")
def test_an_event_without_a_time_starts_at_once_whatever_the_clock_of_who_received_it() -> None:
    partition = Partition(function("a"))
    event = partition.event("a")
    partition.now_ms -= 5
    dispatch = the(Dispatch, partition.post(event))
    assert dispatch.generation == 1
    (scheduled,) = partition.of(records.RunScheduled)
    assert (scheduled.due, scheduled.started) == (msgspec.UNSET, True)


def test_an_event_of_the_far_future_or_past_holds_no_other_up() -> None:
    partition = Partition(PACK, function("other"), config=EngineConfig(live_runs=1), limits=SPILLING)
    far = partition.event("pack", ts_ms=MOST_TS_MS - 1, is_last=False)
    past = partition.event("pack", ts_ms=LEAST_TS_MS, is_last=False)
    first = the(Dispatch, partition.post(far, past, partition.event("other")))
    second = the(Dispatch, partition.post(returned(first)))
    assert (first.function, second.function) == ("a-pack", "a-other")
    partition.post(returned(second))
    assert partition.advance(MOST_TS_MS - 2 - NOON) == []
    third = the(Dispatch, partition.advance(1))
    assert msgspec.json.decode(third.events[0])["ts"] == MOST_TS_MS - 1


def test_a_delayed_run_that_finds_no_place_leaves_nothing_behind() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=1), limits=SPILLING)
    first = partition.start("pack")
    partition.send("pack", ts_ms=NOON + MINUTE)
    partition.send("something else")
    assert the(MakeRoom, partition.advance(MINUTE)).count == 1
    second = the(Dispatch, partition.post(returned(first)))
    partition.post(returned(second))
    assert partition.stored() == []


# --- duplicates


@pytest.mark.spec("EVT-14", "ATV-02", "IDEM-03", "LIMW-07")
def test_an_id_starts_one_run_in_24_hours() -> None:
    partition = Partition(PACK)
    run = the(Dispatch, partition.send("pack", id="order-1"))
    assert partition.send("pack", id="order-1") == []
    assert ended(partition.post(returned(run))) == "completed"
    partition.advance(DAY - 1)
    assert partition.send("pack", id="order-1") == []
    partition.advance(1)
    assert the(Dispatch, partition.send("pack", id="order-1")).run_id != run.run_id
    assert skipped(partition) == [[], ["a-pack duplicate"], ["a-pack duplicate"], []]
    assert [bool(routed.duplicate) for routed in partition.of(records.EventRouted)] == [False, True, True, False]
    assert sum(len(turn) for _, turn in partition.log.events) == 4, "every copy is kept"


def test_an_id_is_known_across_midnight() -> None:
    partition = Partition(PACK, now_ms=MIDNIGHT - 1)
    run = the(Dispatch, partition.send("pack", id="order-1"))
    partition.post(returned(run))
    partition.advance(1)
    assert partition.send("pack", id="order-1") == []
    partition.advance(DAY - 2)
    assert partition.send("pack", id="order-1") == []
    partition.advance(1)
    assert len(partition.send("pack", id="order-1")) == 1


def test_an_id_counts_for_each_function_by_itself() -> None:
    partition = Partition(function("bill", "order"), function("pack", "order"), function("ship", "shipment"))
    assert len(all_of(Dispatch, partition.send("order", id="1"))) == 2
    assert len(all_of(Dispatch, partition.send("shipment", id="1"))) == 1
    assert partition.send("order", id="1") == []


def test_events_without_an_id_are_never_duplicates() -> None:
    partition = Partition(PACK)
    assert [len(partition.send("pack", id=given)) for given in (None, None, "", "")] == [1, 1, 1, 1]


@pytest.mark.spec("FAULT-I1")
@pytest.mark.parametrize(
    "event_id", [" ", "x" * 10_240, "\0", "../../etc", "\u202eabc", "🙂", "A", "a", "1", "null", "a\n"]
)
def test_any_text_is_an_id_of_its_own(event_id: str) -> None:
    partition = Partition(PACK)
    for other in ("other", event_id.swapcase() + "!", event_id[:-1] or "-"):
        assert len(partition.send("pack", id=other)) == 1
    assert len(partition.send("pack", id=event_id)) == 1
    assert partition.send("pack", id=event_id) == []
    stored = msgspec.json.decode(partition.log.events[-1][1][-1])
    assert stored["id"] == event_id


@pytest.mark.parametrize("idle_days", [1, 2, 5])
def test_an_id_is_known_as_long_as_its_run_is_open(idle_days: int) -> None:
    """P3: the window is never shorter than the life of the run."""
    partition = Partition(PACK, limits=SPILLING)
    run = the(Dispatch, partition.send("pack", id="order-1"))
    partition.post(slept(run, "wait", NOON + 60 * DAY), parked(run, delivered=0))
    for _ in range(20 // idle_days):
        partition.now_ms += idle_days * DAY  # nothing happened meanwhile: the sweep meets the duplicate in one turn
        assert partition.send("pack", id="order-1") == []
    partition.crash()
    assert partition.send("pack", id="order-1") == []
    woken = the(Dispatch, partition.advance(60 * DAY))
    partition.post(returned(woken))
    assert len(all_of(Dispatch, partition.send("pack", id="order-1"))) == 1


def test_an_id_is_known_before_the_sweep_of_a_start_has_come_to_it() -> None:
    partition = Partition(PACK, limits=SPILLING)
    last = max((f"order-{n}" for n in range(100)), key=lambda name: keys.seen(0, 0, "a-pack", name))
    open_run = the(Dispatch, partition.send("pack", id=last))
    partition.post(slept(open_run, "wait", NOON + 60 * DAY), parked(open_run, delivered=0))
    for number in range(1_200):  # more than one sweep takes
        partition.processor.post(partition.event("pack", id=f"{number}"))
    for run in all_of(Dispatch, partition.settle()):
        partition.processor.post(returned(run))
    partition.settle()
    partition.now_ms += 10 * DAY
    partition.reload()
    assert partition.send("pack", id=last) == []


def seen_days(partition: Partition) -> list[int]:
    rows = partition.processor.engine.state.scan(keys.seen_env(0), 10_000)
    return [keys.seen_day_of(key) - NOON // DAY for key, _ in rows]


def test_ids_are_forgotten_after_their_window() -> None:
    partition = Partition(PACK, limits=SPILLING)
    for number in range(1_200):
        partition.processor.post(partition.event("pack", id=f"{number}"))
    for run in all_of(Dispatch, partition.settle()):
        partition.processor.post(returned(run))
    partition.settle()
    assert seen_days(partition) == [0] * 1_200
    partition.advance(DAY)
    assert seen_days(partition) == [0] * 1_200
    partition.advance(DAY)
    partition.send("other")  # a turn of the new day sweeps
    assert seen_days(partition) == []


def test_the_sweep_moves_what_belongs_to_an_open_run() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = the(Dispatch, partition.send("pack", id="order-1"))
    partition.post(slept(run, "wait", NOON + 60 * DAY), parked(run, delivered=0))
    partition.now_ms += 3 * DAY
    partition.post(SweepSeen(env=0))
    assert seen_days(partition) == [3]


# --- events that steps send


def out(name: str, *, id: str | None = None) -> EventOut:
    return EventOut(name=name, data=b'{"n":1}', id=id)


@pytest.mark.spec("STEP-17", "ATV-16")
def test_a_step_sends_events_in_its_own_commit() -> None:
    partition = Partition(PACK, function("ship"))
    run = partition.start("pack")
    released = partition.post(sent(run, "tell", out("ship"), out("ship")))
    assert partition.commits == 2
    shipped = all_of(Dispatch, released)
    assert [s.function for s in shipped] == ["a-ship", "a-ship"]
    ids = msgspec.json.decode(the(Resume, released).recorded.data or b"", type=list[str])
    assert ids == [routed.event for routed in partition.of(records.EventRouted)][1:]
    assert [scheduled.events for scheduled in partition.of(records.RunScheduled)][1:] == [(i,) for i in ids]
    assert partition.post(sent(run, "tell", out("ship"))) == [], "an answer that comes twice sends nothing"


def test_the_ids_of_sent_events_derive_from_run_step_and_index() -> None:
    def first_ids(step: str) -> list[str]:
        partition = Partition(PACK)
        run = partition.start("pack")
        resumed = the(Resume, partition.post(sent(run, step, out("x"), out("x"))))
        return msgspec.json.decode(resumed.recorded.data or b"", type=list[str])

    assert first_ids("tell") == first_ids("tell")
    assert len({*first_ids("tell"), *first_ids("report")}) == 4
    assert all(encode_ulid(decode_ulid(event)) == event for event in first_ids("tell"))


def test_a_sent_event_with_an_id_starts_one_run() -> None:
    partition = Partition(PACK, function("ship"))
    run = partition.start("pack")
    assert len(all_of(Dispatch, partition.post(sent(run, "a", out("ship", id="1"), out("ship", id="1"))))) == 1
    assert all_of(Dispatch, partition.post(sent(run, "b", out("ship", id="1")))) == []


def test_a_function_may_start_itself() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    again = the(Dispatch, partition.post(sent(run, "again", out("pack"))))
    assert again.run != run.run
    partition.post(returned(run), raised(again, final=True))
    assert partition.stored() == []


def test_runs_of_sent_events_wait_for_a_place_too() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=1))
    run = partition.start("pack")
    released = partition.post(sent(run, "again", out("pack")))
    assert all_of(Dispatch, released) == []
    assert the(MakeRoom, released).count == 1
    partition.advance(SECOND)
    partition.post(ran(run, "more"))
    assert the(Dispatch, partition.post(returned(run))).run != run.run
