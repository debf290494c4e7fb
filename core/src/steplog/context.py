"""What a function is called with."""

from typing import Any, Generic, Protocol

from steplog.event import D, Event, read_event
from steplog.step import Step, StepRunner


class RunInfo(StepRunner, Protocol):
    """What a context needs to know of its run."""

    run_id: str

    @property
    def attempt(self) -> int: ...


class Context(Generic[D]):
    """A run, as its function sees it. ``step`` makes its steps durable; all other code runs again on every replay."""

    def __init__(self, run: RunInfo, events: tuple[bytes, ...]) -> None:
        self._run, self._bodies = run, events
        self._events: list[Event[Any]] | None = None
        self.step = Step(run)

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
        """The events that started the run; one, unless they were batched."""
        if self._events is None:
            self._events = [read_event(body) for body in self._bodies]
        return self._events

    @property
    def event(self) -> Event[D]:
        """The event that started the run."""
        return self.events[0]
