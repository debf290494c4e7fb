"""What a run's records become in the history."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steplog.engine.effects import Dispatch
from steplog.engine.functions import DEFAULT_ENV, EngineConfig
from steplog.engine.messages import SignalSent
from steplog.engine.operations import EventOut, InvokeFunction, SendEvent, WaitForEvent, WaitForSignal
from steplog.engine.records import EventRouted, Record, RunRef, RunScheduled, Skip, StepRef, StoredEvent
from steplog.history.journal import TurnRecords
from steplog.history.position import Position
from steplog.history.projector import Projector
from steplog.history.queries import History
from steplog.history.source import Portion
from steplog.history.store import open_store
from steplog.history.views import RunView, WaitsFor

from .history_log import RecordedPartition, open_history, open_projector, rows
from .partition import (
    DAY,
    MINUTE,
    NOON,
    SECOND,
    broke,
    function,
    raised,
    ran,
    report,
    returned,
    slept,
    the,
)


class World:
    """A log that grows, and its history."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.log = RecordedPartition(folder / "log.db", function("f", retries=1), function("g", "f"), function("h"))
        self.projector = open_projector(folder / "log.db", address)
        self.history = open_history(address)

    def project(self) -> History:
        self.projector.catch_up()
        return self.history

    def run(self, at: Dispatch) -> RunView:
        return self.project().run(at.run_id)

    def close(self) -> None:
        self.history.close()
        self.projector.close()
        self.log.close()


@pytest.fixture
def world(tmp_path: Path, new_history: Callable[[], str]) -> Iterator[World]:
    world = World(tmp_path, new_history())
    yield world
    world.close()


@pytest.mark.parametrize("at_once", [True, False])
def test_short_run_is_the_same_in_one_batch_and_in_many(world: World, at_once: bool) -> None:
    def look() -> None:
        if not at_once:
            world.project()

    at = world.log.start("h")
    look()
    for step in ("a", "b", "c"):
        world.log.now_ms += 5
        world.log.post(ran(at, step, b'{"n":1}'))
        look()
    world.log.post(returned(at, b'"done"'))
    run = world.run(at)
    assert (run.state, run.function, run.app, run.env) == ("completed", "a-h", "a", "default")
    assert (run.scheduled_ms, run.started_ms, run.ended_ms) == (NOON, NOON, NOON + 15)
    assert run.generation == 1
    assert run.output is not None
    assert bytes(run.output) == b'"done"'
    assert (run.error, run.next_step, run.retry_at_ms, run.due_ms, run.version) == (None, None, None, None, None)
    steps = world.history.steps(at.run_id)
    assert [(s.name, s.state, s.attempt, s.seq, s.attempts) for s in steps] == [
        ("a", "completed", 0, 2, ()), ("b", "completed", 0, 3, ()), ("c", "completed", 0, 4, ()),
    ]  # fmt: skip
    assert (steps[0].started_ms, steps[0].ended_ms, steps[0].op) == (1, 2, "StepRun")
    assert [bytes(s.output or b"") for s in steps] == [b'{"n":1}'] * 3


def test_event_knows_its_runs(world: World) -> None:
    first, second = (effect for effect in world.log.send("f", id="e1") if isinstance(effect, Dispatch))
    world.project()
    event = world.history.events().events[0]
    assert (event.id, event.name, event.source, event.env, event.is_duplicate) == ("e1", "f", "test", "default", False)
    assert event.runs == (RunRef(first.run_id, "a-f"), RunRef(second.run_id, "a-g"))
    assert bytes(event.data) == b"{}"
    assert world.history.runs_of_event(event.internal_id) == (world.run(first), world.run(second))
    assert world.history.run(first.run_id).events == (event.internal_id,)


@pytest.mark.spec("EVT-14")
def test_duplicate_event_is_kept_and_starts_nothing(world: World) -> None:
    world.log.send("h", id="e1")
    world.log.send("h", id="e1")
    world.project()
    second, first = world.history.events().events
    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert (second.runs, second.skipped) == ((), (Skip("a-h", "duplicate"),))
    assert world.history.runs_of_event(second.internal_id) == ()
    assert len(world.history.runs().runs) == 1


