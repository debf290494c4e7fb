"""What happens after a turn is committed.

Every effect is safe to repeat: it is not kept, but derived from the state again at a start.
"""

import msgspec

from steplog.engine.operations import ErrorInfo


class Recorded(msgspec.Struct, frozen=True, array_like=True):
    """A step's recorded result: JSON, or the error that it failed with."""

    step: bytes
    data: bytes | None
    error: ErrorInfo | None = None
    at_ms: int = 0  # when it was recorded


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """A step that waits: for the end of a sleep, or for its next attempt."""

    step: bytes
    due_ms: int
    attempt: int


class Dispatch(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Begin a run, or go on with it from its records."""

    run: bytes
    run_id: str
    generation: int
    function: str
    events: tuple[bytes, ...]  # JSON records
    recorded: tuple[Recorded, ...]  # in the run's completion order
    pending: tuple[Pending, ...]
    attempts: tuple[tuple[bytes, int], ...] = ()  # of steps that have failed before, and are due again
    started_ms: int = 0  # when it was dispatched for the first time
    attempt: int = 0  # of the function's own code
    is_poisoned: bool = False  # lost its process too often: begin no step


class Resume(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A result was recorded: hand it to the live run."""

    run: bytes
    generation: int
    recorded: Recorded


class Retry(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A step's back-off is over: begin its body again."""

    run: bytes
    generation: int
    step: bytes
    attempt: int


class Backoff(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A step failed and is tried again later."""

    run: bytes
    generation: int
    step: bytes
    attempt: int  # of the next try
    due_ms: int


class MakeRoom(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Runs wait for a place among the live ones: park some that only wait."""

    count: int


class ReadEvents(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A wait looks back, and the log is read outside of turns: ``EventsRead`` answers, from all partitions.

    What was committed when this is carried out has to be read: the wait is there then, and meets what comes later.
    """

    run: bytes
    step: bytes
    env: int
    spots: tuple[tuple[str, tuple[str, ...], bytes], ...]  # name, path, and the hash of what is there
    since_ms: int  # only what was received from then on
    trigger: tuple[int, int]  # partition and offset of the event that started the run; behind it only


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A group of events is durable, or a signal was heard."""

    ticket: int
    run_id: str | None = None  # of the run that a signal has resumed


class RunEnded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A run reached its end; ``status`` is completed or failed."""

    run: bytes
    generation: int
    run_id: str
    status: str
    output: bytes | None
    error: ErrorInfo | None


class PartitionsLost(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Another process decides for some partitions, of ``of`` in all: what lives here of their runs is of no use."""

    partitions: tuple[int, ...]
    of: int


Effect = Dispatch | Resume | Retry | Backoff | MakeRoom | ReadEvents | Answer | RunEnded | PartitionsLost
