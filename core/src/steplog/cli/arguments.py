"""Arguments that more than one command takes: durations, and data as JSON."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from steplog.errors import EventInvalid

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

if TYPE_CHECKING:
    FloatType = click.ParamType[float]
else:
    FloatType = click.ParamType  # no generic before click 8.4, which Faust does not go with


class Duration(FloatType):
    """A duration with its unit, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; give it its unit, as 2s, 500ms or 1m", param, ctx)
        return float(match[1]) * _UNIT_S[match[2]]


def read_object(text: str) -> dict[str, Any]:
    """Read DATA that must be a JSON object. Raises as ``read_json`` does."""
    data = read_json(text)
    if not isinstance(data, dict):
        raise EventInvalid(f"""{_place(text)} is no JSON object; write one, as '{{"id": "o1"}}'""")
    return data


def read_json(text: str) -> Any:
    """Read DATA: JSON as it is, ``@FILE``, or ``-`` for standard input. Raises ``EventInvalid`` for what is no JSON."""
    body = text
    if text == "-":
        body = sys.stdin.read()
    elif text.startswith("@"):
        try:
            body = Path(text[1:]).read_text(encoding="utf8")
        except OSError as error:
            raise click.UsageError(f"{text[1:]}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise EventInvalid(f"{text[1:]} is not UTF-8: {error}") from error
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EventInvalid(f"{_place(text)} is not JSON: {error}") from error


def _place(text: str) -> str:
    return "standard input" if text == "-" else text[1:] if text.startswith("@") else "DATA"
