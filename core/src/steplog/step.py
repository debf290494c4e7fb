"""Steps: the durable parts of a function."""
# ruff: noqa: ASYNC109 - such a timeout is the engine's, and outlives the process

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec

from steplog.codec import Decode, decode_plain, decoder
from steplog.durations import Duration, epoch_ms, milliseconds
from steplog.engine.functions import MOST_STEP_MS
from steplog.engine.ids import text_problem
from steplog.engine.operations import signal_problem, topic_problem
from steplog.errors import ConfigInvalid, StepOutsideRun
from steplog.event import Event, EventType, read_match, read_matches
from steplog.functions import Function, retries_problem

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
AnyEvent = str | EventType[Any]
Since = Literal["trigger"]


class StepOptions(msgspec.Struct, frozen=True):
    """What ``step.options`` sets for the steps it makes; None is what the function has."""

    retries: int | None = None
    timeout_ms: int | None = None  # of one attempt
    decode: Decode | None = None  # in place of the handler's return annotation


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that a wait was resumed by."""

    signal: str
    data: Any = None


class ProducedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that ``step.produce`` wrote. Its offset is known to those who read the topic alone."""

    topic: str
    key: str | None = None


class StepRunner(Protocol):
    """What carries out the steps of a run: a driver.

    A ``decode`` reads the JSON that was recorded, ``null`` where the time was up: of a wait for events it is the event
    as functions see it, with ``all_of`` an array of these in the order of ``events``.
    """

    @property
    def app_id(self) -> str:
        """The app of the function."""
        raise NotImplementedError

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        options: StepOptions | None = None,
    ) -> Any: ...  # fmt: skip

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None: ...

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> list[str]: ...

    async def wait_for_event(
        self, step_id: str, *, events: tuple[str, ...], all_of: bool, if_exp: str | None, is_since_trigger: bool,
        timeout_ms: int, decode: Decode,
    ) -> Any: ...  # fmt: skip

    async def wait_for_signal(self, step_id: str, *, signal: str, timeout_ms: int, replace: bool) -> Signal | None: ...

    async def send_signal(self, step_id: str, *, signal: str, data: object) -> str | None: ...

    async def produce(
        self, step_id: str, *, topic: str, key: bytes | None, value: object, headers: tuple[tuple[str, bytes], ...],
        partition: int | None,
    ) -> ProducedRecord: ...  # fmt: skip

    async def invoke(
        self, step_id: str, *, function_id: str, data: object, user: object, v: str | None, timeout_ms: int | None,
        decode: Decode,
    ) -> Any: ...  # fmt: skip


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

    __slots__ = ("_options", "_runner")

    def __init__(self, runner: StepRunner, options: StepOptions | None = None) -> None:
        self._runner, self._options = runner, options

    def options(
        self, *, retries: int | None = None, timeout: Duration | None = None, output_type: Any = None
    ) -> "Step":
        """Make steps with settings of their own, as in ``step.options(retries=1).run(…)``.

        ``retries`` is how often the step is tried again, ``timeout`` how long one attempt may take, ``output_type``
        what its result is decoded as; each is the function's, or the return annotation, unless given.

        Raises ``ConfigInvalid`` for retries that are not 0 to 20 (LIMW-02), or a timeout over 2 hours (LIM-02).
        """
        timeout_ms = _milliseconds(timeout)
        problem = None if retries is None else retries_problem(retries)
        problems = [] if problem is None else [problem]
        if timeout_ms is not None and timeout_ms > MOST_STEP_MS:
            problems.append(f"timeout is {timeout_ms} ms; the limit of a step's attempt is {MOST_STEP_MS} ms, 2 hours")
        if problems:
            raise ConfigInvalid("step.options", problems)
        decode = None if output_type is None else decoder(output_type)
        return Step(self._runner, StepOptions(retries, timeout_ms, decode))

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
        if self._options is None:
            return self._runner.run_step(step_id, handler, args, kwargs)
        return self._runner.run_step(step_id, handler, args, kwargs, self._options)

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

    @overload
    async def wait_for_event(
        self, step_id: str, *, event: EventType[A], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, event: str, timeout: Duration, if_exp: str | None = None, match: str | None = None,
        since: Since | None = None,
    ) -> Event[dict[str, Any]] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B]], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B], EventType[C]], timeout: Duration,
        if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | Event[C] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B], EventType[C], EventType[D]],
        timeout: Duration, if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | Event[C] | Event[D] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, any_of: tuple[str, ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[dict[str, Any]] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B]], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B]] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B], EventType[C]], timeout: Duration,
        if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B], Event[C]] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B], EventType[C], EventType[D]],
        timeout: Duration, if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B], Event[C], Event[D]] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], ...] | None: ...  # fmt: skip
    @overload
    async def wait_for_event(
        self, step_id: str, *, all_of: tuple[str, ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[dict[str, Any]], ...] | None: ...  # fmt: skip
    async def wait_for_event(
        self, step_id: str, *, event: AnyEvent | None = None, any_of: tuple[AnyEvent, ...] | None = None,
        all_of: tuple[AnyEvent, ...] | None = None, timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Any:  # fmt: skip
        """Wait for an event that arrives from now on; None when the time is up, which is no error (STEP-08, STEP-11).

        ``any_of`` waits for the first of several, ``all_of`` for one of each and returns them in this order. ``if_exp``
        is CEL over ``event``, which started the run, and ``async``, the one that arrived; ``match="data.id"`` is short
        for ``"event.data.id == async.data.id"`` (STEP-09). A name is the same as ``EventType(name)``. With
        ``since="trigger"`` events count that came after the one that started the run, for 10 minutes after their
        receipt: the first that fits, in the order in which they were accepted.
        """
        if since not in (None, "trigger"):
            raise ValueError(f"since is {since!r}; it must be None or 'trigger'")
        given = [each for each in (None if event is None else (event,), any_of, all_of) if each is not None]
        if len(given) != 1 or not given[0]:
            raise TypeError("a wait is for event=, any_of= or all_of=: give one of them")
        if match is not None:
            if if_exp is not None:
                raise TypeError("a wait has if_exp= or match=: give one of them")
            _check("match", text_problem(match))
            if_exp = f"event.{match} == async.{match}"
        if if_exp is not None:
            _check("if_exp", text_problem(if_exp))
        types = tuple(_event_type(each) for each in given[0])
        decode = partial(read_match if all_of is None else read_matches, types=types)
        return await self._runner.wait_for_event(
            step_id, events=tuple(each.name for each in types), all_of=all_of is not None, if_exp=if_exp,
            is_since_trigger=since is not None, timeout_ms=milliseconds(timeout), decode=decode,
        )  # fmt: skip

    async def wait_for_signal(
        self, step_id: str, *, signal: str, timeout: Duration, conflict: Literal["fail", "replace"] = "fail"
    ) -> Signal | None:
        """Wait for a signal of this name; None when the time is up.

        One run at a time waits for a signal. ``conflict`` says what happens if another does already: this step fails,
        or it takes the other's place.
        """
        if conflict not in ("fail", "replace"):
            raise ValueError(f"conflict is {conflict!r}; it must be fail or replace")
        _check("the signal's name", signal_problem(signal))
        return await self._runner.wait_for_signal(
            step_id, signal=signal, timeout_ms=milliseconds(timeout), replace=conflict == "replace"
        )

    async def send_signal(self, step_id: str, signal: str, data: Any = None) -> str | None:
        """Send a signal, once; returns the id of the run that it resumed, None where none waited for it."""
        _check("the signal's name", signal_problem(signal))
        return await self._runner.send_signal(step_id, signal=signal, data=data)

    async def produce(
        self, step_id: str, *, topic: str, value: Any, key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None, partition: int | None = None,
    ) -> ProducedRecord:  # fmt: skip
        """Write a record to a topic, once, in the transaction that records the step. The log has to be on Kafka.

        ``value`` is text, ``bytes``, None for a tombstone, or anything that is JSON. The topic has to exist; without
        ``partition`` the key chooses it.

        Raises ``StepError`` where the topic does not take it, or the log is not on Kafka.
        """
        _check("topic", topic_problem(topic))
        if partition is not None and partition < 0:
            raise ValueError(f"partition is {partition}; it counts from 0")
        encoded = tuple([(name, _bytes(f"header {name}", text)) for name, text in (headers or {}).items()])
        key = None if key is None else _bytes("key", key)
        return await self._runner.produce(
            step_id, topic=topic, key=key, value=value, headers=encoded, partition=partition
        )

    @overload
    async def invoke(
        self, step_id: str, *, function: Function[A, R], data: A, user: Any = None, timeout: Duration | None = None,
        v: str | None = None,
    ) -> R: ...  # fmt: skip
    @overload
    async def invoke(
        self, step_id: str, *, function: str, data: Any = None, user: Any = None, timeout: Duration | None = None,
        v: str | None = None,
    ) -> Any: ...  # fmt: skip
    async def invoke(
        self, step_id: str, *, function: Function[Any, Any] | str, data: Any = None, user: Any = None,
        timeout: Duration | None = None, v: str | None = None,
    ) -> Any:  # fmt: skip
        """Run another function and return what it returned; the run is one of its own (STEP-13).

        ``function`` is the function, of whatever app, or its full id ``<app>-<function>`` (CNT-25). ``data``, ``user``
        and ``v`` are those of the event that it is called with.

        Raises ``StepError`` if the function fails, is not known, or does not end in time (STEP-15).
        """
        called, decode = (
            (function, decode_plain) if isinstance(function, str) else (function.id, function.decode_output)
        )
        _check("the function's id", text_problem(called))
        return await self._runner.invoke(
            step_id, function_id=called, data={} if data is None else data, user=user, v=v,
            timeout_ms=_milliseconds(timeout), decode=decode,
        )  # fmt: skip

    async def invoke_by_id(
        self, step_id: str, *, function_id: str, app_id: str | None = None, data: Any = None, user: Any = None,
        timeout: Duration | None = None, v: str | None = None,
    ) -> Any:  # fmt: skip
        """Run a function that cannot be imported here, as ``invoke`` does, and return its result as plain JSON (FN-20).

        ``function_id`` is its id without the app's, ``app_id`` its app: the caller's unless given (PY-30).
        """
        full_id = f"{self._runner.app_id if app_id is None else app_id}-{function_id}"
        return await self.invoke(step_id, function=full_id, data=data, user=user, timeout=timeout, v=v)


def _milliseconds(duration: Duration | None) -> int | None:
    return None if duration is None else milliseconds(duration)


def _bytes(what: str, value: object) -> bytes:
    """Raises ``TypeError`` for what is neither text nor bytes."""
    if not isinstance(value, str | bytes):
        raise TypeError(f"{what} is {value!r:.100}; it is text or bytes")
    return value.encode() if isinstance(value, str) else value


def _check(what: str, problem: str | None) -> None:
    """Raise ``ValueError`` for what no driver could hand on."""
    if problem is not None:
        raise ValueError(f"{what} {problem}")


def _event_type(event: AnyEvent) -> EventType[Any]:
    """Raises ``ConfigInvalid`` for what is no name, ``ValueError`` for a pattern of names."""
    event_type = event if isinstance(event, EventType) else EventType(event)
    if event_type.is_pattern:
        raise ValueError(f"a step waits for events of one name, {event_type.name!r} is a pattern")
    return event_type
