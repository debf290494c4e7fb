"""Folds journal records into changes of the history's tables, and has them written.

A batch costs few statements, and one row of ``runs`` for each run in it, whatever happened to the run: the steps of one
that starts and ends in it stand in that row. Nothing is read back: a run that began in an earlier batch gets an UPDATE
with what changed. Whether an open run is ``running`` or ``waiting`` is asked of its retry and its steps when it is
written, because a wait may be older than the batch.

The records of a run come in order. An event, what became of it, and the runs that it started may come in any order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from steplog.engine.operations import ErrorInfo
from steplog.engine.records import (
    EventRouted,
    Record,
    RunCompleted,
    RunErrored,
    RunFailed,
    RunScheduled,
    RunStarted,
    StepCompleted,
    StepErrored,
    StepFailed,
    StepLate,
    StepWaiting,
    StoredEvent,
)
from steplog.history.journal import Source, TurnRecords
from steplog.history.statements import (
    COMPLETE_STEP,
    COUNT_RUNS,
    INSERT_ATTEMPT,
    INSERT_DEAD,
    INSERT_EVENT,
    INSERT_ROUTING,
    INSERT_RUN,
    UNCHANGED,
    UPDATE_RUN,
    UPSERT_STEP,
    Statement,
)
from steplog.history.views import WaitsFor

Row = tuple[str | int | None, ...]


class Writer(Protocol):
    """A transaction that is open."""

    unfit: tuple[type[Exception], ...]  # raised where a row does not fit its table

    def execute(self, statement: str) -> object:
        """Run a statement without values."""
        ...

    def write(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Run a statement for each row."""
        ...


class RunChange(msgspec.Struct):
    """What a batch does to one run."""

    scheduled: RunScheduled | None = None  # where the run came to be in this batch
    state: str = ""  # empty: unchanged; running: it goes on, or waits
    started_ms: int = 0
    ended_ms: int = 0
    generation: int = 0
    retry_at_ms: int = UNCHANGED  # 0: no longer
    output: str = ""
    error: str = ""
    completed: list[StepCompleted] = []
    has_begun: bool = False  # in this batch, for the first time
    has_step_rows: bool = False  # some of its steps waited, or failed

    @property
    def is_whole(self) -> bool:
        """Whether it began and ended in this batch, and nothing else ever happened to its steps."""
        return self.ended_ms != 0 and self.has_begun and not self.has_step_rows


class Changes(msgspec.Struct):
    """What a batch does to the tables: rows as they are written."""

    runs: dict[str, RunChange] = {}
    open_steps: dict[tuple[str, str], Row] = {}  # that wait, or have failed
    attempts: list[Row] = []
    events: list[Row] = []
    routings: list[Row] = []  # of events that are in other batches
    dead: list[Row] = []


def fold(turns: Iterable[TurnRecords]) -> Changes:
    """Work out what turns do to the tables."""
    changes = Changes()
    for turn in turns:
        routed = _fold_records(changes, turn.records)
        changes.events += [_event(event, routed.pop(event.internal_id, None)) for event in turn.events]
        changes.routings += [_routing(r) for r in routed.values()]
        changes.dead += [
            (bad.position, bad.source, bad.env, bad.reason, bad.data, bad.partition) for bad in turn.unreadable
        ]
    return changes


def project(writer: Writer, turns: list[TurnRecords]) -> None:
    """Write what turns do, in the transaction that is open. What does not fit the tables goes to ``dead``."""
    writer.execute("SAVEPOINT turns")
    try:
        write(writer, fold(turns))
    except writer.unfit:
        writer.execute("ROLLBACK TO SAVEPOINT turns")
        for turn in turns:
            _project_singly(writer, turn)
    writer.execute("RELEASE SAVEPOINT turns")


def write(writer: Writer, changes: Changes) -> None:
    """Write changes in the transaction that is open."""
    for statement, rows in _writes(changes):
        if rows:
            writer.write(statement, rows)


def _writes(changes: Changes) -> Iterator[tuple[Statement, Sequence[Row]]]:
    """What is to be written, in order."""
    runs = changes.runs
    yield UPSERT_STEP, list(changes.open_steps.values())
    # after the waits and errors of the same steps, before the runs that ask for them
    yield COMPLETE_STEP, [_completed(r) for run in runs.values() if not run.is_whole for r in run.completed]
    yield INSERT_ATTEMPT, changes.attempts
    yield INSERT_EVENT, changes.events
    yield INSERT_ROUTING, changes.routings
    yield INSERT_DEAD, changes.dead
    begun = [(r, run) for run in runs.values() if (r := run.scheduled) is not None]
    yield INSERT_RUN, [_begun(r, run) for r, run in begun]
    yield UPDATE_RUN, [_gone_on(id_, run) for id_, run in runs.items() if run.scheduled is None and run.state]
    counts = Counter([(r.env, r.function, r.app) for r, _ in begun])
    yield COUNT_RUNS, [(*function, count) for function, count in sorted(counts.items())]  # two writers lock in order


