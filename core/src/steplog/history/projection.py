"""Folds journal records into changes of the history's tables, and writes them.

A batch costs few statements and one row of ``runs`` for each run in it, whatever happened to the run. Nothing is read
back: a run that began in an earlier batch gets an UPDATE with what changed, and whether it waits is asked of its steps.
"""

import sqlite3
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
from steplog.history.journal import TurnRecords, Unreadable

_encode = msgspec.json.Encoder().encode
_NO_LIST = "[]"


class RunChange(msgspec.Struct):
    """What a batch does to one run."""

    scheduled: RunScheduled | None = None  # where it began in this batch
    state: str = ""  # the last one known; empty for unchanged
    started_ms: int | None = None
    ended_ms: int | None = None
    generation: int = 0
    retry_at_ms: int | None = None
    output: str | None = None
    error: str | None = None


class Changes(msgspec.Struct):
    """What a batch does to the tables: rows as they are written."""

    runs: dict[str, RunChange] = {}
    steps: list[tuple[object, ...]] = []
    attempts: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    dead: list[tuple[object, ...]] = []


def fold(turns: Iterable[TurnRecords]) -> Changes:
    """Work out what turns do to the tables."""
    changes = Changes()
    for turn in turns:
        routed = _fold_records(changes, turn.records)
        for event in turn.events:
            _fold_event(changes, event, routed.get(event.internal_id))
        changes.dead.extend([(bad.position, bad.source, bad.env, bad.reason, bad.data) for bad in turn.unreadable])
    return changes


def _fold_records(changes: Changes, records: list[Record]) -> dict[str, EventRouted]:
    runs, steps, attempts = changes.runs, changes.steps, changes.attempts
    routed: dict[str, EventRouted] = {}
    for r in records:
        if isinstance(r, EventRouted):
            routed.setdefault(r.event, r)
            continue
        run = runs.get(r.run)
        if run is None:
            run = runs[r.run] = RunChange()
        match r:
            case StepCompleted():
                output = str(r.output, "utf8")
                steps.append((r.run, r.id, r.env, r.step, r.op, "completed", r.attempt, r.seq, r.started, r.ended,
                              None, None, output, None))  # fmt: skip
                if r.attempt:
                    attempts.append(_attempt(r, "completed", r.started, r.ended, output=output))
                run.state = "running"
            case RunScheduled():
                run.scheduled = r
                if r.started is True:
                    run.state, run.started_ms, run.generation = "running", r.at, 1
                else:
                    run.state = "scheduled" if r.due is not UNSET else "queued"
            case RunCompleted():
                run.state, run.ended_ms, run.retry_at_ms = "completed", r.at, None
                run.output = str(r.output, "utf8")
            case RunStarted():
                run.state, run.generation, run.retry_at_ms = "running", r.generation, None
                if run.started_ms is None:
                    run.started_ms = r.at
            case StepWaiting():
                steps.append((r.run, r.id, r.env, r.step, r.op, "waiting", 0, r.seq, r.at, None, r.until, None, None,
                              None))  # fmt: skip
                run.state = "running"  # until its steps are asked
            case StepErrored():
                error = _json(r.error)
                steps.append((r.run, r.id, r.env, r.step, r.op, "errored", r.attempt, r.seq, r.started, r.ended, None,
                              r.retry_at, None, error))  # fmt: skip
                attempts.append(_attempt(r, "errored", r.started, r.ended, retry_at_ms=r.retry_at, error=error))
                run.state = "running"
            case StepFailed():
                error = _json(r.error)
                steps.append((r.run, r.id, r.env, r.step, r.op, "failed", r.attempt, r.seq, r.started, r.ended, None,
                              None, None, error))  # fmt: skip
                attempts.append(_attempt(r, "failed", r.started, r.ended, error=error))
                run.state = "running"
            case StepLate():
                pass
            case RunErrored():
                pass
            case RunFailed():
                run.state, run.ended_ms, run.retry_at_ms, run.error = "failed", r.at, None, _json(r.error)
    return routed
