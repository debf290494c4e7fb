"""``trigger``: one run of a function, without an engine (PY-55, PY-56). Attempts follow at once, nothing waits."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from functools import partial
from logging import Logger, getLogger
from typing import Any, Generic
from uuid import UUID

import msgspec
from typing_extensions import TypeVar

from steplog.codec import decoder
from steplog.context import Context, ContextSync
from steplog.drivers.config import LocalConfig
from steplog.drivers.failures import describe_error
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, FunctionSpec
from steplog.engine.ids import step_wire_id, ulid
from steplog.errors import StepError, SteplogError
from steplog.event import Event
from steplog.functions import Function
from steplog.outgoing import outgoing_events
from steplog.step import STEP, CurrentStep, ProducedRecord, StepOptions
from steplog.testing.errors import UnstubbedStepError
from steplog.testing.stubs import EVENT_ID, EVENT_MS, MISSING, Stubs, giving, standing_for
from steplog.values import Decode, dump, load, signature_of

A = TypeVar("A")
B = TypeVar("B")
RUN_ID = "test"
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
    """Call a function with an event, or several, and return how it ended.

    A step without a stub runs its body, again at once while it fails and has attempts left; so does the function, over
    the results that its steps have had. Sleeps take no time, ``send_event`` sends nothing and gives ids of zeros,
    ``produce`` writes nothing, ``ctx.run_id`` is ``test``.

    Raises ``UnstubbedStepError`` for a step that waits for somebody else (an event, another function) and has no stub.
    """
    stubs = Stubs(function.id, step_stubs or {})
    run = _OneShot(function.spec, stubs, getLogger(function.handler.__module__))
    bodies = _bodies([event] if isinstance(event, Event) else event)
    with ThreadPoolExecutor(1) as thread:  # of its own, because the caller's may run an event loop
        call = thread.submit(copy_context().run, _call, function, run, bodies)
    if run.problem is not None:
        raise run.problem
    return call.result()


def _call(function: Function[Any, B], run: "_OneShot", bodies: tuple[bytes, ...]) -> Triggered[B]:
    with asyncio.Runner() as runner:
        while True:
            try:
                if function.is_async:
                    context: Any = Context(run, bodies, function.event_types)
                    output = runner.run(_awaited(_handle(function, context)))
                else:
                    context = ContextSync(
                        run, bodies, function.event_types, blocking=lambda step: runner.run(_awaited(step))
                    )
                    output = _handle(function, context)
                return Triggered(status=Status.COMPLETED, output=output)
            except Exception as error:  # noqa: BLE001 - user code
                if run.problem is not None or not run.begins_again(error):
                    return Triggered(status=Status.FAILED, error=error)


def _handle(function: Function[Any, Any], context: Any) -> Any:
    return function.handler(context, context.step) if function.takes_step else function.handler(context)


async def _awaited(awaitable: Awaitable[A]) -> A:
    return await awaitable


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
    """Carries out the steps of one run (``steplog.step.StepRunner``)."""

    def __init__(self, function: FunctionSpec, stubs: Stubs, logger: Logger) -> None:
        self.app_id, self.run_id, self.attempt, self.logger = function.app, RUN_ID, 0, logger
        self.problem: SteplogError | None = None  # of the test itself, whatever the function makes of it
        self._retries, self._stubs = function.retries, stubs
        self._recorded: dict[tuple[str, int], bytes | StepError] = {}  # by id and occurrence
        self._counts: Counter[str] = Counter()
        self._uuids = 0

    def begins_again(self, error: Exception) -> bool:
        """Whether the function is called again after an error of its own; what its steps gave stays."""
        if self.attempt >= self._retries or describe_error(error, EVENT_MS).is_final:
            return False
        self.attempt += 1
        self._counts.clear()
        self._uuids = 0
        return True

    def now_ms(self) -> int:
        return EVENT_MS

    def next_uuid(self) -> UUID:
        self._uuids += 1
        return UUID(int=self._uuids, version=4)

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        options: StepOptions | None = None,
    ) -> Any:  # fmt: skip
        stub = self._stubs.find(step_id)
        body = handler if stub is MISSING else standing_for(handler, stub)
        return await self._execute(step_id, body, args, kwargs, options or StepOptions())

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None:
        await self._play(step_id, None)

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> Any:
        checked = outgoing_events(events, _LIMITS.event_bytes)
        return await self._play(step_id, [EVENT_ID for _ in checked])

    async def send_signal(self, step_id: str, *, signal: str, data: object) -> Any:
        return await self._play(step_id, None)

    async def produce(self, step_id: str, *, topic: str, key: bytes | None, value: object, **_: Any) -> Any:
        dump(None if isinstance(value, bytes) else value, step_id, _LIMITS.output_bytes)
        record = ProducedRecord(topic=topic, key=None if key is None else key.decode(errors="replace"))
        return await self._play(step_id, record, decoder(ProducedRecord))

    def __getattr__(self, name: str) -> Any:
        """Every other kind of step waits for somebody else."""

        async def stubbed(step_id: str, *, decode: Decode | None = None, **_: Any) -> Any:
            return await self._play(step_id, MISSING, decode)

        return stubbed

    async def _play(self, step_id: str, default: Any, decode: Decode | None = None) -> Any:
        stub = self._stubs.find(step_id)
        if stub is MISSING and default is MISSING:
            raise self._complain(UnstubbedStepError(step_id))
        if stub is MISSING:
            return default
        return await self._execute(step_id, giving(stub), (), {}, StepOptions(decode=decode))

    async def _execute(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        options: StepOptions,
    ) -> Any:  # fmt: skip
        outer = STEP.get()
        if outer is not None:
            raise self._complain(SteplogError(f"step {step_id!r} is called inside of step {outer.step_id!r}"))
        occurrence, decode = self._counts[step_id], options.decode or signature_of(handler).decode
        self._counts[step_id] += 1
        key = (step_id, occurrence)
        if key not in self._recorded:
            self._recorded[key] = await self._attempts(
                _Body(step_id, occurrence), partial(handler, *args, **kwargs), decode, options.retries
            )
            self.attempt = 0  # as in a real run (ERR-04)
        recorded = self._recorded[key]
        if isinstance(recorded, StepError):
            raise recorded
        return load(recorded, decode, step_id)

    async def _attempts(
        self, step: "_Body", call: Callable[[], Any], decode: Decode, retries: int | None
    ) -> bytes | StepError:
        """Run a step's body until it succeeds, or has failed for good."""
        most = self._retries if retries is None else retries
        while True:
            token = STEP.set(step)
            try:
                value = call()
                value = await value if inspect.isawaitable(value) else value
                data = dump(value, step.step_id, _LIMITS.output_bytes)
                load(data, decode, step.step_id)
            except Exception as error:
                if error is self.problem:
                    raise
                if step.attempt >= most or describe_error(error, EVENT_MS).is_final:
                    failed = StepError(str(error), type(error).__name__)
                    failed.__cause__ = error
                    return failed
                step.attempt += 1
            else:
                return data
            finally:
                STEP.reset(token)

    def _complain(self, problem: SteplogError) -> SteplogError:
        self.problem = self.problem or problem
        return problem