def _project_singly(writer: Writer, turn: TurnRecords) -> None:
    """Write a turn record by record, so that one that does not fit harms no other."""
    for part in _parts(turn):
        writer.execute("SAVEPOINT part")
        try:
            write(writer, fold([part]))
        except writer.unfit as error:
            writer.execute("ROLLBACK TO SAVEPOINT part")
            write(writer, Changes(dead=[_unfit(part, error)]))
        writer.execute("RELEASE SAVEPOINT part")
    write(writer, fold([TurnRecords(position=turn.position, unreadable=turn.unreadable)]))


def _parts(turn: TurnRecords) -> Iterator[TurnRecords]:
    """A turn record by record: events first, each with what became of it."""

    def part(index: int, records: list[Record], events: list[StoredEvent] | None = None) -> TurnRecords:
        place = turn.offsets[index] if turn.offsets else turn.position
        return TurnRecords(position=place, partition=turn.partition, records=records, events=events or [])

    together = {event.internal_id for event in turn.events}
    routed = [r for r in turn.records if isinstance(r, EventRouted)]
    for n, event in enumerate(turn.events):
        yield part(n, [r for r in routed if r.event == event.internal_id], [event])
    for n, record in enumerate(turn.records):
        if not (isinstance(record, EventRouted) and record.event in together):
            yield part(n, [record])


def _unfit(part: TurnRecords, error: Exception) -> Row:
    source: Source = "events" if part.events else "journal"
    record = part.events[0] if part.events else part.records[0]
    reason = f"{type(error).__name__}: {error}"
    return part.position, source, record.env, reason, repr(record), part.partition


def _fold_records(changes: Changes, records: list[Record]) -> dict[str, EventRouted]:
    """Fold a turn's records; return what became of its events. The most frequent kinds stand first."""
    runs, open_steps, attempts = changes.runs, changes.open_steps, changes.attempts
    routed: dict[str, EventRouted] = {}
    for r in records:
        if isinstance(r, EventRouted):
            routed.setdefault(r.event, r)  # an event that comes again with its seed has the same id
            continue
        run = runs.get(r.run)
        if run is None:
            run = runs[r.run] = RunChange()
        match r:
            case StepCompleted():
                run.state = "running"
                run.completed.append(r)
                if r.attempt:  # the last of several; a step that succeeds at once has no rows there
                    attempts.append(_attempt(r, "completed", output=str(r.output, "utf8")))
            case RunCompleted():
                run.state, run.ended_ms, run.retry_at_ms, run.output = "completed", r.at, 0, str(r.output, "utf8")
            case RunScheduled():
                run.scheduled = r
                if r.started is True:
                    run.state, run.started_ms, run.generation, run.has_begun = "running", r.at, 1, True
                else:
                    run.state = "queued" if r.due is UNSET else "scheduled"
            case RunStarted():
                run.state, run.generation, run.retry_at_ms = "running", r.generation, 0
                run.started_ms = run.started_ms or r.at
                run.has_begun = run.has_begun or r.generation == 1
            case StepWaiting():
                run.state, run.has_step_rows = "running", True
                _open_step(open_steps, (
                    r.run, r.id, r.env, r.step, r.op, "waiting", 0, r.seq, r.at, None, r.until, None, None, None,
                    _waits_for(r),
                ))  # fmt: skip
            case StepErrored():
                run.state, run.has_step_rows = "running", True
                _open_step(open_steps, _unsuccessful(r, "errored", r.retry_at))
                attempts.append(_attempt(r, "errored"))
            case StepFailed():
                run.state, run.has_step_rows = "running", True
                _open_step(open_steps, _unsuccessful(r, "failed", None))
                attempts.append(_attempt(r, "failed"))
            case StepLate():
                late = None if isinstance(r.output, UnsetType) else str(r.output, "utf8")
                attempts.append(_attempt(r, "late", output=late))
            case RunErrored():
                run.state, run.retry_at_ms = "running", r.retry_at
                attempts.append(_attempt(r, "errored"))
            case RunFailed():
                run.state, run.ended_ms, run.retry_at_ms, run.error = "failed", r.at, 0, _json(r.error)
    return routed


