"""Attempts: of steps and of the function's own code, with back-off, jitter and bounds."""

import msgspec
import pytest

from steplog.engine import records
from steplog.engine.backoffs import LOOKED_AT_PER_TURN
from steplog.engine.effects import Backoff, Dispatch, Resume, Retry, RunEnded
from steplog.engine.functions import DEFAULT_ENV, EngineConfig
from steplog.engine.messages import RetryNow
from steplog.engine.operations import ErrorInfo, StepError
from steplog.engine.retry import RetryPolicy, delay_ms

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
    parked,
    raised,
    ran,
    report,
    returned,
    slept,
    step_hash,
    the,
)

PACK = function("pack")
SCHEDULE_S = (15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200)


@pytest.mark.spec("ERR-05", "LIMW-01")
def test_delays_follow_the_schedule_with_up_to_30_s_of_jitter() -> None:
    for failures in range(1, 14):
        least = SCHEDULE_S[min(failures, 10) - 1] * 1_000
        waits = [delay_ms(RetryPolicy(), failures, asked_ms=None, seed=bytes([n])) for n in range(200)]
        assert all(least <= wait < least + 30_000 for wait in waits)
        assert max(waits) - min(waits) > 25_000


def test_jitter_is_the_same_when_decided_again() -> None:
    def waits(seed: bytes) -> list[int]:
        return [delay_ms(RetryPolicy(), failures, asked_ms=None, seed=seed) for failures in range(1, 6)]

    assert waits(b"run and step") == waits(b"run and step") != waits(b"another step")


def test_a_constant_interval_replaces_schedule_and_jitter() -> None:
    assert {delay_ms(RetryPolicy(interval_ms=250), n, asked_ms=None, seed=b"") for n in range(1, 9)} == {250}


@pytest.mark.spec("ERR-02", "ERR-04", "ATV-30", "DUR-07", "LIMW-02")
def test_a_step_is_tried_five_times_and_then_has_failed() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    for attempt in range(4):
        backoff = the(Backoff, partition.post(broke(run, "charge", attempt=attempt)))
        assert backoff.attempt == attempt + 1
        assert partition.advance(backoff.due_ms - partition.now_ms - 1) == []
        assert the(Retry, partition.advance(1)) == Retry(run.run, 1, step_hash("charge"), attempt + 1)
    failed = the(Resume, partition.post(broke(run, "charge", attempt=4))).recorded
    assert failed.data is None
    assert failed.error is not None
    assert (failed.error.name, failed.error.message) == ("ValueError", "charge 4")
    assert partition.kinds(run.run_id) == ["run.scheduled", *["step.errored"] * 4, "step.failed"]


@pytest.mark.spec("ERR-11", "ATV-31", "TRP-08")
def test_a_run_goes_on_after_a_failed_step() -> None:
    partition = Partition(function("pack", retries=0))
    run = partition.start("pack")
    partition.post(broke(run, "charge"))
    again = the(Dispatch, partition.crash())
    (failed,) = again.recorded
    assert failed.error is not None
    partition.post(ran(again, "charge by hand"))
    assert ended(partition.post(returned(again))) == "completed"


@pytest.mark.spec("ERR-03", "TRP-07")
def test_each_step_has_attempts_of_its_own() -> None:
    partition = Partition(function("pack", retries=1))
    run = partition.start("pack")
    for name in "ab":
        assert len(all_of(Backoff, partition.post(broke(run, name)))) == 1
        the(Retry, partition.advance(MINUTE))
        the(Resume, partition.post(ran(run, name, attempt=1)))
    assert [r.attempt for r in partition.of(records.StepCompleted)] == [1, 1]


@pytest.mark.spec("ERR-07", "ATV-32")
def test_an_error_that_says_so_is_not_tried_again() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    assert the(Resume, partition.post(broke(run, "charge", final=True))).recorded.error is not None
    end = the(RunEnded, partition.post(raised(run, final=True)))
    assert end.error is not None
    assert (end.status, end.error.name) == ("failed", "KeyError")
    assert partition.stored() == []


