"""What became of runs and their steps, read from the journal: the same records as in production."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self

import msgspec
from typing_extensions import TypeVar

from steplog.engine import records
from steplog.engine.ids import step_wire_id
from steplog.engine.operations import ErrorInfo, Produce
from steplog.errors import RunFailed
from steplog.event import Event, read_event
from steplog.functions import Function
from steplog.log.memory import MemoryLog
from steplog.testing.errors import RunNotEnded

R = TypeVar("R", covariant=True)

_decode_record = msgspec.json.Decoder(records.Record).decode
_decode_event = msgspec.json.Decoder(records.StoredEvent).decode
_STATUS: dict[Any, str] = {
    records.StepCompleted: "completed",
    records.StepErrored: "errored",
    records.StepFailed: "failed",
    records.StepWaiting: "waiting",
}


class StepView(msgspec.Struct, kw_only=True):
    """A step that was begun and has been reported.

    ``status``: waiting | errored (tried again later) | completed | failed. ``attempts`` counts those that were made,
    ``output`` is plain JSON, ``op`` the operation's name in the journal.
    """

    status: str
    op: str
    attempts: int = 1
    output: Any = None
    error: ErrorInfo | None = None


class Produced(msgspec.Struct, frozen=True, kw_only=True):
    """A record that a function wrote to a topic. ``partition`` is None where the key chooses it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes] = {}
    partition: int | None = None

    @classmethod
    def of(cls, record: Produce) -> Self:
        """As the log has it."""
        return cls(
            topic=record.topic, key=record.key, value=record.value, headers=dict(record.headers),
            partition=record.partition,
        )  # fmt: skip

    def json(self) -> Any:
        """The value, read as JSON."""
        return None if self.value is None else msgspec.json.decode(self.value)


class RunState(msgspec.Struct, kw_only=True):
    """A run, as far as its records go."""

    run_id: str
    function: str
    events: tuple[str, ...]  # internal ids
    status: str
    output: bytes | None = None
    error: ErrorInfo | None = None
    is_errored: bool = False  # its own code is tried again later
    steps: dict[str, StepView] = {}
    keys: dict[str, str] = {}  # wire id → key in ``steps``


class Journal:
    """Folds the records of a log into runs, as far as they have come."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._read_turns = self._read_events = 0
        self._runs: dict[str, RunState] = {}
        self._routed: dict[str, records.EventRouted] = {}
        self._events: list[tuple[records.StoredEvent, bytes]] = []

    def runs(self) -> list[RunState]:
        """Every run, in the order in which they were scheduled."""
        self._catch_up()
        return list(self._runs.values())

    def run(self, run_id: str) -> RunState:
        self._catch_up()
        return self._runs[run_id]

    def routed(self, event_id: str) -> records.EventRouted:
        """What became of an event, by its internal id."""
        self._catch_up()
        return self._routed[event_id]

    def events(self) -> list[tuple[records.StoredEvent, bytes]]:
        """Every accepted event, with its record."""
        self._catch_up()
        return self._events

    def _catch_up(self) -> None:
        for _, events in self._log.events[self._read_events :]:
            self._events += [(_decode_event(body), body) for body in events]
        self._read_events = len(self._log.events)
        for _, written in self._log.journal[self._read_turns :]:
            for data in written:
                self._fold(_decode_record(data))
        self._read_turns = len(self._log.journal)

    def _fold(self, record: records.Record) -> None:
        if isinstance(record, records.EventRouted):
            self._routed[record.event] = record
            return
        if isinstance(record, records.RunScheduled):
            status = "running" if record.started is True else "queued" if record.due is msgspec.UNSET else "scheduled"
            self._runs[record.run] = RunState(
                run_id=record.run, function=record.function, events=record.events, status=status
            )
            return
        run = self._runs[record.run]
        match record:
            case records.RunStarted():
                run.status, run.is_errored = "running", False
            case records.RunErrored(error=error):
                run.is_errored, run.error = True, error
            case records.RunCompleted(output=output):
                run.status, run.output, run.error = "completed", bytes(output), None
            case records.RunFailed(error=error):
                run.status, run.error = "failed", error
            case _ if type(record) in _STATUS:
                _fold_step(run, record)


def _fold_step(run: RunState, record: Any) -> None:  # any: one of _STATUS, whose fields differ
    key = run.keys.get(record.id)
    if key is None:
        key = run.keys[record.id] = _key(record.step, record.id)
    attempt: int = getattr(record, "attempt", 0)
    output: msgspec.Raw | None = getattr(record, "output", None)
    run.steps[key] = StepView(
        status=_STATUS[type(record)], op=record.op, attempts=attempt + 1, error=getattr(record, "error", None),
        output=None if output is None else msgspec.json.decode(output),
    )  # fmt: skip


def _key(step_id: str, wire_id: str) -> str:
    """The step's id; from its second call on, how often it was called before stands behind it."""
    occurrence = next(n for n in itertools.count() if step_wire_id(step_id, n) == wire_id)
    return f"{step_id}:{occurrence}" if occurrence else step_id


