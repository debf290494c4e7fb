"""Steps of plain ``def`` functions, which run in a thread: each waits for its twin, nothing is written twice."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, overload

from steplog.durations import Duration
from steplog.event import Event, EventType
from steplog.functions import Function
from steplog.step import A, B, C, D, P, ProducedRecord, R, Signal, Since, Step


class Blocking(Protocol):
    """Awaits on the users' loop, and blocks the function's thread until the result is there."""

    def __call__(self, awaitable: Awaitable[A], /) -> A: ...


class StepSync:
    """Makes the steps of a plain ``def`` function (SDK-06). What each does, ``Step`` says."""

    __slots__ = ("_blocking", "_step")

    def __init__(self, step: Step, blocking: Blocking) -> None:
        self._step, self._blocking = step, blocking

    def options(
        self, *, retries: int | None = None, timeout: Duration | None = None, output_type: Any = None
    ) -> "StepSync":
        return StepSync(self._step.options(retries=retries, timeout=timeout, output_type=output_type), self._blocking)

    @overload
    def run(self, step_id: str, handler: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, step_id: str, handler: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, step_id: str, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._blocking(self._step.run(step_id, handler, *args, **kwargs))

    def sleep(self, step_id: str, duration: Duration) -> None:
        self._blocking(self._step.sleep(step_id, duration))

    def sleep_until(self, step_id: str, until: datetime) -> None:
        self._blocking(self._step.sleep_until(step_id, until))

    def send_event(self, step_id: str, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        return self._blocking(self._step.send_event(step_id, events))

    @overload
    def wait_for_event(
        self, step_id: str, *, event: EventType[A], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, event: str, timeout: Duration, if_exp: str | None = None, match: str | None = None,
        since: Since | None = None,
    ) -> Event[dict[str, Any]] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B]], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B], EventType[C]], timeout: Duration,
        if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | Event[C] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], EventType[B], EventType[C], EventType[D]],
        timeout: Duration, if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> Event[A] | Event[B] | Event[C] | Event[D] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, any_of: tuple[EventType[A], ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[A] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, any_of: tuple[str, ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> Event[dict[str, Any]] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B]], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B]] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B], EventType[C]], timeout: Duration,
        if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B], Event[C]] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], EventType[B], EventType[C], EventType[D]],
        timeout: Duration, if_exp: str | None = None, match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], Event[B], Event[C], Event[D]] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, all_of: tuple[EventType[A], ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[A], ...] | None: ...  # fmt: skip
    @overload
    def wait_for_event(
        self, step_id: str, *, all_of: tuple[str, ...], timeout: Duration, if_exp: str | None = None,
        match: str | None = None, since: Since | None = None,
    ) -> tuple[Event[dict[str, Any]], ...] | None: ...  # fmt: skip
    def wait_for_event(self, step_id: str, **options: Any) -> Any:
        return self._blocking(self._step.wait_for_event(step_id, **options))

    def wait_for_signal(
        self, step_id: str, *, signal: str, timeout: Duration, conflict: Literal["fail", "replace"] = "fail"
    ) -> Signal | None:
        wait = self._step.wait_for_signal(step_id, signal=signal, timeout=timeout, conflict=conflict)
        return self._blocking(wait)

    def send_signal(self, step_id: str, signal: str, data: Any = None) -> str | None:
        return self._blocking(self._step.send_signal(step_id, signal, data))

    def produce(
        self, step_id: str, *, topic: str, value: Any, key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None, partition: int | None = None,
    ) -> ProducedRecord:  # fmt: skip
        record = self._step.produce(step_id, topic=topic, value=value, key=key, headers=headers, partition=partition)
        return self._blocking(record)

    @overload
    def invoke(
        self, step_id: str, *, function: Function[A, R], data: A, user: Any = None, timeout: Duration | None = None,
        v: str | None = None,
    ) -> R: ...  # fmt: skip
    @overload
    def invoke(
        self, step_id: str, *, function: str, data: Any = None, user: Any = None, timeout: Duration | None = None,
        v: str | None = None,
    ) -> Any: ...  # fmt: skip
    def invoke(self, step_id: str, **options: Any) -> Any:
        return self._blocking(self._step.invoke(step_id, **options))

    def invoke_by_id(
        self, step_id: str, *, function_id: str, app_id: str | None = None, data: Any = None, user: Any = None,
        timeout: Duration | None = None, v: str | None = None,
    ) -> Any:  # fmt: skip
        call = self._step.invoke_by_id(
            step_id, function_id=function_id, app_id=app_id, data=data, user=user, timeout=timeout, v=v
        )
        return self._blocking(call)
