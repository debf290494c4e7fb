"""A step that a function has called and that has no result yet."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from steplog.engine.ids import hash16, step_wire_id
from steplog.engine.operations import Operation
from steplog.step import CurrentStep, StepOptions
from steplog.values import Decode

_AS_THE_FUNCTION = StepOptions()


class Begin:
    """Handed to a call instead of a result: begin the body (again)."""


BEGIN = Begin()


class Call(CurrentStep):
    """An open call. While its body runs, it is what ``current_step()`` returns there."""

    __slots__ = (
        "copy", "decode", "due_ms", "future", "is_nested", "is_overdue", "options", "run_id", "step", "until_s",
        "wire_id",
    )  # fmt: skip
    until_s: float  # by the loop's time: then its body has run for as long as an attempt may; of one that runs

    def __init__(
        self, run_id: str, step_id: str, occurrence: int, future: "asyncio.Future[Any]", decode: Decode
    ) -> None:
        self.run_id, self.step_id, self.future, self.decode = run_id, step_id, future, decode
        self.wire_id, self.step = _identity(step_id, occurrence)
        self.attempt = 0
        self.options = _AS_THE_FUNCTION
        self.due_ms: int | None = None  # it waits until then
        self.copy: tuple[Any] | None = None  # the decoded copy of a result that is being committed
        self.is_nested = False  # its body has called a step
        self.is_overdue = False  # its body was told to end then

    @property
    def key(self) -> str:
        return f"{self.run_id}-{self.wire_id[:16]}"


class Calls:
    """What ``LiveRun`` does with every step, for the kinds of steps that are built on it."""

    __slots__ = ()
    _now_ms: Callable[[], int]

    def _register(self, step_id: str, decode: Decode) -> Call:
        raise NotImplementedError

    def _may_begin(self, call: Call) -> bool:
        raise NotImplementedError

    def _outcome(self, call: Call, operation: Operation) -> "asyncio.Future[Any]":
        raise NotImplementedError

    def _ask_for_rest(self) -> None:
        raise NotImplementedError


@functools.lru_cache(maxsize=16_384)
def _identity(step_id: str, occurrence: int) -> tuple[str, bytes]:
    """The wire's id of a step, and its key component. Raises ``ValueError`` for an id that is no text (fault I1)."""
    try:
        step_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a step's id is text, {step_id!r} has half of a surrogate pair") from error
    wire_id = step_wire_id(step_id, occurrence)
    return wire_id, hash16(wire_id.encode())
