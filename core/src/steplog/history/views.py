"""What the history answers: runs, steps, attempts and events as they were last seen. Times are milliseconds UTC."""

from typing import Literal

import msgspec

from steplog.engine.operations import ErrorInfo
from steplog.engine.records import RunRef, Skip, StepRef

RunState = Literal["scheduled", "queued", "running", "waiting", "completed", "failed"]
StepState = Literal["waiting", "errored", "completed", "failed", "late"]
Outcome = Literal["errored", "failed", "completed", "late"]

RUN_STATES: tuple[RunState, ...] = ("scheduled", "queued", "running", "waiting", "completed", "failed")


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    id: str
    env: str
    function: str
    app: str
    version: str | None  # the app's
    function_version: int  # counts the configurations of the function (FN-22)
    events: tuple[str, ...]  # internal ids of what triggered it
    state: RunState
    scheduled_ms: int
    due_ms: int | None  # it starts then, where its event lies in the future
    started_ms: int | None
    ended_ms: int | None
    generation: int  # dispatches so far
    retry_at_ms: int | None  # of the function's own code
    output: msgspec.Raw | None
    error: ErrorInfo | None
    next_step: str | None  # the step that it waits for, or tries again, soonest
    next_ms: int | None  # and when
    next_state: Literal["waiting", "errored"] | None  # of that step

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.state in ("completed", "failed")


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed, an answer that came late, or the last of several attempts.

    ``step`` is empty for the function's own code. A step that succeeded at once has no attempts of its own.
    """

    step: str
    name: str
    op: str
    attempt: int  # counted from 0
    outcome: Outcome
    at_ms: int
    started_ms: int | None
    ended_ms: int | None
    retry_at_ms: int | None
    max_attempts: int | None  # where another one follows
    output: msgspec.Raw | None
    error: ErrorInfo | None


class WaitsFor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step waits for, or has waited for: events (one of them, or ``all``), a signal, or a function's run."""

    events: tuple[str, ...] = ()
    all: bool = False
    expression: str | None = None
    signal: str | None = None
    function: str | None = None
    child: str | None = None  # the run of that function


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step. State ``late``: the run had ended before its body did."""

    run: str
    id: str  # the wire's: SHA-1 of the step's id
    env: str
    name: str
    op: str
    state: StepState
    attempt: int  # the last one, counted from 0
    seq: int  # of its first record
    started_ms: int  # of its first attempt, or of the wait
    ended_ms: int | None
    until_ms: int | None
    retry_at_ms: int | None
    output: msgspec.Raw | None
    error: ErrorInfo | None
    waits_for: WaitsFor | None
    attempts: tuple[AttemptView, ...]


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted event, and what became of it."""

    internal_id: str
    env: str
    id: str  # the sender's, else the internal one
    name: str
    ts_ms: int
    received_ms: int
    source: str
    v: str | None
    user: msgspec.Raw | None
    data: msgspec.Raw
    is_duplicate: bool
    runs: tuple[RunRef, ...]
    skipped: tuple[Skip, ...]
    resumed: tuple[StepRef, ...]  # whose wait it has ended


class RunCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs of a function are in a state."""

    env: str
    app: str
    function: str
    state: RunState
    runs: int


class DeadView(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the log that could not be read or applied."""

    position: int
    source: Literal["journal", "events"]
    env: str  # empty where it could not be read
    reason: str
    data: str
    partition: int


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs. The times are those of receipt, which the ids carry: from ``since_ms``, and before ``until_ms``."""

    env: str | None = None
    states: tuple[RunState, ...] = ()  # any of them; empty: all
    function: str | None = None
    app: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, received from ``since_ms`` on and before ``until_ms``."""

    env: str | None = None
    name: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first. ``cursor`` asks for the next page; None: there is none."""

    runs: tuple[RunView, ...]
    cursor: str | None


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events, newest first. ``cursor`` asks for the next page; None: there is none."""

    events: tuple[EventView, ...]
    cursor: str | None
