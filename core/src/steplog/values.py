"""Values between steps: msgspec JSON, decoded by the return annotation (decisions: *values*)."""

import functools
import inspect
import math
import typing
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import msgspec

from steplog.errors import OutputTooLarge, OutputUnserializable

_encode = msgspec.json.Encoder().encode
_decode_plain = msgspec.json.Decoder().decode
Decode = Callable[[bytes], Any]


class Signature(NamedTuple):
    """What the driver needs to know of a handler."""

    is_async: bool
    decode: Decode


def dump(value: object, what: str, limit_bytes: int) -> bytes:
    """Write a value as JSON.

    Raises ``OutputUnserializable`` for what JSON cannot hold (with the path of a number that is not finite), and
    ``OutputTooLarge`` beyond the limit. ``what`` names the step or function in the error.
    """
    try:
        data = _encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise OutputUnserializable(f'"{what}" returned unserializable data: {error}') from error
    if b"null" in data:  # NaN and infinities are written as null
        path = _not_finite(value, "$")
        if path:
            raise OutputUnserializable(f'"{what}" returned unserializable data: {path} is not a finite number')
    if len(data) > limit_bytes:
        raise OutputTooLarge(f'"{what}"', len(data), limit_bytes)
    return data


def load(data: bytes, decode: Decode, what: str) -> Any:
    """Read a recorded value. Raises ``OutputUnserializable`` where it does not fit the annotation."""
    try:
        return decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise OutputUnserializable(f'"{what}" has a result that its annotation does not allow: {error}') from error


_signatures: dict[CodeType, Signature] = {}


def signature_of(handler: Callable[..., Any]) -> Signature:
    """Find out how a handler is called and how its result is decoded; remembered for plain functions."""
    code = getattr(handler, "__code__", None)
    if code is not None:
        known = _signatures.get(code)
        if known is not None:
            return known
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004
    signature = Signature(is_async, decoder_of(target))
    if code is not None:
        _signatures[code] = signature
    return signature


def decoder_of(target: Callable[..., Any]) -> Decode:
    """Make a decoder from a return annotation; plain JSON types where there is none, or none that JSON can fill."""
    try:
        returns = typing.get_type_hints(target).get("return", Any)
    except Exception:  # noqa: BLE001 - user code: an annotation may raise anything when it is resolved
        return _decode_plain
    if returns in (Any, object) or isinstance(returns, typing.TypeVar):
        return _decode_plain
    try:
        return msgspec.json.Decoder(returns).decode
    except (TypeError, NotImplementedError):
        return _decode_plain


def _not_finite(value: object, path: str) -> str | None:
    """Find the first number that is not finite: its path, or None."""
    match value:
        case float():
            return None if math.isfinite(value) else path
        case dict():
            pairs = ((f"{path}.{key}", item) for key, item in value.items())
        case list() | tuple() | set() | frozenset():
            pairs = ((f"{path}[{index}]", item) for index, item in enumerate(value))
        case _:
            try:
                fields = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else vars(value)
            except TypeError:
                return None
            pairs = ((f"{path}.{key}", item) for key, item in fields.items())
    for at, item in pairs:
        found = _not_finite(item, at)
        if found:
            return found
    return None
