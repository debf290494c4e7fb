"""Folds journal records into changes of the history's tables, and writes them.

A batch costs few statements, and one row of ``runs`` for each run in it, whatever happened to the run: the steps of one
that starts and ends in it stand in that row. Nothing is read back: a run that began in an earlier batch gets an UPDATE
with what changed. Whether an open run is ``running`` or ``waiting`` is asked of its retry and its steps when it is
written, because a wait may be older than the batch.

Where rows are many, 0 and "" stand for NULL: ``sqlite3`` takes 0.5 µs to bind a None, as long as all else of a column.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable

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
from steplog.history.journal import TurnRecords
from steplog.history.schema import OPEN_STEP
from steplog.history.views import WaitsFor

Row = tuple[str | int | None, ...]
UNCHANGED = -1
_UNFIT = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError, ValueError)


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
    open_steps: list[Row] = []  # that wait, or have failed
    attempts: list[Row] = []
    events: list[Row] = []
    dead: list[Row] = []


def fold(turns: Iterable[TurnRecords]) -> Changes:
    """Work out what turns do to the tables."""
    changes = Changes()
    for turn in turns:
        routed = _fold_records(changes, turn.records)
        changes.events += [_event(event, routed.get(event.internal_id)) for event in turn.events]
        changes.dead += [(bad.position, bad.source, bad.env, bad.reason, bad.data) for bad in turn.unreadable]
    return changes


def project(connection: sqlite3.Connection, turns: list[TurnRecords]) -> None:
    """Write what turns do, in the transaction that is open. What does not fit the tables goes to ``dead``."""
    connection.execute("SAVEPOINT turns")
    try:
        write(connection, fold(turns))
    except _UNFIT:
        connection.execute("ROLLBACK TO turns")
        for turn in turns:
            _project_singly(connection, turn)
    connection.execute("RELEASE turns")


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write changes in the transaction that is open."""
    write_rows = connection.executemany
    if changes.open_steps:
        write_rows(_UPSERT_STEP, changes.open_steps)
    completed = [_completed(r) for run in changes.runs.values() if not run.is_whole for r in run.completed]
    if completed:  # after the waits and errors of the same steps, before the runs that ask for them
        write_rows(_COMPLETE_STEP, completed)
    if changes.attempts:
        write_rows(_INSERT_ATTEMPT, changes.attempts)
    if changes.events:
        write_rows(_INSERT_EVENT, changes.events)
    if changes.dead:
        write_rows(_INSERT_DEAD, changes.dead)
    begun = [(r, run) for run in changes.runs.values() if (r := run.scheduled) is not None]
    if begun:
        write_rows(_INSERT_RUN, [_begun(r, run) for r, run in begun])
        counts = Counter([(r.env, r.function, r.app) for r, _ in begun])
        write_rows(_COUNT_RUNS, [(*function, count) for function, count in counts.items()])
    gone_on = [_gone_on(id_, run) for id_, run in changes.runs.items() if run.scheduled is None and run.state]
    if gone_on:
        write_rows(_UPDATE_RUN, gone_on)