@pytest.mark.parametrize("at_once", [True, False])
def test_sleeping_run_waits_until_its_sleep_ends(world: World, at_once: bool) -> None:
    at = world.log.start("h")
    if not at_once:
        assert world.run(at).state == "running"
    world.log.post(slept(at, "nap", NOON + MINUTE))
    run = world.run(at)
    assert (run.state, run.next_step, run.next_ms) == ("waiting", "nap", NOON + MINUTE)
    assert run.next_state == "waiting"
    world.log.advance(MINUTE)
    run = world.run(at)
    assert (run.state, run.next_step) == ("running", None)
    (nap,) = world.history.steps(at.run_id)
    assert (nap.state, nap.op, nap.started_ms, nap.ended_ms) == ("completed", "Sleep", NOON, NOON + MINUTE)
    assert nap.until_ms == NOON + MINUTE


@pytest.mark.spec("STEP-08")
def test_event_knows_the_waits_that_it_has_ended(world: World) -> None:
    at = world.log.start("h")
    world.log.post(report(at, "paid", WaitForEvent(events=("nobody",), timeout_ms=MINUTE)))
    world.log.send("nobody")
    world.project()
    newest = world.history.events().events[0]
    assert (newest.name, newest.runs, newest.resumed) == ("nobody", (), (StepRef(at.run_id, "paid"),))
    assert world.history.events().events[1].resumed == ()


def test_run_with_a_longer_sleep_beside_goes_on_waiting(world: World) -> None:
    at = world.log.start("h")
    world.log.post(slept(at, "short", NOON + SECOND), slept(at, "long", NOON + DAY))
    assert world.run(at).next_step == "short"
    world.log.advance(SECOND)
    run = world.run(at)
    assert (run.state, run.next_step, run.next_ms) == ("waiting", "long", NOON + DAY)


def test_run_that_began_again_in_its_sleep_is_waiting(world: World) -> None:
    at = world.log.start("h")
    world.log.post(slept(at, "nap", NOON + MINUTE))
    world.project()
    again = the(Dispatch, world.log.crash())
    run = world.run(again)
    assert (run.state, run.generation, run.started_ms) == ("waiting", 2, NOON)


@pytest.mark.parametrize("at_once", [True, False])
def test_retried_step_has_its_attempts(world: World, at_once: bool) -> None:
    at = world.log.start("h")
    world.log.post(broke(at, "pack", retry_after_ms=15 * SECOND))
    if not at_once:
        run = world.run(at)
        assert (run.state, run.next_step, run.next_ms) == ("running", "pack", NOON + 15 * SECOND)
        assert run.next_state == "errored"
        (step,) = world.history.steps(at.run_id)
        assert (step.state, step.retry_at_ms, step.output) == ("errored", NOON + 15 * SECOND, None)
        assert step.error is not None
        assert step.error.message == "pack 0"
    world.log.advance(15 * SECOND)
    world.log.post(ran(at, "pack", b"2", attempt=1))
    world.project()
    (step,) = world.history.steps(at.run_id)
    assert (step.state, step.attempt, step.seq, step.retry_at_ms, step.error) == ("completed", 1, 2, None, None)
    failed, last = step.attempts
    assert (failed.attempt, failed.outcome, failed.retry_at_ms) == (0, "errored", NOON + 15 * SECOND)
    assert (failed.max_attempts, last.max_attempts) == (5, None)
    assert failed.error is not None
    assert failed.error.name == "ValueError"
    assert (last.attempt, last.outcome, bytes(last.output or b"")) == (1, "completed", b"2")
    assert last.at_ms == NOON + 15 * SECOND


def test_failed_step_and_failed_run(world: World) -> None:
    at = world.log.start("h")
    world.log.post(broke(at, "pack", final=True), raised(at, final=True))
    run = world.run(at)
    assert (run.state, run.output, run.is_terminal, run.ended_ms) == ("failed", None, True, NOON)
    assert run.error is not None
    assert (run.error.name, run.error.message) == ("KeyError", "'x'")
    (step,) = world.history.steps(at.run_id)
    assert (step.state, [a.outcome for a in step.attempts]) == ("failed", ["failed"])


