"""Runs from their event to their end: steps, sleeps, parking, late answers and limits."""

import typing

import msgspec
import pytest

from steplog.engine import keys, records
from steplog.engine.effects import Dispatch, Effect, MakeRoom, Recorded, Resume, RunEnded
from steplog.engine.functions import DEFAULT_ENV, EngineConfig
from steplog.engine.ids import decode_ulid
from steplog.engine.messages import Input, Message, OpReported
from steplog.engine.state import Limits

from .partition import (
    HOUR,
    MINUTE,
    NOON,
    SPILLING,
    Partition,
    all_of,
    broke,
    ended,
    function,
    parked,
    raised,
    ran,
    returned,
    slept,
    step_hash,
    the,
)

PACK = function("pack")


def test_every_kind_of_message_is_decided() -> None:
    engine = Partition(PACK).processor.engine
    assert set(engine.deciders) == {*typing.get_args(Message), Input}


@pytest.mark.spec("ARCH-03")
def test_a_sequential_run_of_n_steps_costs_n_plus_two_commits() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    assert (run.generation, run.recorded, run.pending, run.attempt) == (1, (), (), 0)
    for name in "abc":
        resumed = the(Resume, partition.post(ran(run, name, f'"{name}"'.encode())))
        assert resumed == Resume(run.run, 1, Recorded(step_hash(name), f'"{name}"'.encode(), at_ms=NOON))
    end = the(RunEnded, partition.post(returned(run, b'"packed"')))
    assert (end.status, end.output, end.run_id) == ("completed", b'"packed"', run.run_id)
    assert partition.commits == 3 + 2
    assert partition.kinds(run.run_id) == ["run.scheduled", *["step.completed"] * 3, "run.completed"]
    assert partition.stored() == []


@pytest.mark.spec("EVT-13", "ATV-01", "ARCH-03")
def test_one_event_starts_every_function_that_it_triggers_in_one_commit() -> None:
    partition = Partition(function("bill", "order"), function("pack", "order"))
    bill, pack = all_of(Dispatch, partition.send("order"))
    assert partition.commits == 1
    assert [ended(partition.post(raised(bill, final=True))), ended(partition.post(returned(pack)))] == [
        "failed", "completed",
    ]  # fmt: skip


def test_an_event_that_nobody_wants_is_written_and_routed() -> None:
    partition = Partition(PACK)
    assert partition.send("unknown") == []
    (routed,) = partition.of(records.EventRouted)
    assert (routed.name, routed.runs, routed.skipped) == ("unknown", (), ())
    assert [msgspec.json.decode(event)["name"] for _, turn in partition.log.events for event in turn] == ["unknown"]


def test_parallel_steps_that_end_together_share_one_commit() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    resumed = all_of(Resume, partition.post(*[ran(run, name) for name in "cab"]))
    assert [r.recorded.step for r in resumed] == [step_hash(name) for name in "cab"]
    assert partition.commits == 2


def test_a_replay_gets_results_in_their_order_of_completion() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    for name in "cab":
        partition.post(ran(run, name, f'"{name}"'.encode()))
    again = the(Dispatch, partition.crash())
    assert again.recorded == tuple(Recorded(step_hash(name), f'"{name}"'.encode(), at_ms=NOON) for name in "cab")


@pytest.mark.spec("DUR-03", "DUR-16", "ATV-13")
def test_a_sleeping_run_is_parked_and_woken_on_time() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    assert (len(run.events), run.recorded, run.pending, run.attempts) == (1, (), (), ()), "at first the event alone"
    partition.post(ran(run, "charge"))
    partition.post(slept(run, "cool-off", NOON + HOUR), parked(run, delivered=1))
    assert partition.processor.engine.live_runs == 0
    assert partition.crash() == []
    assert partition.advance(HOUR - 1) == []
    woken = the(Dispatch, partition.advance(1))
    assert (woken.generation, woken.events) == (2, run.events)
    assert woken.recorded == (
        Recorded(step_hash("charge"), b"1", at_ms=NOON),
        Recorded(step_hash("cool-off"), b"null", at_ms=NOON + HOUR),
    )
    partition.post(ran(woken, "pack"))
    partition.post(returned(woken))
    assert partition.kinds(run.run_id) == [
        "run.scheduled", "step.completed", "step.waiting", "step.completed", "run.started", "step.completed",
        "run.completed",
    ]  # fmt: skip
    assert partition.stored() == []


def test_a_sleep_that_ends_while_the_run_is_live_resumes_it() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + 5))
    assert the(Resume, partition.advance(5)).recorded == Recorded(step_hash("nap"), b"null", at_ms=NOON + 5)


def test_sleeps_that_end_together_wake_a_run_once() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "a", NOON + 5), slept(run, "b", NOON + 5), parked(run, delivered=0))
    woken = partition.advance(5)
    assert len(the(Dispatch, woken).recorded) + len(all_of(Resume, woken)) == 2


