"""Waits that look back to their trigger (``since="trigger"``), and events that end more waits than one turn may."""

from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
import pytest

from steplog.engine import recent, records
from steplog.engine.effects import Dispatch, Resume
from steplog.engine.functions import EngineConfig
from steplog.engine.messages import EventAccepted, Message, OpReported
from steplog.engine.operations import WaitForEvent

from .partition import DAY, HOUR, MINUTE, SPILLING, Partition, all_of, function, parked, report, returned, slept, the

ORDER, OTHER = function("order"), function("other")
BY_ORDER = "async.data.order == event.data.id"
PAIRS, A_MS = 10_000, 50  # so many in a millisecond


def looks(
    at: Dispatch, *events: str, name: str = "paid", if_exp: str | None = BY_ORDER, all_of: bool = False,
    timeout_ms: int = DAY, is_since_trigger: bool = True,
) -> OpReported:  # fmt: skip
    op = WaitForEvent(
        events=events or ("paid",), timeout_ms=timeout_ms, if_exp=if_exp, all_of=all_of,
        is_since_trigger=is_since_trigger,
    )  # fmt: skip
    return report(at, name, op)


def event(partition: Partition, name: str, order: str, **more: Any) -> EventAccepted:
    field = "id" if name == "order" else "order"
    return partition.event(name, data=msgspec.json.encode({field: order, **more}))


def begin(partition: Partition, order: str) -> Dispatch:
    return the(Dispatch, partition.post(event(partition, "order", order)))


def data_of(effects: Iterable[Any]) -> list[Any]:
    """The data of the events that resumed steps were given, of several in a list."""
    found = [msgspec.json.decode(resume.recorded.data or b"") for resume in all_of(Resume, effects)]
    return [[each["data"] for each in one] if isinstance(one, list) else one and one["data"] for one in found]


# --- what came before


