"""The functions of expressions: what may be called, with how many arguments, and what it does.

Each takes the frame and values that are not missing, and raises ``EvaluationError`` for types that do not fit.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from steplog.cel import times
from steplog.cel.nodes import Value
from steplog.cel.values import CHARS_A_STEP, Frame, charge, kind, text_of
from steplog.errors import EvaluationError

Function: TypeAlias = Callable[..., Value]
STEPS_A_CALL = 10
STEPS_A_PATTERN = 5_000  # to compile one takes up to 1.5 ms
CHARS_AND_INSTRUCTIONS_A_STEP = 16  # RE2's worst case is 7 ns for a character and an instruction
MAX_PATTERN_CHARS = 1_000
MAX_PATTERNS = 64  # compiled ones that are kept
PATTERN_BYTES = 1 << 18  # bounds repetitions too: ([a-z]{1000}){10} is too large
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLS = {"true": True, "false": False}


class Signature(NamedTuple):
    """``least`` to ``most`` arguments, of a method its receiver included."""

    call: Function
    least: int
    most: int


def size(_: Frame, value: Value) -> int:
    """Count a string's characters, a list's elements, a map's entries, bytes."""
    if not isinstance(value, str | bytes | list | dict):
        raise EvaluationError(f"size() needs a string, list, map or bytes, not a {kind(value)}")
    return len(value)


def _text_method(name: str, call: Callable[[str, str], bool]) -> Function:
    def method(frame: Frame, text: Value, other: Value) -> bool:
        if text.__class__ is not str or other.__class__ is not str:
            raise EvaluationError(f"{name}() needs two strings, not a {kind(text)} and a {kind(other)}")
        charge(frame, (len(text) + len(other)) // CHARS_A_STEP)
        return call(text, other)

    return method


class Pattern(NamedTuple):
    """A compiled pattern. RE2 searches in time linear in the text and the pattern's instructions, whatever they are."""

    search: Callable[[str], object]  # None where it does not match
    instructions: int


@functools.lru_cache(maxsize=MAX_PATTERNS)
def pattern(text: str) -> Pattern:
    """Compile a pattern. Raises ``EvaluationError``."""
    import re2  # type: ignore[import-untyped]  # has no types; imported by the first expression that needs it

    if len(text) > MAX_PATTERN_CHARS:
        raise EvaluationError(f"a pattern has at most {MAX_PATTERN_CHARS:,} characters")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = PATTERN_BYTES
    try:
        compiled = re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        said = reason.decode("utf8", "replace") if isinstance(reason, bytes) else reason
        raise EvaluationError(f"the pattern is invalid: {said}") from None
    return Pattern(compiled.search, compiled.programsize)


def search(frame: Frame, subject: Value, wanted: Pattern) -> bool:
    """Tell whether a pattern matches anywhere in a text."""
    if subject.__class__ is not str:
        raise EvaluationError(f"matches() looks into a string, not into a {kind(subject)}")
    charge(frame, len(subject) * wanted.instructions // CHARS_AND_INSTRUCTIONS_A_STEP)
    try:
        return wanted.search(subject) is not None
    except UnicodeEncodeError:
        raise EvaluationError("a half of a surrogate pair cannot be matched") from None


def matches(frame: Frame, subject: Value, text: Value) -> bool:
    """Search for a pattern that is not known before."""
    if text.__class__ is not str:
        raise EvaluationError(f"a pattern is a string, not a {kind(text)}")
    charge(frame, STEPS_A_PATTERN)
    return search(frame, subject, pattern(text))


def _string(frame: Frame, value: Value) -> str:
    if value.__class__ is bytes:
        charge(frame, len(value) // CHARS_A_STEP)
    return text_of(value)


def _int(_: Frame, value: Value) -> int:
    """Make an integer of a number (rounded toward zero), of text, or of a timestamp (seconds since 1970)."""
    match kind(value):
        case "number" if abs(value) < 2**64:
            number = int(value)
        case "string" if _INTEGER.fullmatch(value):
            number = int(value)
        case "timestamp":
            number = times.to_seconds(value)
        case "number" | "string" as of:
            raise EvaluationError(f"the {of} is no integer of 64 bits")
        case of:
            raise EvaluationError(f"int() needs a number, string or timestamp, not a {of}")
    if not -(2**63) <= number < 2**63:
        raise EvaluationError("the integer needs more than 64 bits")
    return number


def _uint(frame: Frame, value: Value) -> int:
    number = _int(frame, value)
    if number < 0:
        raise EvaluationError("uint() gives no negative number")
    return number


def _double(_: Frame, value: Value) -> float:
    match kind(value):
        case "number":
            pass
        case "string" if len(value) <= times.MAX_CHARS and _DECIMAL.fullmatch(value):
            pass
        case "string":
            raise EvaluationError("the string is no number")
        case of:
            raise EvaluationError(f"double() needs a number or a string, not a {of}")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number in (float("inf"), float("-inf")):
        raise EvaluationError("the number is too large")
    return number


def _bool(_: Frame, value: Value) -> bool:
    if value.__class__ is bool:
        return bool(value)
    if value.__class__ is str and value in _BOOLS:
        return _BOOLS[value]
    raise EvaluationError('bool() needs a bool, "true" or "false"')


def _bytes(frame: Frame, value: Value) -> bytes:
    if value.__class__ is bytes:
        return bytes(value)
    if value.__class__ is not str:
        raise EvaluationError(f"bytes() needs a string, not a {kind(value)}")
    charge(frame, len(value) // CHARS_A_STEP)
    try:
        return bytes(value, "utf8")
    except UnicodeEncodeError:
        raise EvaluationError("a half of a surrogate pair has no bytes") from None


def _timestamp(_: Frame, value: Value) -> Value:
    match kind(value):
        case "timestamp":
            return value
        case "string":
            return times.timestamp(value)
        case "number":
            return times.from_seconds(value)
        case of:
            raise EvaluationError(f"timestamp() needs a string, or seconds since 1970, not a {of}")


def _duration(_: Frame, value: Value) -> Value:
    match kind(value):
        case "duration":
            return value
        case "string":
            return times.duration(value)
        case of:
            raise EvaluationError(f"duration() needs a string such as 1h30m, not a {of}")


def _part(name: str) -> Function:
    def method(_: Frame, time: Value, zone: Value = None) -> int:
        if kind(time) not in ("timestamp", "duration") or kind(zone) not in ("null", "string"):
            raise EvaluationError(f"{name}() needs a timestamp and perhaps the name of a zone")
        return times.part(name, time, zone)

    return method


FUNCTIONS = {
    "size": Signature(size, 1, 1),
    "matches": Signature(matches, 2, 2),
    "string": Signature(_string, 1, 1),
    "int": Signature(_int, 1, 1),
    "uint": Signature(_uint, 1, 1),
    "double": Signature(_double, 1, 1),
    "bool": Signature(_bool, 1, 1),
    "bytes": Signature(_bytes, 1, 1),
    "timestamp": Signature(_timestamp, 1, 1),
    "duration": Signature(_duration, 1, 1),
    "dyn": Signature(lambda _, value: value, 1, 1),
}
METHODS = {
    "size": Signature(size, 1, 1),
    "matches": Signature(matches, 2, 2),
    "contains": Signature(_text_method("contains", lambda text, part: part in text), 2, 2),
    "startsWith": Signature(_text_method("startsWith", str.startswith), 2, 2),
    "endsWith": Signature(_text_method("endsWith", str.endswith), 2, 2),
    **{name: Signature(_part(name), 1, 2) for name in times.PARTS},
}
