"""What stands in the topics, as docs/journal.md describes it: typed, and open to what later versions add.

Fields that are not known here are ignored; a record of a kind that is not known is ``Other``. Times are ms since 1970.
"""

from collections.abc import Callable
from typing import Any

import msgspec


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Why something failed."""

    name: str
    message: str
    stack: str | None = None
    cause: "Error | None" = None


class RunRef(msgspec.Struct, frozen=True, kw_only=True):
    """A run that an event started."""

    run: str
    function: str


class StepRef(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a run."""

    run: str
    step: str


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """A function that an event did not start, and why."""

    function: str
    reason: str


class ExpressionFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that had no value for an event, and counted as false."""

    function: str
    expression: str
    error: str


class _Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    v: int = 1
    at: int  # when it was decided
    env: str


class EventRouted(_Record, frozen=True, kw_only=True, tag="event.routed"):
    """What became of an event."""

    event: str  # its internal id
    name: str
    duplicate: bool = False
    runs: tuple[RunRef, ...] = ()
    skipped: tuple[Skip, ...] = ()
    resumed: tuple[StepRef, ...] = ()
    failed: tuple[ExpressionFailure, ...] = ()


class _OfRun(_Record, frozen=True, kw_only=True):
    run: str
    seq: int  # counts the records of the run from 1


class RunScheduled(_OfRun, frozen=True, kw_only=True, tag="run.scheduled"):
    """A run exists."""

    function: str
    app: str
    events: tuple[str, ...]  # internal ids
    version: str | None = None  # of the app
    function_version: int = 1
    due: int | None = None  # starts then, where that is later
    parent: str | None = None  # the run that has invoked it
    started: bool = False  # at once: no RunStarted follows


class RunStarted(_OfRun, frozen=True, kw_only=True, tag="run.started"):
    """A run was dispatched: for the first time, or again."""

    generation: int
    reason: str


class RunErrored(_OfRun, frozen=True, kw_only=True, tag="run.errored"):
    """The function's own code raised; it is tried again."""

    attempt: int
    error: Error
    retry_at: int
    max_attempts: int | None = None


class RunCompleted(_OfRun, frozen=True, kw_only=True, tag="run.completed"):
    """The function returned."""

    output: Any


class RunFailed(_OfRun, frozen=True, kw_only=True, tag="run.failed"):
    """The run failed for good."""

    error: Error


class _OfStep(_OfRun, frozen=True, kw_only=True):
    step: str  # its id in the code
    id: str
    op: str


class StepWaiting(_OfStep, frozen=True, kw_only=True, tag="step.waiting"):
    """A step waits."""

    until: int
    events: tuple[str, ...] = ()  # names
    all: bool = False
    expression: str | None = None
    since: str | None = None
    cut: int | None = None
    failed: tuple[ExpressionFailure, ...] = ()
    signal: str | None = None
    function: str | None = None  # that it has invoked
    child: str | None = None  # the run of that


class StepErrored(_OfStep, frozen=True, kw_only=True, tag="step.errored"):
    """An attempt failed; the step is tried again."""

    attempt: int
    started: int
    ended: int
    error: Error
    retry_at: int
    max_attempts: int | None = None


class StepCompleted(_OfStep, frozen=True, kw_only=True, tag="step.completed"):
    """A step's result is recorded."""

    attempt: int
    started: int
    ended: int
    output: Any


class StepFailed(_OfStep, frozen=True, kw_only=True, tag="step.failed"):
    """A step failed for good."""

    attempt: int
    started: int
    ended: int
    error: Error


class StepLate(_OfStep, frozen=True, kw_only=True, tag="step.late"):
    """An answer that came when the step was recorded already, or its dispatch over; it is not applied."""

    attempt: int
    output: Any = None
    error: Error | None = None


class LogRestored(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="log.restored"):
    """The log was found to lack its newest commits."""

    v: int = 1
    at: int
    first: int
    last: int


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a kind that a later version has added."""

    kind: str
    at: int
    env: str | None = None
    run: str | None = None
    seq: int | None = None


_Known = (
    EventRouted
    | RunScheduled
    | RunStarted
    | RunErrored
    | RunCompleted
    | RunFailed
    | StepWaiting
    | StepErrored
    | StepCompleted
    | StepFailed
    | StepLate
    | LogRestored
)
Record = _Known | Other


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted event."""

    internal_id: str  # what the sender got as its answer
    id: str  # the sender's, else the internal one
    name: str
    data: Any
    ts: int
    received_at: int
    env: str
    source: str
    slot: int
    user: Any = None
    v: str | None = None


_KINDS = frozenset(str(kind.__struct_config__.tag) for kind in _Known.__args__)
_decode_known: Callable[[bytes], _Known] = msgspec.json.Decoder(_Known).decode
_decode_other = msgspec.json.Decoder(Other).decode

decode_event: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode


def decode_record(value: bytes) -> Record:
    """Read a record of the journal. Raises ``msgspec.DecodeError``."""
    try:
        return _decode_known(value)
    except msgspec.ValidationError:
        other = _decode_other(value)
        if other.kind in _KINDS:
            raise
        return other