@pytest.mark.parametrize("until_ms", [0, -1, -(10**18), NOON])
def test_a_sleep_until_a_time_that_is_past_ends_at_once(until_ms: int) -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    assert the(Resume, partition.post(slept(run, "nap", until_ms))).recorded.step == step_hash("nap")
    partition.post(returned(run))
    assert partition.stored() == []


def test_time_does_not_go_back() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.now_ms -= HOUR  # the wall clock was set
    partition.post(slept(run, "nap", NOON + 5))
    assert {record.at for record in partition.journal()} == {NOON}
    partition.crash()
    assert partition.advance(HOUR) == []
    assert the(Resume, partition.advance(5)).recorded.step == step_hash("nap")


def test_timers_that_are_due_together_are_decided_together() -> None:
    partition = Partition(PACK, limits=SPILLING)
    for _ in range(30):
        run = partition.start("pack")
        partition.post(slept(run, "a", NOON + 5), slept(run, "b", NOON + 5), parked(run, delivered=0))
    partition.crash()
    commits = partition.commits
    woken = partition.advance(5)
    assert len(all_of(Dispatch, woken)) == 30
    assert partition.commits == commits + 1
    for dispatch in all_of(Dispatch, woken):
        partition.post(returned(dispatch))
    assert partition.stored() == []


# --- parking meets other messages


def test_a_result_that_crosses_with_the_parking_wakes_the_run_at_once() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + HOUR), slept(run, "short", NOON + 5))
    partition.advance(5)  # the driver has not heard of it
    woken = the(Dispatch, partition.post(parked(run, delivered=0)))
    assert woken.generation == 2
    assert [r.step for r in woken.recorded] == [step_hash("short")]
    assert [p.step for p in woken.pending] == [step_hash("nap")]


def test_a_retry_that_crosses_with_the_parking_wakes_the_run_at_once() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(broke(run, "charge", retry_after_ms=MINUTE))
    partition.advance(MINUTE)  # the driver has not heard of it
    woken = the(Dispatch, partition.post(parked(run, delivered=0)))
    assert (woken.generation, woken.attempts) == (2, ((step_hash("charge"), 1),))


def test_a_due_step_that_the_function_no_longer_calls_does_not_wake_it_for_ever() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(broke(run, "old name", retry_after_ms=MINUTE), parked(run, delivered=0))
    woken = the(Dispatch, partition.advance(MINUTE))
    assert woken.attempts == ((step_hash("old name"), 1),)
    assert partition.post(slept(woken, "nap", NOON + HOUR), parked(woken, delivered=0)) == []
    assert the(Dispatch, partition.advance(HOUR)).generation == 3


def test_a_parking_that_is_repeated_or_out_of_date_changes_nothing() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + 5), parked(run, delivered=0))
    assert partition.post(parked(run, delivered=0)) == []
    woken = the(Dispatch, partition.advance(5))
    assert partition.post(parked(run, delivered=0)) == []
    assert ended(partition.post(returned(woken))) == "completed"
    assert partition.post(parked(woken, delivered=1)) == []


# --- late answers


@pytest.mark.spec("FAULT-A4")
def test_an_answer_that_comes_twice_is_recorded_once() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(ran(run, "charge", b"1"))
    assert partition.post(ran(run, "charge", b"2")) == []
    assert partition.kinds(run.run_id) == ["run.scheduled", "step.completed", "step.late"]
    (late,) = partition.of(records.StepLate)
    assert (late.step, late.output) == ("charge", msgspec.Raw(b"2"))
    assert the(Dispatch, partition.crash()).recorded == (Recorded(step_hash("charge"), b"1", at_ms=NOON),)


def test_an_answer_for_an_earlier_dispatch_is_kept_and_not_applied() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    again = the(Dispatch, partition.crash())
    assert partition.post(ran(run, "charge")) == []
    assert [late.step for late in partition.of(records.StepLate)] == ["charge"]
    assert the(Resume, partition.post(ran(again, "charge"))).generation == 2


def test_an_answer_for_an_attempt_that_is_over_is_kept_and_not_applied() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(broke(run, "charge"))
    assert partition.post(broke(run, "charge")) == []
    partition.advance(HOUR)
    assert partition.post(ran(run, "charge", attempt=0)) == []
    assert the(Resume, partition.post(ran(run, "charge", attempt=1))).recorded.step == step_hash("charge")
    assert len(partition.of(records.StepLate)) == 2


def test_a_run_report_that_comes_twice_ends_the_run_once() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(returned(run))
    assert partition.post(returned(run)) == []
    assert partition.kinds(run.run_id) == ["run.scheduled", "run.completed"]
    assert partition.stored() == []


def late_reports(run: Dispatch) -> list[OpReported]:
    return [ran(run, "slow"), broke(run, "slower")]


def test_an_ended_run_stays_until_its_last_body_has_ended() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "quick"))
    partition.post(returned(run, executing=["slow", "slower"]))
    assert len(partition.stored()) == 3, "its head, its timer and its dispatch"
    first, second = late_reports(run)
    assert partition.post(first, ran(run, "quick"), first) == [], "neither a repeated answer nor another step's counts"
    assert len(partition.stored()) == 3
    assert partition.post(second) == []
    assert partition.stored() == []
    assert partition.kinds(run.run_id)[-5:] == ["run.completed", *["step.late"] * 4]


