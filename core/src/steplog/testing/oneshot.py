"""``trigger``: a function called once, without an engine (PY-55, PY-56). Nothing is recorded, retried or waited for."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar

from steplog.context import Context
from steplog.drivers.live_run import LocalConfig
from steplog.drivers.outgoing import outgoing_events
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV
from steplog.engine.ids import step_wire_id, ulid
from steplog.errors import StepError, SteplogError
from steplog.event import Event
from steplog.functions import Function
from steplog.step import STEP, CurrentStep
from steplog.testing.errors import UnstubbedStepError
from steplog.testing.stubs import MISSING, Stubs, giving, standing_for
from steplog.values import dump, load, signature_of

A = TypeVar("A")
B = TypeVar("B")
RUN_ID = "test"
EVENT_ID = "0" * 26
EVENT_MS = 1_767_225_600_000  # when the event came: the first moment of 2026
_LIMITS = LocalConfig()


class Status(StrEnum):
    """How the function ended."""

    COMPLETED = "completed"
    FAILED = "failed"


class Triggered(msgspec.Struct, Generic[B], kw_only=True):
    """What ``trigger`` saw: ``output`` is what the function returned, ``error`` what it raised."""

    status: Status
    output: B | None = None
    error: Exception | None = None


def trigger(
    function: Function[A, B], event: Event[A] | Sequence[Event[A]], *, step_stubs: Mapping[str, Any] | None = None
) -> Triggered[B]:
    """Call a function once with an event, or several, and return how it ended.

    A step without a stub runs its body once; a failure is a ``StepError`` at once. Sleeps take no time, ``send_event``
    sends nothing and gives ids of zeros, ``ctx.run_id`` is ``test``.

    Raises ``UnstubbedStepError`` for a step that waits for somebody else (an event, another function) and has no stub.
    """
    run = _OneShot(Stubs(function.id, step_stubs or {}))
    bodies = _bodies([event] if isinstance(event, Event) else event)
    with ThreadPoolExecutor(1) as thread:  # of its own, because the caller's may run an event loop
        call = thread.submit(copy_context().run, asyncio.run, _call(function, run, bodies))
    if run.problem is not None:
        raise run.problem
    return call.result()


async def _call(function: Function[Any, B], run: "_OneShot", bodies: tuple[bytes, ...]) -> Triggered[B]:
    context: Context[Any] = Context(run, bodies)
    try:
        value: Any = function.handler(context, context.step) if function.takes_step else function.handler(context)
        return Triggered(status=Status.COMPLETED, output=await value if inspect.isawaitable(value) else value)
    except Exception as error:  # noqa: BLE001 - user code
        return Triggered(status=Status.FAILED, error=error)


def _bodies(events: Sequence[Event[Any]]) -> tuple[bytes, ...]:
    """The events as the log would have them."""
    checked = enumerate(outgoing_events(events, _LIMITS.event_bytes))
    return tuple([
        accept_event(
            event, ulid(EVENT_MS, n.to_bytes(10, "big")), env=DEFAULT_ENV, received_ms=EVENT_MS, source="test"
        ).body
        for n, event in checked
    ])  # fmt: skip


class _Body(CurrentStep):
    """The step whose body runs."""

    __slots__ = ("_occurrence",)

    def __init__(self, step_id: str, occurrence: int) -> None:
        super().__init__(step_id, 0)
        self._occurrence = occurrence

    @property
    def key(self) -> str:
        return f"{RUN_ID}-{step_wire_id(self.step_id, self._occurrence)[:16]}"


class _OneShot:
    """Carries out the steps of one call (``steplog.step.StepRunner``)."""

    def __init__(self, stubs: Stubs) -> None:
        self.run_id, self.attempt = RUN_ID, 0
        self.problem: SteplogError | None = None  # of the test itself, whatever the function makes of it
        self._stubs = stubs
        self._counts: Counter[str] = Counter()

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *_: Any
    ) -> Any:
        stub = self._stubs.find(step_id)
        body = handler if stub is MISSING else standing_for(handler, stub)
        return await self._execute(step_id, body, args, kwargs)

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None:
        await self._play(step_id, None)

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> Any:
        checked = outgoing_events(events, _LIMITS.event_bytes)
        return await self._play(step_id, [EVENT_ID for _ in checked])

    def __getattr__(self, name: str) -> Any:
        """Every other kind of step waits for somebody else."""

        async def stubbed(step_id: str, *_: Any, **__: Any) -> Any:
            return await self._play(step_id, MISSING)

        return stubbed

    async def _play(self, step_id: str, default: Any) -> Any:
        stub = self._stubs.find(step_id)
        if stub is MISSING and default is MISSING:
            raise self._complain(UnstubbedStepError(step_id))
        return default if stub is MISSING else await self._execute(step_id, giving(stub), (), {})

    async def _execute(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outer = STEP.get()
        if outer is not None:
            raise self._complain(SteplogError(f"step {step_id!r} is called inside of step {outer.step_id!r}"))
        signature, occurrence = signature_of(handler), self._counts[step_id]
        self._counts[step_id] += 1
        token = STEP.set(_Body(step_id, occurrence))
        try:
            value = handler(*args, **kwargs)
            value = await value if inspect.isawaitable(value) else value
            return load(dump(value, step_id, _LIMITS.output_bytes), signature.decode, step_id)
        except Exception as error:
            if error is self.problem:
                raise
            raise StepError(str(error), type(error).__name__) from error
        finally:
            STEP.reset(token)

    def _complain(self, problem: SteplogError) -> SteplogError:
        self.problem = self.problem or problem
        return problem