def test_function_that_raised_waits_for_its_retry(world: World) -> None:
    at = world.log.start("h")
    world.log.post(slept(at, "nap", NOON + SECOND), raised(at, retry_after_ms=MINUTE))
    run = world.run(at)
    assert (run.state, run.retry_at_ms, run.error) == ("waiting", NOON + MINUTE, None)
    world.log.advance(SECOND)  # a result is recorded meanwhile
    assert world.run(at).state == "waiting"
    (attempt,) = [a for a in world.history.attempts(at.run_id) if not a.step]
    assert (attempt.attempt, attempt.outcome, attempt.retry_at_ms) == (0, "errored", NOON + MINUTE)
    assert attempt.max_attempts == 5
    world.log.advance(MINUTE)
    run = world.run(at)
    assert (run.state, run.retry_at_ms, run.generation) == ("running", None, 2)


def test_late_answers_are_kept_and_change_nothing(world: World) -> None:
    at = world.log.start("h")
    world.log.post(ran(at, "a", b"1"), ran(at, "a", b"2"))
    world.log.post(returned(at, executing=["b"]))
    before = world.run(at)
    world.log.post(ran(at, "b", b"3"))
    assert world.run(at) == before
    recorded, late = world.history.steps(at.run_id)
    assert (recorded.state, bytes(recorded.output or b"")) == ("completed", b"1")
    assert [(a.outcome, bytes(a.output or b"")) for a in recorded.attempts] == [("late", b"2")]
    assert (late.name, late.state, late.output) == ("b", "late", None)
    assert [bytes(a.output or b"") for a in late.attempts] == [b"3"]


def test_future_run_is_scheduled_and_a_run_without_a_place_is_queued(
    tmp_path: Path, new_history: Callable[[], str]
) -> None:
    address = new_history()
    log = RecordedPartition(tmp_path / "log.db", config=EngineConfig(live_runs=1))
    log.send("f", ts_ms=NOON + DAY)
    log.now_ms += 1
    first = log.start("f")
    log.now_ms += 1
    log.send("f")
    with open_projector(log.path, address) as projector, open_history(address) as history:
        projector.catch_up()
        queued, running, scheduled = history.runs().runs
        assert (scheduled.state, scheduled.due_ms, scheduled.started_ms) == ("scheduled", NOON + DAY, None)
        assert (running.id, running.state) == (first.run_id, "running")
        assert (queued.state, queued.started_ms, queued.generation) == ("queued", None, 0)
        log.now_ms += SECOND
        log.post(returned(first))
        projector.catch_up()
        started = history.run(queued.id)
        assert (started.state, started.started_ms, started.generation) == ("running", NOON + 2 + SECOND, 1)
    log.close()


def test_events_of_a_step_are_events(world: World) -> None:
    at = world.log.start("h")
    out = EventOut(name="f", data=b'{"x":1}', user=b'{"id":7}', v="2")
    world.log.post(report(at, "tell", SendEvent(events=(out,))))
    world.project()
    event = next(event for event in world.history.events().events if event.source == "step")
    assert (event.name, event.v, bytes(event.data), bytes(event.user or b"")) == ("f", "2", b'{"x":1}', b'{"id":7}')
    assert len(event.runs) == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_what_a_step_waits_for_is_shown_and_stays(world: World, at_once: bool) -> None:
    at = world.log.start("h")
    paid = WaitForEvent(events=("paid", "voided"), timeout_ms=DAY, all_of=True, if_exp="async.data.n == 1")
    world.log.post(
        report(at, "both", paid), report(at, "go", WaitForSignal(signal="go/1", timeout_ms=DAY)),
        report(at, "call", InvokeFunction(function="a-g", data=b"{}", timeout_ms=DAY)),
    )  # fmt: skip
    (child,) = [record.run for record in world.log.of(RunScheduled) if record.function == "a-g"]
    waited = (
        WaitsFor(events=("paid", "voided"), all=True, expression="async.data.n == 1"), WaitsFor(signal="go/1"),
        WaitsFor(function="a-g", child=child),
    )  # fmt: skip
    if not at_once:
        assert world.run(at).state == "waiting"
        steps = world.history.steps(at.run_id)
        assert tuple(step.waits_for for step in steps) == waited
        assert {(step.state, step.until_ms) for step in steps} == {("waiting", NOON + DAY)}
    world.log.post(SignalSent(env=DEFAULT_ENV, signal="go/1", data=b"1"))
    world.log.advance(DAY)
    world.project()
    steps = world.history.steps(at.run_id)
    assert tuple(step.waits_for for step in steps) == waited
    assert [step.state for step in steps] == ["completed", "completed", "failed"]
    assert steps[2].error is not None
    assert (steps[0].ended_ms, steps[1].ended_ms, steps[2].error.name) == (
        NOON + DAY, NOON, "InngestInvokeTimeoutError"
    )  # fmt: skip