@pytest.mark.spec("ERR-08", "LIMW-01", "FAULT-D4")
@pytest.mark.parametrize(
    ("asked_ms", "wait_ms"),
    [(30_000, 30_000), (-1, SECOND), (0, SECOND), (999, SECOND), (DAY, DAY), (DAY + 1, DAY), (10 * 365 * DAY, DAY)],
)
def test_a_time_asked_for_is_kept_to_a_second_and_a_day(asked_ms: int, wait_ms: int) -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    assert the(Backoff, partition.post(broke(run, "charge", retry_after_ms=asked_ms))).due_ms == NOON + wait_ms
    other = partition.start("pack")
    partition.post(raised(other, retry_after_ms=asked_ms))
    assert partition.of(records.RunErrored)[0].retry_at == NOON + wait_ms


def test_a_time_asked_for_adds_no_attempt() -> None:
    partition = Partition(function("pack", retries=1))
    run = partition.start("pack")
    partition.post(broke(run, "charge", retry_after_ms=SECOND))
    partition.advance(SECOND)
    failed = the(Resume, partition.post(broke(run, "charge", attempt=1, retry_after_ms=SECOND)))
    assert failed.recorded.error is not None


def test_a_parked_run_is_woken_for_its_retry() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "a"))
    partition.post(broke(run, "charge", retry_after_ms=HOUR), parked(run, delivered=1))
    partition.crash()
    woken = the(Dispatch, partition.advance(HOUR))
    assert (woken.generation, woken.attempts, woken.pending) == (2, ((step_hash("charge"), 1),), ())
    assert [r.step for r in woken.recorded] == [step_hash("a")]
    the(Resume, partition.post(ran(woken, "charge", attempt=1)))


def test_a_dispatch_tells_of_steps_that_back_off() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    backoff = the(Backoff, partition.post(broke(run, "charge")))
    again = the(Dispatch, partition.crash())
    (pending,) = again.pending
    assert (pending.step, pending.attempt, pending.due_ms) == (step_hash("charge"), 1, backoff.due_ms)
    retry = the(Retry, partition.advance(MINUTE))
    assert (retry.generation, retry.attempt) == (2, 1)


def test_a_step_that_failed_and_now_sleeps_leaves_nothing_behind() -> None:
    """The function was changed between the attempts."""
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(broke(run, "wait", retry_after_ms=SECOND))
    partition.advance(SECOND)
    partition.send("something else")
    again = slept(run, "wait", NOON + MINUTE)
    partition.post(msgspec.structs.replace(again, attempt=1))
    the(Resume, partition.advance(MINUTE))
    partition.post(returned(run))
    assert partition.of(records.StepCompleted)[0].op == "Sleep"
    assert partition.stored() == []


# --- the function's own code


@pytest.mark.spec("ERR-06")
def test_the_function_is_tried_again_with_its_records() -> None:
    partition = Partition(PACK, limits=SPILLING)
    run = partition.start("pack")
    partition.post(ran(run, "charge"))
    assert partition.post(raised(run)) == []
    (errored,) = partition.of(records.RunErrored)
    assert 15 * SECOND <= errored.retry_at - NOON < 45 * SECOND
    partition.crash()
    again = the(Dispatch, partition.advance(45 * SECOND))
    assert (again.generation, again.attempt) == (2, 1)
    assert [r.step for r in again.recorded] == [step_hash("charge")]
    assert ended(partition.post(returned(again))) == "completed"


@pytest.mark.spec("ERR-02")
def test_the_function_has_five_attempts() -> None:
    partition = Partition(PACK, config=EngineConfig(retry=RetryPolicy(interval_ms=SECOND)))
    run = partition.start("pack")
    for attempt in range(4):
        assert partition.post(raised(run)) == []
        run = the(Dispatch, partition.advance(SECOND))
        assert run.attempt == attempt + 1
    assert ended(partition.post(raised(run))) == "failed"
    assert partition.stored() == []


def test_a_report_that_comes_twice_uses_up_one_attempt() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(raised(run))
    assert partition.post(raised(run)) == []
    assert len(partition.of(records.RunErrored)) == 1
    assert the(Dispatch, partition.advance(MINUTE)).attempt == 1