def test_a_body_that_never_answers_does_not_keep_its_run_for_ever() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(returned(run, executing=["hangs"]))
    assert partition.advance(2 * HOUR) == []
    assert partition.stored() == []


def test_bodies_that_outlived_their_run_are_gone_after_a_crash() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(returned(run, executing=["slow"]))
    assert partition.crash() == []
    partition.settle()
    assert partition.stored() == []


def test_an_answer_for_a_run_that_is_gone_changes_nothing() -> None:
    """Its head has left the table already, the rows below it have not."""
    partition = Partition(PACK, limits=Limits(pending_keys=2, slice_keys=1))
    run = partition.start("pack")
    partition.post(ran(run, "a"))
    partition.post(ran(run, "b"))
    partition.post(ran(run, "a"))  # late: writes the head again
    partition.post(returned(run))
    assert partition.post(ran(run, "b")) == []
    assert partition.stored() == []


# --- limits


@pytest.mark.spec("LIM-08")
def test_a_run_with_too_many_steps_fails() -> None:
    partition = Partition(PACK, config=EngineConfig(steps_per_run=2))
    run = partition.start("pack")
    partition.post(ran(run, "a"), ran(run, "b"))
    end = the(RunEnded, partition.post(ran(run, "c")))
    assert end.error is not None
    assert (end.status, end.error.name) == ("failed", "StepLimitExceeded")
    assert partition.stored() == []


@pytest.mark.spec("LIM-04")
@pytest.mark.parametrize("is_output", [False, True])
def test_a_run_that_records_too_much_fails(is_output: bool) -> None:
    partition = Partition(PACK, config=EngineConfig(run_state_bytes=1_000))
    run = partition.start("pack")
    partition.post(ran(run, "a", b'"' + b"x" * 500 + b'"'))
    more = b'"' + b"x" * 400 + b'"'
    effects: list[Effect] = partition.post(returned(run, more) if is_output else ran(run, "b", more))
    end = the(RunEnded, effects)
    assert end.error is not None
    assert (end.status, end.error.name) == ("failed", "StateSizeExceeded")
    assert partition.stored() == []


def test_the_size_of_a_run_is_counted_after_a_crash_too() -> None:
    partition = Partition(PACK, config=EngineConfig(run_state_bytes=1_000))
    run = partition.start("pack")
    partition.post(ran(run, "a", b'"' + b"x" * 500 + b'"'))
    again = the(Dispatch, partition.crash())
    assert ended(partition.post(ran(again, "b", b'"' + b"x" * 400 + b'"'))) == "failed"


# --- places among the live runs


def test_runs_wait_in_order_for_a_place() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=2), limits=SPILLING)
    first, second = partition.start("pack"), partition.start("pack")
    for _ in range(2):
        assert the(MakeRoom, partition.send("pack")).count == 1
        partition.advance(1)
    waiting = [r.run for r in partition.of(records.RunScheduled)][2:]
    assert the(Dispatch, partition.post(returned(second))).run_id == waiting[0]
    third = the(Dispatch, partition.post(returned(first)))
    assert third.run_id == waiting[1]
    assert partition.kinds(waiting[1]) == ["run.scheduled", "run.started"]
    assert partition.processor.engine.live_runs == 2


def test_a_run_that_parks_makes_room_and_keeps_its_rank() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=1))
    first = partition.start("pack")
    partition.advance(1)
    partition.send("pack")
    partition.advance(1)
    partition.send("pack")
    second = the(Dispatch, partition.post(slept(first, "nap", NOON + MINUTE), parked(first, delivered=0)))
    partition.advance(MINUTE)  # the first wants to go on, and waits before the third
    assert the(Dispatch, partition.post(returned(second))).run == first.run
    assert partition.processor.engine.live_runs == 1


def test_a_run_that_waits_for_its_first_place_is_one_row_and_open() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=1), limits=SPILLING)
    partition.start("pack")
    partition.send("pack")
    queued = partition.of(records.EventRouted)[-1].runs[0].run
    first = the(Dispatch, partition.crash())  # what waits is not in memory now
    key = keys.run(DEFAULT_ENV, decode_ulid(queued))
    assert [row for row in partition.stored() if queued in row] == [keys.printed(keys.queue(key))]
    runs = partition.processor.engine.runs
    assert runs.is_open(key)
    second = the(Dispatch, partition.post(returned(first)))
    assert (second.run_id, second.generation) == (queued, 1)
    assert partition.kinds(queued) == ["run.scheduled", "run.started"]
    partition.post(returned(second))
    assert not runs.is_open(key)


def test_queued_runs_are_there_after_a_crash() -> None:
    partition = Partition(PACK, config=EngineConfig(live_runs=1), limits=SPILLING)
    first = partition.start("pack")
    partition.send("pack")
    again = the(Dispatch, partition.crash())
    assert again.run == first.run
    second = the(Dispatch, partition.post(returned(again)))
    assert ended(partition.post(returned(second))) == "completed"
    assert partition.stored() == []
