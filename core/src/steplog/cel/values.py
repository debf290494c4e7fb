"""Operations on values: equality, order, arithmetic, text. All raise ``EvaluationError`` for types that do not fit.

A frame is what closures read: the steps left at index 0, then the variables. Work that grows with the data takes its
steps from there, so that no expression can hold the process.
"""

import json
import math
import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from types import NoneType
from typing import Final, TypeAlias

from steplog.cel import times
from steplog.cel.nodes import Value
from steplog.errors import EvaluationError

Frame: TypeAlias = list[Value]
MAX_STEPS = 100_000  # each takes 0.1–0.4 µs: 40 ms at most
CHARS_A_STEP = 64
STEPS_A_COPY = 4  # of a list or map, apart from its elements
_INT64 = 2**63
_DEPTH = "the data is nested too deeply"


class TooMuchWork(EvaluationError):
    """The steps are used up. Unlike other errors it is not absorbed by ``&&`` and ``||``."""


class Missing:
    """The value of a field that is not there. Equals nothing, itself included."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # it must not be found in a set by its identity

    def __eq__(self, other: object) -> bool:
        return False


MISSING: Final = Missing()
KINDS = {
    bool: "bool", int: "number", float: "number", str: "string", bytes: "bytes", NoneType: "null", list: "list",
    dict: "map", datetime: "timestamp", timedelta: "duration", Missing: "missing field",
}  # fmt: skip
_ORDERED = {"bool", "number", "string", "bytes", "timestamp", "duration"}


def kind(value: Value) -> str:
    """Name a value's type. What is no JSON has one that fits no operation."""
    return KINDS.get(value.__class__, type(value).__name__)


def charge(frame: Frame, steps: int) -> None:
    """Take steps. Raises ``TooMuchWork`` when there are none left."""
    frame[0] -= steps
    if frame[0] < 0:
        raise TooMuchWork(f"it takes more than {MAX_STEPS:,} steps")


def equal(a: Value, b: Value, frame: Frame) -> bool:
    """Compare by value: numbers whatever their type, a bool is no number, other types are unequal."""
    try:
        return _equal(a, b, frame)
    except RecursionError:
        raise EvaluationError(_DEPTH) from None


def _equal(a: Value, b: Value, frame: Frame) -> bool:
    of = a.__class__
    if of is dict or of is list:
        if b.__class__ is not of or len(a) != len(b):
            return False
        charge(frame, len(a))
        if of is list:
            return all(_equal(x, y, frame) for x, y in zip(a, b, strict=True))
        return all(key in b and _equal(item, b[key], frame) for key, item in a.items())
    if of is bool or b.__class__ is bool:
        return a is b
    return bool(a == b)


def ordered(compare: Callable[[Value, Value], bool], a: Value, b: Value) -> bool:
    """Compare by order; false where one is missing."""
    if a is MISSING or b is MISSING:
        return False
    if kind(a) != kind(b) or kind(a) not in _ORDERED:
        raise EvaluationError(f"a {kind(a)} and a {kind(b)} have no order")
    return compare(a, b)


def contains(item: Value, values: Value, frame: Frame) -> bool:
    """``item in values``; false where one is missing."""
    if item is MISSING or values is MISSING:
        return False
    if values.__class__ is dict:
        return item.__class__ is str and item in values
    if values.__class__ is not list:
        raise EvaluationError(f"in looks into a list or a map, not into a {kind(values)}")
    charge(frame, len(values))
    return any(equal(item, value, frame) for value in values)


def _number(compute: Callable[[], int | float]) -> int | float:
    """Compute a number. Raises for one that is not finite, or beyond 64 bits."""
    try:
        value = compute()
    except ZeroDivisionError:
        raise EvaluationError("division by zero") from None
    except OverflowError:
        raise EvaluationError("the number is too large") from None
    if value.__class__ is int:
        if not -_INT64 <= value < _INT64:
            raise EvaluationError("the integer needs more than 64 bits")
    elif not math.isfinite(value):
        raise EvaluationError("the number is too large")
    return value


def _quotient(a: int, b: int) -> int:
    """Divide and round toward zero."""
    found = abs(a) // abs(b)
    return found if (a < 0) == (b < 0) else -found