@pytest.mark.spec("ERR-04")
def test_a_recorded_step_begins_the_count_of_attempts_anew() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(raised(run))
    run = the(Dispatch, partition.advance(MINUTE))
    assert run.attempt == 1
    partition.post(ran(run, "charge"))
    partition.post(raised(run))
    assert the(Dispatch, partition.advance(MINUTE)).attempt == 1, "again the first retry"


def test_a_body_that_outlives_a_failed_attempt_is_recorded() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(raised(run, executing=["charge"]))
    assert partition.post(ran(run, "charge")) == []
    again = the(Dispatch, partition.advance(MINUTE))
    assert [r.step for r in again.recorded] == [step_hash("charge")]


def test_a_sleep_that_ends_during_the_back_off_waits_for_it() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + SECOND), raised(run))
    assert partition.advance(SECOND) == []
    again = the(Dispatch, partition.advance(MINUTE))
    assert [r.step for r in again.recorded] == [step_hash("nap")]


# --- somebody does not want to wait


HURRY = RetryNow(env=DEFAULT_ENV)


def test_whatever_waits_for_another_attempt_may_have_it_at_once() -> None:
    partition = Partition(PACK, limits=SPILLING)
    live, parked_one, failed = (partition.start("pack") for _ in range(3))
    partition.post(broke(live, "charge", retry_after_ms=HOUR))
    partition.post(broke(parked_one, "charge", retry_after_ms=HOUR), parked(parked_one, delivered=0))
    partition.post(raised(failed, retry_after_ms=HOUR))
    told = partition.post(HURRY)
    assert the(Retry, told) == Retry(live.run, 1, step_hash("charge"), 1)
    dispatched = {again.run: (again.generation, again.attempt) for again in all_of(Dispatch, told)}
    assert dispatched == {parked_one.run: (2, 0), failed.run: (2, 1)}
    assert not [key for key in partition.stored() if key.startswith("timer/")]
    assert all_of(Retry, partition.advance(2 * HOUR)) == [], "the timers are gone"


def test_an_attempt_before_its_time_survives_a_crash_and_is_the_same_attempt() -> None:
    partition = Partition(function("pack", retries=1))
    run = partition.start("pack")
    partition.post(broke(run, "charge", retry_after_ms=HOUR))
    partition.write(partition.decide(HURRY))  # nobody is told
    again = the(Dispatch, partition.crash())
    assert again.attempts == ((step_hash("charge"), 1),)
    failed = the(Resume, partition.post(broke(again, "charge", attempt=1)))
    assert failed.recorded.error is not None


def test_sleeps_waits_and_starts_in_the_future_keep_their_time() -> None:
    partition = Partition(PACK)
    run = partition.start("pack")
    partition.post(slept(run, "nap", NOON + HOUR))
    partition.send("pack", ts_ms=NOON + HOUR)
    assert partition.post(HURRY) == []
    assert len(partition.advance(HOUR)) == 2


def test_a_retry_is_found_behind_many_sleeps() -> None:
    partition = Partition(PACK, limits=SPILLING)
    for _ in range(3):
        run = partition.start("pack")
        partition.post(*(slept(run, f"nap {n}", NOON + HOUR) for n in range(LOOKED_AT_PER_TURN // 2)))
    partition.post(broke(run, "charge", retry_after_ms=2 * HOUR))
    assert the(Retry, partition.post(HURRY)).step == step_hash("charge")


def test_the_journal_says_how_many_attempts_there_are() -> None:
    partition = Partition(function("pack", retries=3))
    run = partition.start("pack")
    error = ErrorInfo(name="OSError", message="off")
    partition.post(report(run, "pack", StepError(error=error, started_ms=1, ended_ms=2, retries=1)))
    partition.post(broke(run, "charge"))
    assert [r.max_attempts for r in partition.of(records.StepErrored)] == [2, 4]
    partition.post(raised(partition.start("pack")))
    assert [r.max_attempts for r in partition.of(records.RunErrored)] == [4]
