"""Values between steps: msgspec JSON, decoded by the return annotation (decisions: *values*)."""

import functools
import inspect
import logging
import math
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from steplog.codec import Decode as Decode
from steplog.codec import decoder_of, encode_hook
from steplog.errors import EventDataInvalid, OutputTooLarge, OutputUnserializable
from steplog.json_text import SHALLOW_BYTES, structure_problem

logger = logging.getLogger(__name__)

WARNED_PERCENT = 80  # of the limit (GAP-20)
BESIDE_BYTES = 32 << 10  # what stands in a record besides
MOST_SIGNATURES = 10_000  # a type that is made anew in every run must not fill the memory
_encode = msgspec.json.Encoder().encode
_encode_models = msgspec.json.Encoder(enc_hook=encode_hook).encode
_SCALARS = frozenset({str, int, float, bool, type(None)})
_skip = msgspec.json.Decoder(msgspec.Raw).decode


class Signature(NamedTuple):
    """What the driver needs to know of a handler."""

    is_async: bool
    decode: Decode


def encode(value: object) -> bytes:
    """Write a value as JSON that fits into every record.

    Raises what msgspec raises, and ``ValueError`` for a number that is not finite and for what is nested too deep.
    """
    data = encode_to_load(value)
    if type(value) not in _SCALARS:
        _skip(data)  # a msgspec.Raw is written as it is, whatever it holds
    return data


def encode_to_load(value: object) -> bytes:
    """Write a value as ``encode`` does, but for what a ``msgspec.Raw`` in it holds: ``load`` will tell."""
    try:
        data = _encode(value)
    except TypeError as error:
        data = _encode_unknown(value, error)
    if data.count(b"null") and value is not None:  # NaN and infinities are written as null; ``in`` takes twice as long
        path = _not_finite(msgspec.to_builtins(value, enc_hook=encode_hook), "$")
        if path:
            raise ValueError(f"{path} is not a finite number")
    if len(data) > SHALLOW_BYTES or not data.isascii():
        problem = structure_problem(data)
        if problem is not None:
            raise ValueError(problem)
    return data


def fitting(output_bytes: int, event_bytes: int, record_bytes: int | None) -> tuple[int, int]:
    """How large outputs and events may be where a record of the log holds so much; None: any size.

    Some records have both, as ``inngest/function.finished`` has.
    """
    if record_bytes is None:
        return output_bytes, event_bytes
    room = max(record_bytes - BESIDE_BYTES, BESIDE_BYTES)
    event_bytes = min(event_bytes, room // 4)
    return min(output_bytes, room - event_bytes), event_bytes


def dump(value: object, what: str, limit_bytes: int, write: Callable[[object], bytes] = encode) -> bytes:
    """Write a value as JSON; whoever reads it with ``load`` at once may ``write`` it with ``encode_to_load``.

    Raises ``OutputUnserializable`` for what JSON cannot hold (with the path of a number that is not finite), and
    ``OutputTooLarge`` beyond the limit. ``what`` names the step or function in the error.
    """
    try:
        data = write(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise OutputUnserializable(f'"{what}" returned unserializable data: {error}') from error
    if len(data) * 100 >= limit_bytes * WARNED_PERCENT:
        _check_size(len(data), what, limit_bytes)
    return data


def _check_size(size_bytes: int, what: str, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise OutputTooLarge(f'"{what}"', size_bytes, limit_bytes)
    logger.warning(
        "an output is close to the limit",
        extra={"fields": {"of": what, "size_bytes": size_bytes, "limit_bytes": limit_bytes}},
    )


def _encode_unknown(value: object, unknown: TypeError) -> bytes:
    """Write a value in which there is something that msgspec does not know."""
    try:
        return _encode_models(value)
    except TypeError:
        raise unknown from None


def load(data: bytes, decode: Decode, what: str) -> Any:
    """Read a recorded value.

    Raises ``OutputUnserializable`` where it does not fit the annotation, ``EventDataInvalid`` where an event does not.
    """
    try:
        return decode(data)
    except EventDataInvalid:
        raise
    except Exception as error:
        if type(error) is msgspec.DecodeError:  # a msgspec.Raw in it is no JSON
            raise OutputUnserializable(f'"{what}" returned unserializable data: {error}') from error
        # or user code: a type's own __post_init__ may raise anything
        raise OutputUnserializable(f'"{what}" has a result that its annotation does not allow: {error}') from error


_signatures: dict[int, tuple[CodeType, object, Signature]] = {}  # by the code's address, which its entry keeps
_decorated: "WeakKeyDictionary[Any, Signature]" = WeakKeyDictionary()  # they share the decorator's code


def signature_of(handler: Callable[..., Any]) -> Signature:
    """Find out how a handler is called and how its result is decoded; remembered for functions.

    Functions that share their code, as those of a factory or a decorator do, may differ in their annotation.
    """
    code = getattr(handler, "__code__", None)
    known = _signatures.get(id(code))
    if known is not None:
        returns = handler.__annotations__.get("return")
        if known[1] is returns or known[1] == returns:
            return known[2]
    return _find_signature(handler, code)


def _find_signature(handler: Any, code: CodeType | None) -> Signature:
    while isinstance(handler, functools.partial):
        handler = handler.func
        code = getattr(handler, "__code__", None)
    if code is None:
        return _read_signature(handler)
    if hasattr(handler, "__wrapped__"):
        signature = _decorated.get(handler)
        if signature is None:
            signature = _decorated[handler] = _read_signature(handler)
        return signature
    returns = handler.__annotations__.get("return")
    if len(_signatures) >= MOST_SIGNATURES:
        _signatures.clear()
    signature = _read_signature(handler)
    _signatures[id(code)] = (code, returns, signature)
    return signature


def _read_signature(target: Any) -> Signature:
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    return Signature(inspect.iscoroutinefunction(target), decoder_of(target))


def _not_finite(value: object, path: str) -> str | None:
    """Find the first number that is not finite among builtins: its path, or None."""
    match value:
        case float():
            return None if math.isfinite(value) else path
        case dict():
            pairs = ((f"{path}.{key}", item) for key, item in value.items())
        case list() | tuple():
            pairs = ((f"{path}[{index}]", item) for index, item in enumerate(value))
        case _:
            return None
    for at, item in pairs:
        found = _not_finite(item, at)
        if found:
            return found
    return None
