"""Steps: the durable parts of a function."""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import msgspec

from steplog.durations import Duration, epoch_ms, milliseconds
from steplog.errors import StepOutsideRun
from steplog.event import Event

P = ParamSpec("P")
R = TypeVar("R")


class StepOptions(msgspec.Struct, frozen=True):
    """What ``step.options`` sets for the steps it makes; None is what the function has."""

    retries: int | None = None
    timeout_ms: int | None = None  # of one attempt
    decode: Callable[[bytes], Any] | None = None  # in place of the handler's return annotation


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that a wait was resumed by."""

    signal: str
    data: Any = None


class StepRunner(Protocol):
    """What carries out the steps of a run: a driver."""

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None: ...

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> list[str]: ...


class CurrentStep:
    """The step whose body is running.

    ``key`` is the same for every attempt of the step (P6): send it as ``Idempotency-Key``. ``attempt`` counts from 0.
    """

    __slots__ = ("attempt", "step_id")

    def __init__(self, step_id: str, attempt: int) -> None:
        self.step_id, self.attempt = step_id, attempt

    @property
    def key(self) -> str:
        """The step's idempotency key."""
        raise NotImplementedError


STEP: ContextVar[CurrentStep | None] = ContextVar("steplog_step", default=None)


def current_step() -> CurrentStep:
    """Return the step whose body is running: right in parallel steps, in threads and in third-party code.

    Raises ``StepOutsideRun`` where no step runs.
    """
    step = STEP.get()
    if step is None:
        raise StepOutsideRun("no step runs here; call current_step() inside the function that step.run calls")
    return step


class Step:
    """Makes steps. Each call is recorded under its id and how often that id was called before (STEP-01, STEP-02)."""

    __slots__ = ("_runner",)

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner

    @overload
    async def run(
        self, step_id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, step_id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, step_id: str, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function once to success and return what it returned, now and on every replay (STEP-03).

        The result is JSON, decoded by the handler's return annotation. ``async def`` runs on the event loop, plain
        ``def`` in a thread.

        Raises ``StepError`` when all attempts have failed.
        """
        return self._runner.run_step(step_id, handler, args, kwargs)

    async def sleep(self, step_id: str, duration: Duration) -> None:
        """Pause for a duration, at most a year; nothing is held meanwhile, and a restart does not matter (STEP-06)."""
        await self._runner.sleep(step_id, until_ms=None, for_ms=milliseconds(duration))

    async def sleep_until(self, step_id: str, until: datetime) -> None:
        """Pause until a moment, which needs a zone; one in the past goes on at once (STEP-07)."""
        await self._runner.sleep(step_id, until_ms=epoch_ms(until), for_ms=None)

    async def send_event(self, step_id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Send events, once, in the commit that records the step; returns their ids in order (STEP-17).

        Raises ``StepError`` for an event that breaks a rule of the event format.
        """
        return await self._runner.send_event(step_id, [events] if isinstance(events, Event) else events)