@pytest.mark.spec("FAULT-G1")
@pytest.mark.parametrize("is_since_trigger", [True, False], ids=["since-trigger", "from-now-on"])
def test_of_ten_thousand_events_just_after_their_trigger_each_is_met(is_since_trigger: bool) -> None:
    """Each comes 0 to 5 ms after the trigger, the wait up to 5 ms after the run has begun."""
    chance = Random(1)
    partition = Partition(ORDER)
    agenda: dict[int, list[Message]] = {}
    start_ms = partition.now_ms
    for number in range(PAIRS):
        at_ms = start_ms + number // A_MS
        agenda.setdefault(at_ms, []).append(event(partition, "order", f"o{number}"))
        agenda.setdefault(at_ms + chance.randint(0, 5), []).append(event(partition, "paid", f"o{number}"))
    met: set[bytes] = set()
    while agenda:
        partition.now_ms = min(agenda)
        effects = partition.post(*agenda.pop(partition.now_ms))
        met.update(resume.run for resume in all_of(Resume, effects))
        for run in all_of(Dispatch, effects):
            wait = looks(run, is_since_trigger=is_since_trigger)
            agenda.setdefault(partition.now_ms + chance.randint(1, 5), []).append(wait)
    missed = {record.run for record in partition.of(records.StepWaiting)} - {
        record.run for record in partition.of(records.StepCompleted)
    }
    assert len(met) + len(missed) == PAIRS
    assert (missed == set()) if is_since_trigger else (len(missed) > PAIRS // 3)


def test_the_first_wait_of_a_log_looks_back_too_and_a_crash_changes_nothing() -> None:
    partition = Partition(ORDER, limits=SPILLING)
    first, second = begin(partition, "o1"), begin(partition, "o2")
    partition.post(*[event(partition, "paid", order, nth=nth) for order in ("o1", "o9", "o2") for nth in (1, 2)])
    assert data_of(partition.post(looks(first))) == [{"order": "o1", "nth": 1}]
    again = {run.run: run for run in all_of(Dispatch, partition.crash())}
    assert data_of(partition.post(looks(again[second.run]))) == [{"order": "o2", "nth": 1}]
    waiting = partition.of(records.StepWaiting)
    assert [(record.since, record.cut, record.failed) for record in waiting] == [
        ("trigger", msgspec.UNSET, msgspec.UNSET)
    ] * 2
    partition.post(*map(returned, again.values()))
    assert [key for key in partition.stored() if not key.startswith("path")] == []


def test_only_what_came_after_the_trigger_counts() -> None:
    partition = Partition(ORDER, OTHER)
    before, order, after = (
        event(partition, "paid", "o1", n=1),
        event(partition, "order", "o1"),
        event(partition, "paid", "o1", n=2),
    )
    run = the(Dispatch, partition.post(before, order))
    assert data_of(partition.post(looks(run, name="none"))) == []
    assert data_of(partition.post(after)) == [{"order": "o1", "n": 2}]
    assert data_of(partition.post(looks(run, name="kept"))) == [{"order": "o1", "n": 2}]


def test_in_one_request_with_its_trigger() -> None:
    partition = Partition(ORDER)
    order = msgspec.structs.replace(event(partition, "order", "o1"), is_last=False)
    run = the(Dispatch, partition.post(order, event(partition, "paid", "o1")))
    assert data_of(partition.post(looks(run))) == [{"order": "o1"}]


@pytest.mark.spec("STEP-08")
def test_of_several_names_the_earliest_and_of_each_the_first() -> None:
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    for name, n in (("voided", 1), ("paid", 2), ("paid", 3), ("packed", 4)):
        partition.post(event(partition, name, "o1", n=n))
    either = looks(run, "packed", "paid", "voided", name="either")
    assert data_of(partition.post(either)) == [{"order": "o1", "n": 1}]
    both = looks(run, "packed", "paid", name="both", all_of=True)
    assert data_of(partition.post(both)) == [[{"order": "o1", "n": 4}, {"order": "o1", "n": 2}]]
    assert data_of(partition.post(looks(run, "paid", "shipped", name="rest", all_of=True))) == []
    partition.post(event(partition, "paid", "o1", n=5))
    partition.crash()
    (woken,) = all_of(Dispatch, partition.post(event(partition, "shipped", "o1", n=6))) or [run]
    (rest,) = [record for record in partition.of(records.StepCompleted) if record.step == "rest"]
    assert [each["data"]["n"] for each in msgspec.json.decode(rest.output)] == [2, 6]
    assert woken.run == run.run


@pytest.mark.parametrize(
    "condition", [None, "async.data.n > 1", f"{BY_ORDER} && async.data.n > 1", "async.data.n == 2"]
)
def test_with_any_condition(condition: str | None) -> None:
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    for n in (1, 2, 3):
        partition.post(event(partition, "paid", "o1", n=n))
    found = data_of(partition.post(looks(run, if_exp=condition)))
    assert found == [{"order": "o1", "n": 1 if condition is None else 2}]


def test_a_run_that_was_parked_goes_on_with_what_was_recorded() -> None:
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    partition.post(
        event(partition, "paid", "o1"), slept(run, "nap", partition.now_ms + MINUTE), parked(run, delivered=0)
    )
    woken = the(Dispatch, partition.advance(MINUTE))
    assert data_of(partition.post(looks(woken))) == [{"order": "o1"}]
    replayed = the(Dispatch, partition.crash())
    assert [msgspec.json.decode(each.data or b"") for each in replayed.recorded][-1]["data"] == {"order": "o1"}


def test_ten_minutes_after_its_receipt_an_event_counts_no_more() -> None:
    partition = Partition(ORDER)
    run, other = begin(partition, "o1"), begin(partition, "o2")
    partition.advance(MINUTE)
    partition.post(event(partition, "paid", "o1"), event(partition, "paid", "o2"))
    partition.advance(10 * MINUTE)
    assert data_of(partition.post(looks(run))) == [{"order": "o1"}]
    partition.advance(1)
    assert data_of(partition.post(looks(other))) == []
    assert [record.cut for record in partition.of(records.StepWaiting)] == [
        partition.now_ms - 1 - 10 * MINUTE, partition.now_ms - 10 * MINUTE
    ]  # fmt: skip


def test_a_wait_is_told_that_it_could_not_look_back_all_the_way() -> None:
    """Of a flood the latest events are kept; what is read back from the log after a start is bounded as well."""
    partition = Partition(ORDER, config=EngineConfig(kept_bytes=20_000))
    runs = [begin(partition, f"o{n}") for n in range(100)]
    first_ms = partition.now_ms
    assert data_of(partition.post(looks(runs[99]))) == []
    for n in range(100):
        partition.advance(1)
        partition.post(event(partition, "paid", f"o{n}"))
    assert data_of(partition.post(looks(runs[98]))) == [{"order": "o98"}]
    assert data_of(partition.post(looks(runs[1]))) == []
    cut_ms = partition.of(records.StepWaiting)[-1].cut
    assert isinstance(cut_ms, int)
    assert first_ms < cut_ms < partition.now_ms
    partition.crash()
    again = all_of(Dispatch, partition.drain())
    (late, early) = [next(d for d in again if d.run == runs[n].run) for n in (97, 2)]
    assert data_of(partition.post(looks(late))) == [{"order": "o97"}]
    assert data_of(partition.post(looks(early))) == []
    assert isinstance(partition.of(records.StepWaiting)[-1].cut, int)


def test_a_wait_is_held_against_so_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_TRIED", 3)
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    for n in range(5):
        partition.advance(1)
        partition.post(event(partition, "paid", "o1", n=n))
    assert data_of(partition.post(looks(run, if_exp=None))) == [{"order": "o1", "n": 2}]
    assert partition.of(records.StepWaiting)[0].cut == partition.now_ms - 3


def test_names_that_nobody_has_asked_for_lately_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_NAMES", 2)
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    names = [f"reply/{n}" for n in range(4)]
    for name in names:
        assert data_of(partition.post(looks(run, name, name=f"before {name}", timeout_ms=HOUR))) == []
    for name in names:
        partition.post(event(partition, name, "o1"))
    partition.advance(5 * MINUTE)
    for name in [*names, names[0]]:
        found = partition.post(looks(run, name, name=f"after {name} {partition.commits}"))
        assert data_of(found) == [{"order": "o1"}]
    partition.advance(11 * MINUTE)
    late = begin(partition, "o1")
    partition.post(event(partition, names[0], "o1"))
    assert data_of(partition.post(looks(late, names[0]))) == [{"order": "o1"}]


# --- conditions that fail


def test_a_condition_of_a_wait_that_fails_is_told_once_an_hour() -> None:
    condition = "async.data.n + 1 > 1"
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    partition.post(looks(run, if_exp=condition, is_since_trigger=False))
    for _ in range(3):
        assert data_of(partition.post(event(partition, "paid", "o1", n="x"))) == []
        partition.advance(25 * MINUTE)
    assert data_of(partition.post(event(partition, "paid", "o1", n=1))) == [{"order": "o1", "n": 1}]
    told = [routed.failed for routed in partition.of(records.EventRouted) if routed.name == "paid"]
    assert [bool(failed) for failed in told] == [True, False, False, False]
    (failure,) = told[0] or ()
    assert (failure.function, failure.expression) == ("a-order", condition)
    assert failure.error


def test_a_condition_that_fails_for_an_earlier_event_is_told_with_the_wait() -> None:
    partition = Partition(ORDER)
    run = begin(partition, "o1")
    partition.post(event(partition, "paid", "o1"), event(partition, "paid", "o1", n=1))
    condition = f"async.data.n + 1 > 1 && {BY_ORDER}"
    assert data_of(partition.post(looks(run, if_exp=condition))) == [{"order": "o1", "n": 1}]
    (waiting,) = partition.of(records.StepWaiting)
    assert [(each.function, each.expression) for each in waiting.failed or ()] == [("a-order", condition)]


# --- events that end more waits than one turn may

CROWDED = EngineConfig(met_per_turn=10)


def crowd(partition: Partition, count: int, **options: Any) -> list[Dispatch]:
    runs = all_of(Dispatch, partition.post(*[event(partition, "order", f"o{n}") for n in range(count)]))
    partition.post(*[looks(run, **{"if_exp": None, "is_since_trigger": False, **options}) for run in runs])
    return runs


def completed(partition: Partition) -> list[str]:
    return [record.run for record in partition.of(records.StepCompleted)]


def test_what_one_event_ends_is_spread_over_turns_and_survives_a_kill_between_them() -> None:
    partition = Partition(ORDER, config=CROWDED, limits=SPILLING)
    runs = crowd(partition, 35)
    turns = partition.commits
    partition.write(partition.decide(event(partition, "paid", "o1", n=1)))
    assert len(completed(partition)) == 10
    partition.reload()
    partition.write(partition.decide(event(partition, "paid", "o2", n=2)))
    partition.processor.committed()
    assert len(completed(partition)) == 20
    late = begin(partition, "late")
    assert partition.commits == turns + 4
    assert sorted(completed(partition)) == sorted(run.run_id for run in runs)
    outputs = {bytes(record.output) for record in partition.of(records.StepCompleted)}
    assert [msgspec.json.decode(output)["data"]["n"] for output in outputs] == [1]
    assert data_of(partition.post(looks(late, if_exp=None, is_since_trigger=False))) == []
    assert [key for key in partition.stored() if key.startswith("mail")] == []


def test_a_wait_that_is_made_meanwhile_is_not_ended_but_by_looking_back() -> None:
    partition = Partition(ORDER, config=CROWDED)
    crowd(partition, 40)
    run = begin(partition, "o99")
    partition.write(partition.decide(event(partition, "paid", "o99", n=1)))
    partition.processor.committed()
    new = looks(run, name="new", if_exp=None, is_since_trigger=False)
    back = looks(run, name="back", if_exp=None)
    got = [resume for resume in all_of(Resume, partition.post(new, back)) if resume.run == run.run]
    assert data_of(got) == [{"order": "o99", "n": 1}]
    assert [r.step for r in partition.of(records.StepCompleted) if r.run == run.run_id] == ["back"]
    assert len(completed(partition)) == 41
    partition.post(event(partition, "paid", "o99", n=2))
    assert len(completed(partition)) == 42


def test_an_event_that_came_in_time_ends_a_wait_whose_time_is_up_before_its_turn() -> None:
    partition = Partition(ORDER, config=CROWDED)
    crowd(partition, 30, timeout_ms=HOUR)
    partition.now_ms += HOUR - 1
    partition.write(partition.decide(event(partition, "paid", "o1")))
    partition.processor.committed()
    partition.now_ms += HOUR
    partition.settle()
    assert len(completed(partition)) == 30
    assert all(bytes(record.output) != b"null" for record in partition.of(records.StepCompleted))


def test_later_events_do_not_overtake() -> None:
    partition = Partition(ORDER, config=CROWDED)
    crowd(partition, 25, if_exp="async.data.n >= 1")
    partition.post(*[event(partition, "paid", "o1", n=n) for n in (0, 1, 2)])
    outputs = [msgspec.json.decode(record.output) for record in partition.of(records.StepCompleted)]
    assert [output["data"]["n"] for output in outputs] == [1] * 25
