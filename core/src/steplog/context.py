"""What a function is called with."""

import typing
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol

from steplog.event import D, Event, Types, read_event
from steplog.group import Group
from steplog.step import Step, StepRunner
from steplog.step_sync import Blocking, StepSync

if TYPE_CHECKING:  # whoever only sends events never loads them
    from logging import Logger
    from uuid import UUID


class RunInfo(StepRunner, Protocol):
    """What a context needs to know of its run: values that are the same, or silent, on every replay."""

    run_id: str

    @property
    def attempt(self) -> int: ...

    @property
    def logger(self) -> "Logger": ...

    def now_ms(self) -> int: ...

    def next_uuid(self) -> "UUID": ...


class RunContext(Generic[D]):
    """What async and plain functions see of their run alike."""

    def __init__(self, run: RunInfo, events: tuple[bytes, ...], types: Types = ()) -> None:
        self._run, self._bodies, self._types = run, events, types
        self._events: list[Event[Any]] | None = None

    @property
    def run_id(self) -> str:
        """The run's ULID."""
        return self._run.run_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 0: of the step inside a step, of the function outside (ERR-04)."""
        return self._run.attempt

    @property
    def events(self) -> list[Event[D]]:
        """The events that started the run; one, unless they were batched (FN-10).

        Raises ``EventDataInvalid`` if the data of one does not fit its type.
        """
        if self._events is None:
            self._events = [read_event(body, self._types) for body in self._bodies]
        return self._events

    @property
    def event(self) -> Event[D]:
        """The event that started the run."""
        return self.events[0]

    @property
    def logger(self) -> "Logger":
        """A logger that is silent while recorded steps are replayed, so that each line is written once (PY-50)."""
        return self._run.logger

    def now(self) -> datetime:
        """The time in UTC: the same at this place of the function on every replay."""
        return datetime.fromtimestamp(self._run.now_ms() / 1000, UTC)

    def uuid(self) -> "UUID":
        """A random UUID: the same at this place of the function on every replay."""
        return self._run.next_uuid()


class Context(RunContext[D]):
    """A run, as its function sees it. ``step`` makes its steps durable; all other code runs again on every replay."""

    def __init__(self, run: RunInfo, events: tuple[bytes, ...], types: Types = ()) -> None:
        super().__init__(run, events, types)
        self.step = Step(run)
        self.group = Group()


class ContextSync(RunContext[D]):
    """A run, as a plain ``def`` function sees it, which runs in a thread."""

    def __init__(self, run: RunInfo, events: tuple[bytes, ...], types: Types = (), *, blocking: Blocking) -> None:
        super().__init__(run, events, types)
        self.step = StepSync(Step(run), blocking)


def data_type_of(handler: Callable[..., Any]) -> Any:
    """Find ``Order`` in a handler's ``ctx: Context[Order]``; None where it says nothing."""
    try:
        hints = list(typing.get_type_hints(handler).values())
    except Exception:  # noqa: BLE001 - user code: an annotation may raise anything when it is resolved
        return None
    if not hints or typing.get_origin(hints[0]) not in (Context, ContextSync):
        return None
    (data_type,) = typing.get_args(hints[0])
    return None if data_type is Any else data_type
