"""Values as JSON, by their types: what msgspec knows, and pydantic models, which are known by their methods.

steplog imports no pydantic: a model brings its own.
"""

import typing
from collections.abc import Callable
from typing import Any

import msgspec

Decode = Callable[[bytes], Any]
decode_plain: Decode = msgspec.json.Decoder().decode


class _Misfit(ValueError):
    """A model refused its data: ``problems`` are pairs of the path below the model, and what is wrong there."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path} {text}" for path, text in problems))
        self.problems = problems


def encode_hook(value: Any) -> Any:
    """What msgspec asks for a value that it does not know."""
    dump = getattr(value, "model_dump", None)
    if dump is None or isinstance(value, type):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return dump(mode="json", by_alias=True)  # by the names that it is read by


def _decode_hook(kind: Any, value: Any) -> Any:
    """What msgspec asks for a type that it does not know. What it gets back it checks itself."""
    validate = getattr(kind, "model_validate_json", None)
    if validate is None:
        return value
    try:
        return validate(_encode(value))  # of JSON: a strict model takes a date as text there
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise
        raise _Misfit([(_path(each["loc"]), each["msg"]) for each in errors(include_url=False)]) from error


_encode = msgspec.json.Encoder().encode


def _path(location: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def decoder(kind: Any) -> Decode:
    """Make a decoder of JSON for a type. Raises ``TypeError`` where JSON cannot hold it."""
    return msgspec.json.Decoder(kind, dec_hook=_decode_hook).decode


def decoder_of(target: Callable[..., Any]) -> Decode:
    """Make a decoder from a return annotation; plain JSON types where there is none, or none that JSON can fill."""
    try:
        returns = typing.get_type_hints(target).get("return", Any)
    except Exception:  # noqa: BLE001 - user code: an annotation may raise anything when it is resolved
        return decode_plain
    if returns in (Any, object) or isinstance(returns, typing.TypeVar):
        return decode_plain
    try:
        return decoder(returns)
    except (TypeError, NotImplementedError):
        return decode_plain


def describe_misfit(error: Exception, root: str) -> str:
    """Say why data did not fit, as ``data.total: expected int, got str``; ``root`` is the name of the whole."""
    text, _, at = str(error).rpartition(" - at `$")
    if not text:
        text, at = str(error), ""
    path, cause = root + at.removesuffix("`"), error.__cause__
    problems = cause.problems if isinstance(cause, _Misfit) else [("", text)]
    return "; ".join(f"{path}{below}: {_plain(problem)}" for below, problem in problems)


def _plain(problem: str) -> str:
    return problem[:1].lower() + problem[1:].replace("`", "")
