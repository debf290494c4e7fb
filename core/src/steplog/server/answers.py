"""The JSON of REST answers: the references' fields (spec: api.md §2), and beside them what steplog knows more.

Times are RFC 3339 UTC with milliseconds. ``status`` has the references' words, ``state`` ours.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import msgspec

from steplog import __version__
from steplog.engine.operations import ErrorInfo
from steplog.engine.records import RunRef, Skip, StepRef
from steplog.errors import wire_name
from steplog.history.views import AttemptView, EventView, RunState, RunView, StepView, WaitsFor

ACCOUNT_ID = "00000000-0000-4000-a000-000000000000"
ENVIRONMENT_ID = "00000000-0000-4000-b000-000000000000"
_FUNCTIONS = UUID("5ad15f24-4bd8-4c5a-8e4b-0c2b6f6d4a1e")  # the namespace of ids that are made of slugs
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS: dict[RunState, str] = {
    "scheduled": "Scheduled",
    "queued": "Scheduled",
    "running": "Running",
    "waiting": "Running",
    "completed": "Completed",
    "failed": "Failed",
}

_encode = msgspec.json.Encoder().encode


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """That the server answers, and who it is: by this the next one that wants its port knows it."""

    status: int = 200
    message: str = "OK"
    steplog: str = __version__
    mode: str  # dev or start
    apps: tuple[str, ...]  # their ids; none in ``start``, where anybody may ask
    since: str


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """When an answer was read. ``stale``: the newest writes may be missing."""

    fetched_at: str
    cached_until: None = None
    stale: bool | msgspec.UnsetType = msgspec.UNSET


class Page(msgspec.Struct, frozen=True):
    """The place in a list. ``cursor`` asks for what follows; null where that is nothing."""

    cursor: str | None
    limit: int


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an answer."""

    data: object
    metadata: Metadata
    page: Page | msgspec.UnsetType = msgspec.UNSET


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run. ``output`` of a failed one is its error, with the wire's name (GAP-20)."""

    run_id: str
    run_started_at: str  # when it was scheduled (REST-12)
    ended_at: str | None
    status: str
    state: RunState
    function_id: str
    function: str
    function_version: int  # counts the function's configurations (FN-22)
    environment_id: str = ENVIRONMENT_ID
    event_id: str | None
    batch_id: None = None
    original_run_id: None = None
    cron: None = None
    output: msgspec.Raw | None
    app: str
    version: str | None  # the app's
    due_at: str | None  # it starts then, where its event lies in the future
    started_at: str | None  # when it was dispatched first
    retry_at: str | None  # of the function's own code
    next_step: str | None  # what it waits for soonest, and until when
    next_at: str | None
    next_state: str | None  # waiting; errored: it tries it again


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that failed, was late, or came after others."""

    attempt: int
    outcome: str
    at: str
    started_at: str | None
    ended_at: str | None
    retry_at: str | None
    max_attempts: int | None  # where another one follows
    output: msgspec.Raw | None
    error: ErrorInfo | None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step with its attempts; one that succeeded at once has none."""

    id: str
    name: str
    op: str
    state: str
    attempt: int
    started_at: str
    ended_at: str | None
    until: str | None
    retry_at: str | None
    output: msgspec.Raw | None
    error: ErrorInfo | None
    waits_for: WaitsFor | None
    attempts: list[Attempt]


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of a run, and the attempts of the code between them that failed."""

    steps: list[Step]
    function_attempts: list[Attempt]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event, and what became of it."""

    internal_id: str
    account_id: str = ACCOUNT_ID
    environment_id: str = ENVIRONMENT_ID
    source: str
    source_id: None = None
    received_at: str
    id: str
    name: str
    data: msgspec.Raw
    user: msgspec.Raw | None
    ts: int
    v: str | None
    duplicate: bool
    runs: tuple[RunRef, ...]
    skipped: tuple[Skip, ...]
    resumed: tuple[StepRef, ...]  # whose wait it has ended


def rfc3339(at_ms: int) -> str:
    """Print a time."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def function_uuid(function: str) -> str:
    """Make the id that the references give a function; the same slug has the same one everywhere."""
    return str(uuid5(_FUNCTIONS, function))


def run(view: RunView) -> Run:
    """Show a run."""
    output = view.output if view.error is None else _as_output(view.error)
    return Run(
        run_id=view.id, run_started_at=rfc3339(view.scheduled_ms), ended_at=_time(view.ended_ms),
        status=_STATUS[view.state], state=view.state, function_id=function_uuid(view.function), function=view.function,
        function_version=view.function_version, event_id=view.events[0] if view.events else None, output=output,
        app=view.app, version=view.version, due_at=_time(view.due_ms), started_at=_time(view.started_ms),
        retry_at=_time(view.retry_at_ms), next_step=view.next_step, next_at=_time(view.next_ms),
        next_state=view.next_state,
    )  # fmt: skip


def steps(views: tuple[StepView, ...], attempts: tuple[AttemptView, ...]) -> Steps:
    """Show a run's steps; ``attempts`` are all of the run's."""
    return Steps(
        steps=[_step(view) for view in views], function_attempts=[_attempt(each) for each in attempts if not each.step]
    )


def event(view: EventView) -> Event:
    """Show an event."""
    return Event(
        internal_id=view.internal_id, source=view.source, received_at=rfc3339(view.received_ms), id=view.id,
        name=view.name, data=view.data, user=view.user, ts=view.ts_ms, v=view.v, duplicate=view.is_duplicate,
        runs=view.runs, skipped=view.skipped, resumed=view.resumed,
    )  # fmt: skip


def _as_output(error: ErrorInfo) -> msgspec.Raw:
    return msgspec.Raw(_encode(msgspec.structs.replace(error, name=wire_name(error.name))))


def _step(view: StepView) -> Step:
    return Step(
        id=view.id, name=view.name, op=view.op, state=view.state, attempt=view.attempt,
        started_at=rfc3339(view.started_ms), ended_at=_time(view.ended_ms), until=_time(view.until_ms),
        retry_at=_time(view.retry_at_ms), output=view.output, error=view.error, waits_for=view.waits_for,
        attempts=[_attempt(attempt) for attempt in view.attempts],
    )  # fmt: skip


def _attempt(view: AttemptView) -> Attempt:
    return Attempt(
        attempt=view.attempt, outcome=view.outcome, at=rfc3339(view.at_ms), started_at=_time(view.started_ms),
        ended_at=_time(view.ended_ms), retry_at=_time(view.retry_at_ms), max_attempts=view.max_attempts,
        output=view.output, error=view.error,
    )  # fmt: skip


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
