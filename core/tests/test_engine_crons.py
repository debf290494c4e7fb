"""Crons in the engine: planned ticks, downtime, changed schedules."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from steplog.engine import records
from steplog.engine.effects import Dispatch
from steplog.engine.functions import CronTrigger, EventTrigger, FunctionSpec

from .partition import DAY, HOUR, MINUTE, NOON, Partition, all_of, returned, the


def cron(*triggers: CronTrigger, name: str = "nightly") -> FunctionSpec:
    return FunctionSpec(id=f"a-{name}", app="a", triggers=triggers)


def ticks(dispatches: list[Dispatch]) -> list[str]:
    """The planned instants that runs were started by."""
    return [msgspec.json.decode(d.events[0])["data"]["scheduledAt"] for d in dispatches]


def at(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.spec("FN-05", "SYS-06", "EVT-18")
def test_a_cron_starts_its_function_at_every_tick() -> None:
    partition = Partition(cron(CronTrigger("30 * * * *")))
    assert partition.advance(30 * MINUTE - 1) == []
    run = the(Dispatch, partition.advance(1))
    event = msgspec.json.decode(run.events[0])
    assert (event["name"], event["ts"]) == ("inngest/scheduled.timer", NOON + 30 * MINUTE)
    due = at(NOON + 30 * MINUTE)
    assert event["data"] == {"cron": "30 * * * *", "scheduledAt": due, "fireAt": due}
    assert ticks(all_of(Dispatch, partition.advance(3 * HOUR))) == [
        at(NOON + n * HOUR + 30 * MINUTE) for n in (1, 2, 3)
    ]


@pytest.mark.spec("FN-06", "FN-07", "ATV-08")
def test_crons_of_a_function_that_fire_together_start_one_run() -> None:
    partition = Partition(cron(CronTrigger("0 * * * *"), CronTrigger("*/30 * * * *")))
    found = ticks(all_of(Dispatch, partition.advance(2 * HOUR)))
    assert found == [at(NOON + n * 30 * MINUTE) for n in (1, 2, 3, 4)]


def test_a_tick_is_not_lost_or_repeated_by_a_crash() -> None:
    partition = Partition(cron(CronTrigger("0 * * * *")))
    run = the(Dispatch, partition.advance(HOUR))
    partition.post(returned(run))
    assert all_of(Dispatch, partition.crash()) == []
    assert ticks(all_of(Dispatch, partition.advance(HOUR))) == [at(NOON + 2 * HOUR)]
    assert len(partition.of(records.RunScheduled)) == 2


@pytest.mark.parametrize(("catch_up", "run"), [("last", [5]), ("skip", []), ("all", [1, 2, 3, 4, 5])])
def test_downtime(catch_up: Any, run: list[int]) -> None:
    partition = Partition(cron(CronTrigger("0 * * * *", 0, catch_up)))
    partition.settle()
    partition.now_ms = NOON + 5 * HOUR + 10 * MINUTE  # nobody was there
    assert ticks(all_of(Dispatch, partition.crash())) == [at(NOON + n * HOUR) for n in run]
    assert ticks(all_of(Dispatch, partition.advance(50 * MINUTE))) == [at(NOON + 6 * HOUR)]


def test_jitter_moves_the_run_and_not_the_tick() -> None:
    partition = Partition(cron(CronTrigger("0 * * * *", 10 * MINUTE)))
    found = all_of(Dispatch, partition.advance(DAY))
    assert ticks(found) == [at(NOON + n * HOUR) for n in range(1, len(found) + 1)]
    late = [msgspec.json.decode(d.events[0])["ts"] - NOON - n * HOUR for n, d in enumerate(found, 1)]
    assert len(found) in (23, 24)
    assert all(0 < ms < 10 * MINUTE for ms in late)
    assert len(set(late)) > 10


def test_a_changed_cron_is_planned_anew_and_a_removed_one_is_over() -> None:
    partition = Partition(cron(CronTrigger("0 * * * *")))
    partition.settle()
    partition.crash(cron(CronTrigger("45 * * * *")))
    assert ticks(all_of(Dispatch, partition.advance(2 * HOUR))) == [at(NOON + 45 * MINUTE), at(NOON + 105 * MINUTE)]
    partition.crash(FunctionSpec(id="a-nightly", app="a", triggers=(EventTrigger("go"),)))
    assert all_of(Dispatch, partition.advance(DAY)) == []
    assert [key for key in partition.stored() if key.startswith(("cron", "timer"))] == []
    partition.crash(cron(CronTrigger("45 * * * *"), name="other"))
    partition.crash(FunctionSpec(id="a-third", app="a"))
    assert all_of(Dispatch, partition.advance(DAY)) == []
    assert [key for key in partition.stored() if key.startswith(("cron", "timer"))] == []


def test_a_zone() -> None:
    partition = Partition(cron(CronTrigger("TZ=Asia/Kolkata 0 18 * * *")))
    assert ticks(all_of(Dispatch, partition.advance(DAY))) == [at(NOON + 30 * MINUTE)]


@pytest.mark.spec("FAULT-F2")
@pytest.mark.parametrize(("catch_up", "runs"), [("skip", 0), ("last", 1), ("all", 36)])
def test_three_hours_down_over_36_ticks(catch_up: Any, runs: int) -> None:
    partition = Partition(cron(CronTrigger("*/5 * * * *", 0, catch_up)))
    partition.settle()
    partition.now_ms = NOON + 3 * HOUR + 2 * MINUTE
    assert len(ticks(all_of(Dispatch, partition.crash()))) == runs
    assert ticks(all_of(Dispatch, partition.advance(3 * MINUTE))) == [at(NOON + 3 * HOUR + 5 * MINUTE)]


@pytest.mark.spec("FAULT-F7")
@pytest.mark.parametrize("late_ms", [-1, 0, 1])
def test_a_schedule_that_is_edited_at_its_tick_fires_by_the_old_plan_or_the_new_one(late_ms: int) -> None:
    partition = Partition(cron(CronTrigger("0 * * * *")))
    partition.settle()
    partition.now_ms = NOON + HOUR + late_ms
    fired = ticks(all_of(Dispatch, partition.crash(cron(CronTrigger("0 * * * *"), CronTrigger("30 * * * *")))))
    fired += ticks(all_of(Dispatch, partition.advance(HOUR - late_ms)))
    assert fired == [at(NOON + HOUR), at(NOON + 90 * MINUTE), at(NOON + 2 * HOUR)], "once, and not neither"


@pytest.mark.spec("FAULT-F7")
@pytest.mark.parametrize(("catch_up", "runs"), [("skip", []), ("last", [3]), ("all", [1, 2, 3])])
def test_what_was_missed_before_a_schedule_was_edited_goes_by_the_old_plan(catch_up: Any, runs: list[int]) -> None:
    partition = Partition(cron(CronTrigger("0 * * * *", 0, catch_up)))
    partition.settle()
    partition.now_ms = NOON + 3 * HOUR + 10 * MINUTE
    daily = cron(CronTrigger("15 15 * * *", 0, catch_up))
    assert ticks(all_of(Dispatch, partition.crash(daily))) == [at(NOON + n * HOUR) for n in runs]
    assert ticks(all_of(Dispatch, partition.advance(DAY))) == [at(NOON + 3 * HOUR + 15 * MINUTE)]


@pytest.mark.spec("FAULT-F7")
@pytest.mark.parametrize("after", [FunctionSpec(id="a-nightly", app="a"), FunctionSpec(id="a-other", app="a")])
def test_a_schedule_that_is_removed_at_its_tick_is_over(after: FunctionSpec) -> None:
    partition = Partition(cron(CronTrigger("0 * * * *")))
    partition.settle()
    partition.now_ms = NOON + HOUR
    assert all_of(Dispatch, partition.crash(after) + partition.advance(DAY)) == []
    assert [key for key in partition.stored() if key.startswith(("cron", "timer"))] == []


EVERY_HOUR, AT_ONE, AT_HALF = CronTrigger("0 * * * *"), CronTrigger("0 13 * * *"), CronTrigger("30 * * * *")


@pytest.mark.spec("FAULT-F7", "FN-07")
@pytest.mark.parametrize("late_ms", [-1, 0, 1, 61_000])
@pytest.mark.parametrize("before", [(EVERY_HOUR,), (AT_ONE, AT_HALF)])
@pytest.mark.parametrize("after", [(EVERY_HOUR,), (AT_ONE,), (AT_HALF,), (EVERY_HOUR, AT_ONE)])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_tick_that_both_plans_have_is_one_run_whatever_the_moment_of_the_edit(
    late_ms: int, before: tuple[CronTrigger, ...], after: tuple[CronTrigger, ...], is_written: bool
) -> None:
    """``is_written``: the tick is on the log when the edit comes, and what it asked for is not done yet."""
    partition = Partition(cron(*before))
    partition.settle()
    partition.now_ms = NOON + 30 * MINUTE
    partition.settle()
    partition.now_ms = NOON + HOUR + late_ms
    if is_written and partition.processor.has_work(partition.now_ms):
        partition.write(partition.decide())
    partition.crash(cron(*after))
    partition.advance(45 * MINUTE - late_ms)
    stored = [msgspec.json.decode(event) for _, turn in partition.log.events for event in turn]
    planned = {event["internal_id"]: event["id"] for event in stored}
    fired = [planned[r.event] for r in partition.of(records.EventRouted) for _ in r.runs]
    assert len(fired) == len(set(fired))
    assert set(fired) <= {at(NOON + 30 * MINUTE), at(NOON + HOUR), at(NOON + 90 * MINUTE)}
    if late_ms < 0:
        assert (at(NOON + HOUR) in fired) == (after != (AT_HALF,))
    assert (at(NOON + 90 * MINUTE) in fired) == (AT_HALF in after)
