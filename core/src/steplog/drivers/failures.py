"""How an exception of user code is recorded (ERR-06…08, ERR-18, fault D9)."""

import traceback
from collections.abc import Iterator
from concurrent.futures import thread
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from steplog.durations import epoch_ms, milliseconds
from steplog.engine.operations import ErrorInfo
from steplog.engine.retry import LEAST_RETRY_AFTER_MS, MOST_RETRY_AFTER_MS
from steplog.errors import (
    EventDataInvalid,
    NonRetriableError,
    OutputTooLarge,
    OutputUnserializable,
    RetryAfterError,
    StepError,
)

STACK_CHARACTERS = 8_000
MESSAGE_CHARACTERS = 32_000  # an error is kept in memory while its run is open
_FINAL = (NonRetriableError, StepError, OutputTooLarge, OutputUnserializable, EventDataInvalid)
_OURS = (str(Path(__file__).parent.parent), thread.__file__)


class Failure(NamedTuple):
    """An exception, as the engine gets it."""

    error: ErrorInfo
    is_final: bool
    retry_after_ms: int | None


def describe_error(error: BaseException, at_ms: int) -> Failure:
    """Read an exception that was raised at a time. Never raises, whatever the exception's own methods do."""
    final = any(isinstance(each, _FINAL) for each in _leaves(error))
    try:
        info = _info(error)
    except Exception:  # noqa: BLE001 - user code: what an exception has, its cause too, may be a property that raises
        info = ErrorInfo(name=_text(type(error).__name__), message=_text(error))
    return Failure(info, final, _retry_after_ms(error, at_ms))


def _info(error: BaseException) -> ErrorInfo:
    leaf = next(_leaves(error), error)
    if isinstance(leaf, StepError):
        return ErrorInfo(
            name=_text(leaf.name), message=_text(leaf.message), stack=None if leaf.stack is None else _text(leaf.stack)
        )
    cause = leaf.__cause__
    return ErrorInfo(
        name=_name(leaf),
        message=_text(leaf),
        stack=_stack(leaf),
        cause=ErrorInfo(name=_name(cause), message=_text(cause)) if cause is not None else None,
    )


def _name(error: BaseException) -> str:
    return _text(type(error).__name__)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, or the exception itself; however deep groups are in groups."""
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left.extend(reversed(each.exceptions))
        else:
            yield each


def _text(value: object) -> str:
    try:
        return str(value)[:MESSAGE_CHARACTERS].encode("utf8", "replace").decode()
    except BaseException:  # noqa: BLE001 - user code: __str__ may raise anything, and an error must be recorded
        return "<an error whose text cannot be read>"


def _stack(error: BaseException) -> str:
    """The traceback from the user's first frame on."""
    try:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OURS)]
        lines = [*traceback.format_list(frames), f"{_name(error)}: {_text(error)}"[: STACK_CHARACTERS // 2]]
        return "".join(lines).encode("utf8", "replace").decode()[-STACK_CHARACTERS:]
    except Exception:  # noqa: BLE001 - user code: a source line or a loader may raise
        return f"{_name(error)}: {_text(error)}"


def _retry_after_ms(error: BaseException, at_ms: int) -> int | None:
    """What the code asked for; within the engine's bounds here already, because any number fits into an ``int``."""
    for leaf in _leaves(error):
        if isinstance(leaf, RetryAfterError):
            try:
                asked = leaf.retry_after
                wait_ms = epoch_ms(asked) - at_ms if isinstance(asked, datetime) else milliseconds(asked)
                return min(max(wait_ms, LEAST_RETRY_AFTER_MS), MOST_RETRY_AFTER_MS)
            except (AttributeError, TypeError, ValueError, OverflowError):  # user code: it may hold anything
                return None
    return None