def add(frame: Frame, a: Value, b: Value) -> Value:
    if a.__class__ is str and b.__class__ is str:  # most keys of two parts are made so
        charge(frame, (len(a) + len(b)) // CHARS_A_STEP)
        return a + b
    match kind(a), kind(b):
        case "number", "number":
            return _number(lambda: a + b)
        case "bytes", "bytes":
            charge(frame, (len(a) + len(b)) // CHARS_A_STEP)
            return a + b
        case "list", "list":
            charge(frame, len(a) + len(b))
            return a + b
        case ("timestamp", "duration") | ("duration", "timestamp") | ("duration", "duration"):
            return times.checked(lambda: a + b)
    raise EvaluationError(f"a {kind(a)} and a {kind(b)} cannot be added; string() makes text of a value")


def subtract(_: Frame, a: Value, b: Value) -> Value:
    match kind(a), kind(b):
        case "number", "number":
            return _number(lambda: a - b)
        case ("timestamp", "timestamp") | ("timestamp", "duration") | ("duration", "duration"):
            return times.checked(lambda: a - b)
    raise EvaluationError(f"a {kind(b)} cannot be subtracted from a {kind(a)}")


def multiply(_: Frame, a: Value, b: Value) -> Value:
    _need_numbers("*", a, b)
    return _number(lambda: a * b)


def divide(_: Frame, a: Value, b: Value) -> Value:
    """Divide; of two integers rounded toward zero."""
    _need_numbers("/", a, b)
    return _number(lambda: _quotient(a, b) if a.__class__ is b.__class__ is int else a / b)


def remainder(_: Frame, a: Value, b: Value) -> Value:
    """The remainder with the sign of ``a``, of integers only."""
    if not a.__class__ is b.__class__ is int:
        raise EvaluationError("% needs two integers")
    return _number(lambda: a - b * _quotient(a, b))


def _need_numbers(symbol: str, a: Value, b: Value) -> None:
    if kind(a) != "number" or kind(b) != "number":
        raise EvaluationError(f"{symbol} needs two numbers, not a {kind(a)} and a {kind(b)}")


def negate(_: Frame, value: Value) -> Value:
    if kind(value) != "number":
        raise EvaluationError(f"- needs a number, not a {kind(value)}")
    return _number(lambda: -value)


def invert(_: Frame, value: Value) -> Value:
    if value.__class__ is not bool:
        raise EvaluationError(f"! needs a bool, not a {kind(value)}")
    return not value


COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
BINARY = {"+": add, "-": subtract, "*": multiply, "/": divide, "%": remainder}
UNARY = {"-": negate, "!": invert}


def text_of(value: Value) -> str:
    """Write a value as ``string()`` does. Equal numbers have one text: 1 and 1.0 are ``1``."""
    of = value.__class__
    if of is str:
        return str(value)
    if of is int or of is float:
        return _number_text(value)
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise EvaluationError("the bytes are no UTF-8 text") from None
        case datetime():
            return times.timestamp_text(value)
        case timedelta():
            return times.duration_text(value)
    raise EvaluationError(f"a {kind(value)} has no text")


def _number_text(value: float) -> str:
    try:
        return str(int(value)) if value == int(value) else repr(value)
    except (ValueError, OverflowError):  # more digits than Python writes; not finite
        raise EvaluationError("the number is too large") from None


def canonical(value: Value, frame: Frame | None = None) -> str:
    """Write JSON so that equal values, and only those, have equal text: sorted keys, 1 for 1.0.

    Raises ``EvaluationError`` for what is not JSON: bytes, timestamps, durations, missing fields.
    """
    if value.__class__ is str:
        return _encode(value)
    try:
        return _encode(_plain(value, [MAX_STEPS] if frame is None else frame))
    except RecursionError:
        raise EvaluationError(_DEPTH) from None
    except ValueError:  # more digits than Python writes
        raise EvaluationError("the number is too large") from None


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False).encode


def _plain(value: Value, frame: Frame) -> Value:
    """Copy JSON, with integers for all numbers that are integral."""
    match value:
        case dict():
            charge(frame, STEPS_A_COPY + len(value))
            return {key: _plain(item, frame) for key, item in value.items()}
        case list():
            charge(frame, STEPS_A_COPY + len(value))
            return [_plain(item, frame) for item in value]
        case float():
            return int(value) if value.is_integer() else value
        case None | bool() | int() | str():
            return value
    raise EvaluationError(f"a {kind(value)} is not JSON")