def _project_singly(connection: sqlite3.Connection, turn: TurnRecords) -> None:
    """Write a turn record by record, so that one that does not fit harms no other."""
    routed = [record for record in turn.records if isinstance(record, EventRouted)]
    parts = [TurnRecords(position=turn.position, records=[*routed], events=[event]) for event in turn.events]
    parts += [TurnRecords(position=turn.position, records=[r]) for r in turn.records if not isinstance(r, EventRouted)]
    for part in parts:
        connection.execute("SAVEPOINT part")
        try:
            write(connection, fold([part]))
        except _UNFIT as error:
            connection.execute("ROLLBACK TO part")
            source, record = ("events", part.events[0]) if part.events else ("journal", part.records[0])
            reason = f"{type(error).__name__}: {error}"
            write(connection, Changes(dead=[(part.position, source, record.env, reason, repr(record))]))
        connection.execute("RELEASE part")
    write(connection, fold([TurnRecords(position=turn.position, unreadable=turn.unreadable)]))


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
                open_steps.append((
                    r.run, r.id, r.env, r.step, r.op, "waiting", 0, r.seq, r.at, None, r.until, None, None, None,
                    _waits_for(r),
                ))  # fmt: skip
            case StepErrored():
                run.state, run.has_step_rows = "running", True
                open_steps.append(_unsuccessful(r, "errored", r.retry_at))
                attempts.append(_attempt(r, "errored"))
            case StepFailed():
                run.state, run.has_step_rows = "running", True
                open_steps.append(_unsuccessful(r, "failed", None))
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
    is_duplicate, runs, skipped, resumed = 0, "[]", "[]", "[]"
    if routed is not None:
        is_duplicate = int(routed.duplicate is True)
        runs = _encode(routed.runs).decode()
        skipped = _encode(routed.skipped).decode() if routed.skipped else skipped
        resumed = _encode(routed.resumed).decode() if not isinstance(routed.resumed, UnsetType) else resumed
    return (
        event.internal_id, event.env, event.id, event.name, event.ts, event.received_at, event.source, v, user,
        str(event.data, "utf8"), is_duplicate, runs, skipped, resumed,
    )  # fmt: skip


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

_HAS_WAITING_STEP = f"EXISTS (SELECT 1 FROM steps WHERE run = ?1 AND {OPEN_STEP} AND state = 'waiting')"  # noqa: S608 - ours
_RETRY_AT = f"nullif(iif(?6 = {UNCHANGED}, retry_at_ms, ?6), 0)"

_INSERT_RUN = f"""
    INSERT INTO runs VALUES (
        ?1, ?2, ?3, ?4, nullif(?5, ''), ?6, ?7,
        CASE WHEN ?8 <> 'running' THEN ?8 WHEN {_HAS_WAITING_STEP} THEN 'waiting' ELSE ?8 END,
        ?9, nullif(?10, 0), nullif(?11, 0), nullif(?12, 0), ?13, nullif(?14, 0), nullif(?15, ''), nullif(?16, ''), ?17
    )"""  # noqa: S608 - ours
_UPDATE_RUN = f"""
    UPDATE runs SET
        state = CASE
            WHEN ?2 <> 'running' THEN ?2 WHEN {_RETRY_AT} NOTNULL OR {_HAS_WAITING_STEP} THEN 'waiting' ELSE ?2 END,
        started_ms = coalesce(started_ms, nullif(?3, 0)), ended_ms = nullif(?4, 0), generation = max(generation, ?5),
        retry_at_ms = {_RETRY_AT}, output = nullif(?7, ''), error = nullif(?8, ''), steps = ?9
    WHERE id = ?1"""  # noqa: S608 - ours
_UPSERT_STEP = """
    INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        op = excluded.op, state = excluded.state, attempt = excluded.attempt, ended_ms = excluded.ended_ms,
        until_ms = excluded.until_ms, retry_at_ms = excluded.retry_at_ms, error = excluded.error"""
_COMPLETE_STEP = """
    INSERT INTO steps (run, id, env, name, op, state, attempt, seq, started_ms, ended_ms, output)
    VALUES (?, ?, ?, ?, ?, 'completed', ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        op = excluded.op, state = excluded.state, attempt = excluded.attempt, ended_ms = excluded.ended_ms,
        retry_at_ms = NULL, output = excluded.output, error = NULL"""  # seq and started_ms stay those of the first
_INSERT_ATTEMPT = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_EVENT = """
    INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?)
    """  # ignored: an event that comes again with its seed has the same id
_INSERT_DEAD = "INSERT INTO dead VALUES (?, ?, ?, ?, ?)"
_COUNT_RUNS = "INSERT INTO functions VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET runs = runs + excluded.runs"