@pytest.mark.spec("FN-22")
def test_a_run_keeps_the_version_of_its_function_that_it_began_with(world: World) -> None:
    first = world.log.start("h")
    world.log.crash(function("h", retries=0))
    second = world.log.start("h")
    assert (world.run(first).function_version, world.run(second).function_version) == (1, 2)


# --- partitions


class Listed:
    """A log whose portions are listed."""

    log_id = "listed"

    def __init__(self, portions: Sequence[Portion]) -> None:
        self._portions = portions

    def read(self, after: Position) -> Portion | None:
        return next((each for each in self._portions if not after.covers(each.position)), None)

    def end(self) -> Position:
        numbers: dict[str, int] = {}
        for portion in self._portions:
            numbers |= dict(portion.position.numbers)
        return Position.of(numbers)

    def has_come_to(self, position: Position) -> bool:
        return self.end().covers(position)

    def close(self) -> None:
        """Nothing is held."""


def told(tmp_path: Path) -> RecordedPartition:
    """A log with events that start two runs, one, or none; a step that is tried again; a late answer."""
    log = RecordedPartition(tmp_path / "told.db", function("f", retries=1), function("g", "f"), function("h"))
    for effect in log.send("f", id="e1"):
        if isinstance(effect, Dispatch):
            log.post(ran(effect, "a"), returned(effect))
    log.send("f", id="e1")
    log.send("nobody")
    at = log.start("h")
    log.post(ran(at, "a"), broke(at, "b", retry_after_ms=SECOND), slept(at, "nap", log.now_ms + MINUTE))
    log.post(raised(log.start("h")), raised(log.start("h"), final=True))
    log.advance(SECOND)
    log.post(broke(at, "b", attempt=1, final=True), returned(at, executing=["c"]), ran(at, "c"))
    return log


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_partitions_in_any_order_and_portions_make_the_same_history(
    tmp_path_factory: pytest.TempPathFactory, new_history: Callable[[], str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("order")
    log = told(folder)
    with open_projector(log.path, folder / "history.db") as projector:
        projector.catch_up()
    log.close()
    waiting: dict[str, list[TurnRecords]] = {}
    for _, records in log.log.journal:
        for record in map(_decode_record, records):
            of = record.event if isinstance(record, EventRouted) else record.run
            waiting.setdefault(f"journal/{of[-1] < 'G'}", []).append(TurnRecords(position=0, records=[record]))
    for _, events in log.log.events:
        for event in map(_decode_event, events):
            turn = TurnRecords(position=0, events=[event])
            waiting.setdefault(f"events/{event.internal_id[-1] < '3'}", []).append(turn)
    portions, reached = list[Portion](), Position()
    while waiting:
        start, turns, numbers = reached, list[TurnRecords](), dict[str, int]()
        for place in data.draw(st.lists(st.sampled_from(sorted(waiting)), min_size=1, unique=True)):
            count = data.draw(st.integers(1, len(waiting[place])))
            turns += waiting[place][:count]
            numbers[place] = reached.number(place) + count
            waiting[place] = waiting[place][count:]
        reached = reached.joined(Position.of(numbers))
        portions.append(Portion(start=start, position=Position.of(numbers), turns=turns, is_full=False))
        waiting = {place: left for place, left in waiting.items() if left}
    history = new_history()
    with Projector(Listed(portions), open_store(history)) as projector:
        assert projector.catch_up() == reached
    assert rows(history) == rows(folder / "history.db")
    with open_history(history) as one, open_history(folder / "history.db") as other:
        assert one.events() == other.events()
        assert [one.runs_of_event(e.internal_id) for e in one.events().events] == [
            other.runs_of_event(e.internal_id) for e in other.events().events
        ]


_decode_record = msgspec.json.Decoder[Record](Record).decode
_decode_event = msgspec.json.Decoder(StoredEvent).decode