class RunView(Generic[R]):
    """A run of a test. It shows what is true when it is looked at."""

    def __init__(
        self, journal: Journal, run_id: str, function: Function[Any, R] | None, settle: Callable[[], Awaitable[None]]
    ) -> None:
        self.run_id = run_id
        self._journal, self._function, self._settle = journal, function, settle

    @property
    def function(self) -> str:
        """The function's id."""
        return self._state.function

    @property
    def status(self) -> str:
        """scheduled | queued | running | waiting | completed | failed."""
        run = self._state
        is_waiting = run.is_errored or any(step.status in ("waiting", "errored") for step in run.steps.values())
        return "waiting" if run.status == "running" and is_waiting else run.status

    @property
    def output(self) -> Any:
        """What the function returned, as plain JSON; None before."""
        output = self._state.output
        return None if output is None else msgspec.json.decode(output)

    @property
    def error(self) -> ErrorInfo | None:
        """What the function failed with; of one that is tried again, what its last attempt failed with."""
        return self._state.error

    @property
    def waiting_for(self) -> str | None:
        """The step that the run waits for, of several the one that began first; None where it waits for no step."""
        if self.status != "waiting":
            return None
        return next((key for key, step in self.steps.items() if step.status in ("waiting", "errored")), None)

    @property
    def steps(self) -> dict[str, StepView]:
        """The steps by id; from the second call of an id on, as ``id:1``. In the order of their first records."""
        return self._state.steps

    @property
    def events(self) -> list[Event[Any]]:
        """The events that started it."""
        wanted = set(self._state.events)
        types = () if self._function is None else self._function.event_types
        return [read_event(body, types) for stored, body in self._journal.events() if stored.internal_id in wanted]

    async def result(self) -> R:
        """What the function returned, of its type.

        Raises ``RunFailed``, or ``RunNotEnded`` for a run that goes on.
        """
        await self._settle()
        run = self._state
        if run.status == "failed" and run.error is not None:
            error = run.error
            failed = RunFailed(self.function, self.run_id, name=error.name, message=error.message, stack=error.stack)
            failed.add_note(error.stack or "")  # shown below the traceback
            raise failed
        if run.output is None:
            raise RunNotEnded(f"{self!r}; send what it waits for, or let time pass: await testbed.advance(…)")
        assert self._function is not None, "a run that completed has a function"
        value: R = self._function.decode_output(run.output)
        return value

    @property
    def _state(self) -> RunState:
        return self._journal.run(self.run_id)

    def __repr__(self) -> str:
        text = f"{self.function} ({self.run_id}) {self.status}"
        if self.error is not None:
            text += f": {self.error.name}: {self.error.message}"
        return f"{text} for {self.waiting_for!r}" if self.waiting_for else text
