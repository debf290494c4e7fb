"""Stubs: what a step gives in a test instead of doing it.

A stub is a value, a function that is called with the step's arguments, an exception (each attempt fails with it), or
``Timeout`` (the time of a wait was up). It stands for every call of its step id. What it gives becomes JSON and is read
by the annotation of the function that it stands for, as the real result would.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from difflib import get_close_matches
from typing import Any, Final

import msgspec

from steplog.errors import StepError
from steplog.event import Event
from steplog.step import StepOptions

Handler = Callable[..., Coroutine[Any, Any, Any]]


class Timeout:
    """As a stub, the class itself: the time of a wait was up. The step gives None."""


MISSING: Final = object()
EVENT_ID = "0" * 26  # of an event that is not sent
EVENT_MS = 1_767_225_600_000  # when it came: the first moment of 2026


class Stubs:
    """The stubs of one run, and which of them it used."""

    def __init__(self, function: str, by_step: Mapping[str, Any]) -> None:
        self._function, self._by_step = function, dict(by_step)
        self._called: set[str] = set()

    def find(self, step_id: str) -> Any:
        """The stub of a step that is called now, else ``MISSING``."""
        self._called.add(step_id)
        return self._by_step.get(step_id, MISSING)

    def unused(self) -> list[str]:
        """A sentence for each stub that no step asked for, with the nearest step id."""
        called = sorted(self._called)
        unused = [step_id for step_id in self._by_step if step_id not in self._called]
        return [f"step_stubs of {self._function}: {_unused(step_id, called)}" for step_id in unused]


def _unused(step_id: str, called: list[str]) -> str:
    nearest = get_close_matches(step_id, called, n=1, cutoff=0.5)
    if nearest:
        return f"no step {step_id!r} was called; did you mean {nearest[0]!r}?"
    return f"no step {step_id!r} was called, only {', '.join(map(repr, called))}" if called else "no step was called"


class StubbedRun:
    """A run whose stubbed steps run their stub as a body: recorded, retried and replayed like any other."""

    def __init__(self, run: Any, stubs: Stubs) -> None:  # any: a StepRunner, of which only one method is known here
        self._run, self._stubs = run, stubs

    def run_step(self, step_id: str, handler: Callable[..., Any], *more: Any, **options: Any) -> Any:
        stub = self._stubs.find(step_id)
        return self._run.run_step(
            step_id, handler if stub is MISSING else standing_for(handler, stub), *more, **options
        )

    def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> Any:
        stub = self._stubs.find(step_id)
        if stub is MISSING:
            return self._run.sleep(step_id, until_ms=until_ms, for_ms=for_ms)
        if stub is None:
            return self._run.sleep(step_id, until_ms=None, for_ms=0)
        return self._run.run_step(step_id, giving(stub), (), {})

    def __getattr__(self, name: str) -> Any:
        """Whatever else the run can: the kinds of steps that wait or send, by their step id."""
        member = getattr(self._run, name)
        if not inspect.iscoroutinefunction(member):
            return member

        def stubbed(step_id: str, *args: Any, **kwargs: Any) -> Any:
            stub = self._stubs.find(step_id)
            if stub is MISSING:
                return member(step_id, *args, **kwargs)
            return self._run.run_step(step_id, giving(stub), (), {}, StepOptions(decode=kwargs.get("decode")))

        return stubbed


def standing_for(handler: Callable[..., Any], stub: Any) -> Handler:
    """A body that does what the stub says, with the handler's name and annotations."""

    async def body(*args: Any, **kwargs: Any) -> Any:
        return await _play(stub, args, kwargs)

    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    return functools.update_wrapper(body, target)


def giving(stub: Any) -> Handler:
    """A body of a step that calls no function. Its result is of the stub's own type where the step names none."""

    async def body() -> Any:
        return _received(await _play(stub, (), {}))

    is_plain = not isinstance(stub, BaseException | tuple | Event) and not callable(stub)
    body.__annotations__["return"] = type(stub) if is_plain else Any
    return body


async def _play(stub: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(stub, BaseException):
        raise _failure(stub)
    if isinstance(stub, type) and issubclass(stub, BaseException):
        raise stub
    if stub is Timeout:
        return None
    if not callable(stub) or isinstance(stub, type):
        return stub
    value = stub(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _failure(error: BaseException) -> BaseException:
    """The exception of an attempt. A ``StepError`` that a body raises is final; as a stub, attempts end in it."""
    if not isinstance(error, StepError):
        return error.with_traceback(None)
    kind = type(error.name, (Exception,), {})
    return kind(error.message)  # type: ignore[no-any-return] # an exception, by its base


def _received(value: Any) -> Any:
    """Events as functions receive them: they have an id and a time."""
    if isinstance(value, tuple):
        return tuple([_received(each) for each in value])
    if not isinstance(value, Event):
        return value
    return msgspec.structs.replace(value, id=value.id or EVENT_ID, ts=value.ts or EVENT_MS)
