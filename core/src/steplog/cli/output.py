"""What commands print: results on stdout, everything else on stderr; plain text where there is no terminal."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click

SHOWN_AFTER_S, MOVED_EVERY_S = 0.5, 0.2  # what is waited for, on a terminal
SHOWN_EVERY_S = 10.0  # elsewhere
SHOWN_CHARACTERS = 5  # of an id, its last ones
_ASCII = str.maketrans(
    {"█": "#", "░": ".", "▏": "|", "▕": "|", "▸": ">", "✓": "ok", "✗": "x", "→": "->", "…": "..", "·": "-"}
    | dict.fromkeys("▉▊▋▌▍▎", "#")
)
_color: bool | None


def choose_color(choice: str) -> None:
    """Decide whether to colour: ``always``, ``never``, or ``auto``: by the environment, else on terminals."""
    global _color
    if choice == "auto":
        _color = False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None
    else:
        _color = choice == "always"


choose_color("auto")


def echo(text: str = "", *, err: bool = False, newline: bool = True) -> None:
    """Print text, in ASCII where the stream knows no more."""
    if not is_unicode(err=err):
        text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    click.echo(text, err=err, nl=newline, color=_color)


def print_json(value: object, *, in_a_line: bool = False) -> None:
    """Print one JSON value; in ASCII, by JSON's own escapes, where standard output knows no more."""
    import msgspec

    text = msgspec.json.encode(value)
    if not in_a_line:
        text = msgspec.json.format(text)
    if not is_unicode():
        import json

        text = json.dumps(json.loads(text), indent=None if in_a_line else 2).encode()
    click.echo(text)


def styled(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Colour text; ``echo`` takes it off again where it is not wanted."""
    return click.style(text, fg=fg, bold=bold or None, dim=dim or None)


def is_terminal(*, err: bool = False) -> bool:
    """Whether somebody watches."""
    stream = sys.stderr if err else sys.stdout
    return stream is not None and stream.isatty()


def is_unicode(*, err: bool = False) -> bool:
    """Whether the stream takes more than ASCII."""
    stream = sys.stderr if err else sys.stdout
    return "utf" in (getattr(stream, "encoding", None) or "").lower()


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def shown_id(id_: str) -> str:
    """An id as people compare it; whole where a program may read it."""
    return f"…{id_[-SHOWN_CHARACTERS:]}" if is_terminal() else id_


class Waiting:
    """What is waited for, on stderr: on a terminal a line that changes, after half a second; else a line every 10 s."""

    def __init__(self) -> None:
        self._is_terminal = is_terminal(err=True)
        self._shown_at_s = time.monotonic() + (SHOWN_AFTER_S if self._is_terminal else SHOWN_EVERY_S)
        self._shown_columns = 0

    def until_shown_s(self, most_s: float) -> float:
        """How long until there is something to show, at most so long."""
        return min(most_s, max(self._shown_at_s - time.monotonic(), MOVED_EVERY_S))

    def show(self, text: str) -> None:
        """Show it if it is time to."""
        now_s = time.monotonic()
        if now_s < self._shown_at_s:
            return
        if self._is_terminal:
            text = click.unstyle(text)[: width() - 1]
            echo(f"\r{text.ljust(self._shown_columns)}", err=True, newline=False)
            self._shown_columns = len(text)
        else:
            echo(text, err=True)
        self._shown_at_s = now_s + (MOVED_EVERY_S if self._is_terminal else SHOWN_EVERY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._shown_columns:
            echo("\r" + " " * self._shown_columns + "\r", err=True, newline=False)


def duration(ms: float) -> str:
    """A duration in the unit that suits it."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    for limit, unit_s, text in ((60, 1, "{:.1f} s"), (3600, 60, "{:.0f} min"), (172_800, 3600, "{:.0f} h")):
        if seconds < limit:
            return text.format(seconds / unit_s)
    return f"{seconds / 86_400:.0f} days"


def ahead(ms: float) -> str:
    """How long it is until something: in whole seconds where it is some."""
    return f"{ms / 1000:.0f} s" if 1_000 <= ms < 60_000 else duration(max(ms, 0))


def counted(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def bar(done: int, total: int, columns: int = 25) -> str:
    """A bar of so many columns, to an eighth of one."""
    eighths = 8 * columns * done // max(total, 1)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")).ljust(columns, "░")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width_) for cell, width_ in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([styled(lines[0], bold=True), *lines[1:]])


def clock(at: str) -> str:
    """The local time of day of an RFC 3339 time."""
    from datetime import datetime

    return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
