"""What a start finds: lost dispatches, poison, work that was handed back, functions that are gone."""

import pytest

from steplog.engine import keys, records
from steplog.engine.effects import Dispatch, Resume, Retry, RunEnded
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import lost_delay_ms

from .partition import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    SPILLING,
    Partition,
    all_of,
    broke,
    ended,
    function,
    not_begun,
    parked,
    raised,
    ran,
    returned,
    slept,
    step_hash,
    the,
)

PACK, SHIP = function("pack"), function("ship")


def killed(partition: Partition, times: int) -> Dispatch:
    """Let the process die, again and again, each time while it executes the run."""
    for _ in range(times):
        found = partition.crash() + partition.advance(MINUTE)
    return the(Dispatch, found)


@pytest.mark.spec("DUR-01", "DUR-13")
def test_a_run_goes_on_after_a_crash_from_its_records() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "a"))
    partition.decide(ran(run, "b"))  # not written
    again = the(Dispatch, partition.crash())
    assert (again.generation, [r.step for r in again.recorded]) == (2, [step_hash("a")])
    assert again.events == run.events
    partition.post(ran(again, "b"))
    partition.post(returned(again))
    assert partition.kinds(run.run_id) == [
        "run.scheduled", "step.completed", "run.started", "step.completed", "run.completed",
    ]  # fmt: skip
    assert partition.of(records.RunStarted)[0].reason == "lost"
    assert partition.stored() == []


@pytest.mark.spec("ARCH-06")
def test_the_state_holds_events_outputs_errors_and_what_is_to_come() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "a", b'{"n":1}'), broke(run, "b", final=True), broke(run, "c"), slept(run, "d", NOON + DAY))
    again = the(Dispatch, partition.crash())
    assert again.events == run.events
    outputs = {r.step: (r.data, r.error and r.error.message) for r in again.recorded}
    assert outputs == {step_hash("a"): (b'{"n":1}', None), step_hash("b"): (None, "b 0")}
    assert {p.step: p.attempt for p in again.pending} == {step_hash("c"): 1, step_hash("d"): 0}
    due = {p.step: p.due_ms for p in again.pending}
    assert [e.step for e in all_of(Retry, partition.advance(due[step_hash("c")] - NOON))] == [step_hash("c")]
    assert [e.recorded.step for e in all_of(Resume, partition.advance(DAY))] == [step_hash("d")]


def test_what_was_written_but_not_released_is_released_by_the_next_start() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.write(partition.decide(partition.event("pack", ticket=7), ran(run, "a")))
    first, second = all_of(Dispatch, partition.crash())
    assert {first.run: len(first.recorded), second.run: len(second.recorded)}[run.run] == 1
    assert first.run != second.run


def test_a_run_is_dispatched_at_once_first_and_then_with_back_off() -> None:
    assert [lost_delay_ms(lost) for lost in (1, 2, 3, 4, 8, 9, 100)] == [
        0, SECOND, 2 * SECOND, 4 * SECOND, MINUTE, MINUTE, MINUTE,
    ]  # fmt: skip
    partition = Partition(PACK, limits=SPILLING)
    partition.start("pack")
    assert the(Dispatch, partition.crash()).generation == 2
    assert partition.crash() == []
    assert partition.processor.engine.live_runs == 0
    assert partition.advance(SECOND - 1) == []
    assert the(Dispatch, partition.advance(1)).generation == 3


def test_a_crash_during_the_back_off_is_not_counted() -> None:
    partition = Partition(PACK)
    partition.start("pack")
    partition.crash()
    assert partition.crash() == []
    assert partition.crash() == []
    assert the(Dispatch, partition.advance(SECOND)).generation == 3


def test_a_recorded_step_begins_the_count_of_losses_anew() -> None:
    partition = Partition(PACK)
    partition.start("pack")
    again = killed(partition, 3)
    partition.post(ran(again, "a"))
    assert the(Dispatch, partition.crash()).generation == again.generation + 1, "the first loss again: at once"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_step_that_kills_its_process_too_often_fails(retries: int) -> None:
    partition = Partition(function("pack", retries=retries), limits=SPILLING)
    partition.start("pack")
    bound = retries + 3
    assert not killed(partition, bound).is_poisoned
    poisoned = killed(partition, 1)
    assert poisoned.is_poisoned
    failed = the(Resume, partition.post(not_begun(poisoned, "bomb"))).recorded
    assert failed.error is not None
    assert failed.error.name == "WorkerLost"
    assert partition.of(records.StepFailed)[0].op == "StepRun"
    again = the(Dispatch, partition.crash())
    assert not again.is_poisoned
    partition.post(ran(again, "another way"))
    assert ended(partition.post(returned(again))) == "completed"


def test_a_step_that_had_failed_before_and_now_kills_its_process_fails() -> None:
    partition = Partition(function("pack", retries=1), config=EngineConfig(lost_allowance=0))
    run = partition.start("pack")
    partition.post(broke(run, "bomb"))
    poisoned = killed(partition, 2)
    assert (poisoned.is_poisoned, poisoned.attempts) == (True, ((step_hash("bomb"), 1),))
    failed = the(Resume, partition.post(not_begun(poisoned, "bomb", attempt=1))).recorded
    assert failed.error is not None