def _open_step(open_steps: dict[tuple[str, str], Row], row: Row) -> None:
    """Note what a step has come to. One row a step, with the columns that ``UPSERT_STEP`` keeps as they were first."""
    key = str(row[0]), str(row[1])
    first = open_steps.get(key)
    open_steps[key] = row if first is None else (
        *first[:4], *row[4:7], *first[7:9], *row[9:12], first[12], row[13], first[14]
    )  # fmt: skip


def _completed(r: StepCompleted) -> Row:
    return (r.run, r.id, r.env, r.step, r.op, r.attempt, r.seq, r.started, r.ended, str(r.output, "utf8"))


def _whole(run: RunChange) -> str:
    """What ``queries.WholeStep`` reads."""
    if not run.is_whole:
        return "[]"
    steps = run.completed
    return _encode([(r.id, r.step, r.op, r.attempt, r.seq, r.started, r.ended, r.output) for r in steps]).decode()


def _waits_for(r: StepWaiting) -> str | None:
    if r.op == "Sleep":
        return None
    fields = ("events", "all", "expression", "signal", "function", "child")
    found = {name: value for name in fields if not isinstance(value := getattr(r, name), UnsetType)}
    return _encode(WaitsFor(**found)).decode()


def _unsuccessful(r: StepErrored | StepFailed, state: str, retry_at_ms: int | None) -> Row:
    return (
        r.run, r.id, r.env, r.step, r.op, state, r.attempt, r.seq, r.started, r.ended, None, retry_at_ms, None,
        _json(r.error), None,
    )  # fmt: skip


def _attempt(
    r: StepCompleted | StepErrored | StepFailed | StepLate | RunErrored,
    outcome: str,
    *,
    output: str | None = None,
) -> Row:
    step, name, op = ("", "", "") if isinstance(r, RunErrored) else (r.id, r.step, r.op)
    started, ended = (None, None) if isinstance(r, StepLate | RunErrored) else (r.started, r.ended)
    retry_at_ms, most = (r.retry_at, r.max_attempts) if isinstance(r, StepErrored | RunErrored) else (None, UNSET)
    error = None if isinstance(r, StepCompleted) or isinstance(r.error, UnsetType) else _json(r.error)
    return (
        r.run, r.seq, r.env, step, name, op, r.attempt, outcome, r.at, started, ended, retry_at_ms,
        None if isinstance(most, UnsetType) else most, output, error,
    )  # fmt: skip


def _event(event: StoredEvent, routed: EventRouted | None) -> Row:
    user = "" if isinstance(event.user, UnsetType) else str(event.user, "utf8")
    v = "" if isinstance(event.v, UnsetType) else event.v
    is_duplicate, runs, skipped, resumed = (0, "", "[]", "[]") if routed is None else _routed(routed)
    return (
        event.internal_id, event.env, event.id, event.name, event.ts, event.received_at, event.source, v, user,
        str(event.data, "utf8"), is_duplicate, runs, skipped, resumed,
    )  # fmt: skip


def _routing(routed: EventRouted) -> Row:
    return routed.event, routed.env, *_routed(routed)


def _routed(routed: EventRouted) -> tuple[int, str, str, str]:
    """What became of an event: whether it is a duplicate, runs, skipped, resumed."""
    skipped = _encode(routed.skipped).decode() if routed.skipped else "[]"
    resumed = "[]" if isinstance(routed.resumed, UnsetType) else _encode(routed.resumed).decode()
    return int(routed.duplicate is True), _encode(routed.runs).decode(), skipped, resumed


def _begun(r: RunScheduled, run: RunChange) -> Row:
    version = "" if isinstance(r.version, UnsetType) else r.version
    due_ms = 0 if isinstance(r.due, UnsetType) else r.due
    retry_at_ms = max(run.retry_at_ms, 0)
    state = "waiting" if retry_at_ms else run.state
    return (
        r.run, r.env, r.function, r.app, version, r.function_version, _encode(r.events).decode(), state, r.at, due_ms,
        run.started_ms, run.ended_ms, run.generation, retry_at_ms, run.output, run.error, _whole(run),
    )  # fmt: skip


def _gone_on(run_id: str, run: RunChange) -> Row:
    return (
        run_id, run.state, run.started_ms, run.ended_ms, run.generation, run.retry_at_ms, run.output, run.error,
        _whole(run),
    )  # fmt: skip


def _json(error: ErrorInfo) -> str:
    return _encode(error).decode()


_encode = msgspec.json.Encoder().encode
