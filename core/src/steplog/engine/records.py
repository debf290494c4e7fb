"""The journal: what happened, as versioned JSON that any reader of the log can use (docs/journal.md).

Fields are only added; a reader ignores what it does not know. ``seq`` counts the records of one run without a gap.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from steplog.engine.operations import ErrorInfo

VERSION = 1
Place = tuple[int, int]  # of an accepted event in the log: the turn that wrote it, and its number there (draft.py)


class RunRef(msgspec.Struct, frozen=True):
    """One run that an event started."""

    run: str
    function: str


class StepRef(msgspec.Struct, frozen=True):
    """One step of a run."""

    run: str
    step: str  # its id in the code


class Skip(msgspec.Struct, frozen=True):
    """One function that an event did not start, and why."""

    function: str
    reason: str


class ExpressionFailure(msgspec.Struct, frozen=True):
    """A condition of a function, or of a wait in it, that had no value for an event, and so was false (GAP-05)."""

    function: str
    expression: str
    error: str


class EventRouted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="event.routed"):
    """What became of an accepted event; one an event, which is what ``audit`` counts."""

    v: int = VERSION
    at: int
    env: str
    event: str  # internal id
    name: str
    duplicate: bool | UnsetType = UNSET
    runs: tuple[RunRef, ...] = ()
    skipped: tuple[Skip, ...] = ()
    resumed: tuple[StepRef, ...] | UnsetType = UNSET  # steps that go on with it: what they waited for has come
    failed: tuple[ExpressionFailure, ...] | UnsetType = UNSET  # at most one an hour for each


class RunScheduled(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run.scheduled"):
    """A run exists."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    function: str
    app: str
    events: tuple[str, ...]  # internal ids
    version: str | UnsetType = UNSET  # the app's
    function_version: int = 1  # raised whenever the function's configuration has changed (FN-22)
    due: int | UnsetType = UNSET  # ms; starts then, where the event lies in the future
    parent: str | UnsetType = UNSET  # the run that has invoked it
    started: bool | UnsetType = UNSET  # dispatched in the same turn: no ``run.started`` follows


class RunStarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run.started"):
    """A run was dispatched: for the first time, or again (generation 2 and up)."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    generation: int
    reason: str  # start | wake | retry | lost | handed-back


class StepCompleted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step.completed"):
    """A step's result is recorded; it is never run again."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    step: str
    id: str  # the wire's: SHA-1 of the step's id
    op: str
    attempt: int
    started: int
    ended: int
    output: msgspec.Raw


class StepErrored(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step.errored"):
    """An attempt failed; the step is tried again."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    step: str
    id: str
    op: str
    attempt: int
    started: int
    ended: int
    error: ErrorInfo
    retry_at: int
    max_attempts: int | UnsetType = UNSET


class StepFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step.failed"):
    """A step failed for good; its error is recorded as its result."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    step: str
    id: str
    op: str
    attempt: int
    started: int
    ended: int
    error: ErrorInfo


class StepWaiting(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step.waiting"):
    """A step waits."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    step: str
    id: str
    op: str
    until: int
    events: tuple[str, ...] | UnsetType = UNSET  # names: one of them, or each where ``all`` is true
    all: bool | UnsetType = UNSET
    expression: str | UnsetType = UNSET
    since: Literal["trigger"] | UnsetType = UNSET  # from when on events count, if not from now on
    cut: int | UnsetType = UNSET  # ms; what was received until then is not looked at any more, though it was to be
    failed: tuple[ExpressionFailure, ...] | UnsetType = UNSET  # for events that it has looked back at
    signal: str | UnsetType = UNSET
    function: str | UnsetType = UNSET  # that was invoked
    child: str | UnsetType = UNSET  # its run


class StepLate(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step.late"):
    """An answer that came after the step was recorded, or for a dispatch that is over; kept, not applied."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    step: str
    id: str
    op: str
    attempt: int
    output: msgspec.Raw | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET


class RunErrored(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run.errored"):
    """The function's own code raised; it is tried again."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    attempt: int
    error: ErrorInfo
    retry_at: int
    max_attempts: int | UnsetType = UNSET


class RunCompleted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run.completed"):
    """The function returned."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    output: msgspec.Raw


class RunFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run.failed"):
    """The run failed for good."""

    v: int = VERSION
    at: int
    env: str
    run: str
    seq: int
    error: ErrorInfo


Record = (
    EventRouted
    | RunScheduled
    | RunStarted
    | StepCompleted
    | StepErrored
    | StepFailed
    | StepWaiting
    | StepLate
    | RunErrored
    | RunCompleted
    | RunFailed
)


class LogRestored(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="log.restored"):
    """The log was found to lack its newest commits: written by the log itself, alone in a commit, of no run."""

    v: int = VERSION
    at: int
    first: int  # the missing commits, by number
    last: int


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted event on the log."""

    internal_id: str
    id: str
    name: str
    data: msgspec.Raw
    ts: int
    received_at: int
    env: str
    source: str
    slot: int
    user: msgspec.Raw | UnsetType = UNSET
    v: str | UnsetType = UNSET


_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


def event_seen(body: bytes) -> dict[str, Any]:
    """Read an event's record as functions and expressions see it: without what steplog notes beside it."""
    record = _decode_event(body)
    return {field: record[field] for field in ("id", "name", "data", "ts", "user", "v") if field in record}