def test_a_function_that_kills_its_process_outside_its_steps_fails() -> None:
    partition = Partition(function("pack", retries=0), limits=SPILLING)
    partition.start("pack")
    killed(partition, 6)
    end = the(RunEnded, partition.crash())
    assert end.error is not None
    assert (end.status, end.error.name) == ("failed", "WorkerLost")
    assert partition.stored() == []


def test_runs_that_only_waited_lose_nothing() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + HOUR), parked(run, delivered=0))
    for _ in range(20):
        assert partition.crash() == []
    woken = the(Dispatch, partition.advance(HOUR))
    assert (woken.generation, woken.is_poisoned) == (2, False)


def test_a_timer_that_is_due_at_the_start_meets_a_lost_run() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + SECOND), broke(run, "charge", retry_after_ms=SECOND))
    partition.now_ms += HOUR
    again = the(Dispatch, partition.crash())
    assert [r.step for r in again.recorded] == [step_hash("nap")]
    assert again.attempts == ((step_hash("charge"), 1),)
    assert (again.generation, partition.processor.engine.live_runs) == (2, 1)


def test_an_order_of_ends_hands_work_back_without_a_loss() -> None:
    partition = Partition(function("pack", retries=0), limits=SPILLING)
    partition.start("pack")
    for generation in range(2, 12):
        again = the(Dispatch, partition.drain())
        assert (again.generation, again.is_poisoned) == (generation, False)
    assert {r.reason for r in partition.of(records.RunStarted)} == {"handed-back"}
    assert the(Dispatch, partition.crash()).generation == 12, "the first loss: at once"
    assert partition.of(records.RunStarted)[-1].reason == "lost"


# --- functions that are not registered here


def test_a_run_waits_for_its_function() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "a"))
    assert partition.crash(SHIP) == []
    assert partition.processor.engine.live_runs == 0
    assert partition.crash(SHIP) == []
    assert partition.advance(DAY) == []
    again = the(Dispatch, partition.crash(SHIP, PACK))
    assert [r.step for r in again.recorded] == [step_hash("a")]
    assert ended(partition.post(returned(again))) == "completed"
    assert partition.stored() == []


def test_a_sleeping_run_waits_for_its_function_when_it_wakes() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(slept(run, "a", NOON + HOUR), slept(run, "b", NOON + 2 * HOUR), parked(run, delivered=0))
    partition.crash(SHIP)
    for _ in range(3):  # each wakes it, and what it left stands in the table by then
        assert partition.advance(HOUR) == []
        partition.send("something else")
    again = the(Dispatch, partition.crash(PACK))
    assert len(again.recorded) == 2
    assert ended(partition.post(returned(again))) == "completed"
    assert partition.stored() == []
    assert partition.crash(PACK) == []


def test_a_delayed_run_whose_function_is_gone_leaves_nothing_behind() -> None:
    partition = Partition(PACK, limits=SPILLING)
    partition.send("pack", ts_ms=NOON + HOUR)
    partition.crash(SHIP)
    assert partition.advance(HOUR) == []
    run = the(Dispatch, partition.crash(PACK))
    assert run.generation == 1
    assert partition.of(records.RunStarted)[0].reason == "start"
    partition.post(returned(run))
    assert partition.stored() == []


def test_a_queued_run_waits_for_its_function() -> None:
    partition = Partition(PACK, SHIP, config=EngineConfig(live_runs=1))
    first = partition.start("ship")
    partition.send("pack")
    again = the(Dispatch, partition.crash(SHIP))
    assert again.run == first.run
    assert all_of(Dispatch, partition.post(returned(again))) == []
    assert the(Dispatch, partition.crash(SHIP, PACK)).function == "a-pack"


def test_a_run_that_waits_for_its_function_takes_no_place() -> None:
    partition = Partition(PACK, SHIP, config=EngineConfig(live_runs=1))
    run = partition.start("pack")
    partition.post(slept(run, "a", NOON + HOUR), slept(run, "b", NOON + 2 * HOUR), parked(run, delivered=0))
    partition.crash(SHIP)
    partition.advance(HOUR)
    partition.start("ship")
    partition.advance(HOUR)
    assert not [key for key in partition.stored() if key.startswith("queue")]
    assert len(partition.processor.engine.state.scan(bytes([keys.ORPHAN]), 9)) == 1


def test_a_run_that_fails_without_its_function_leaves_nothing_behind() -> None:
    """Its sleep ends, and with it the run has recorded too much."""
    partition = Partition(PACK, config=EngineConfig(run_state_bytes=1_000), limits=SPILLING)
    run = partition.start("pack")
    room = 1_000 - sum(map(len, run.events)) - 6
    partition.post(ran(run, "a", b'"' + b"x" * (room - 2) + b'"'))
    partition.post(slept(run, "b", NOON + HOUR), slept(run, "c", NOON + 2 * HOUR), parked(run, delivered=1))
    partition.crash(SHIP)
    partition.advance(HOUR)
    assert ended(partition.advance(HOUR)) == "failed"
    assert partition.stored() == []


def test_an_attempt_that_failed_waits_for_its_function() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(raised(run))
    partition.crash(SHIP)
    assert partition.advance(HOUR) == []
    assert the(Dispatch, partition.crash(PACK)).attempt == 1
