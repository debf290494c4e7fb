"""What commands print: results on stdout, everything else on stderr; plain text where there is no terminal."""

import os
import shutil
import sys
from collections.abc import Sequence

import click

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
        text = text.translate(_ASCII)
    click.echo(text, err=err, nl=newline, color=_color)


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


def duration(ms: float) -> str:
    """A duration in the unit that suits it."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    for limit, unit_s, text in ((60, 1, "{:.1f} s"), (3600, 60, "{:.0f} min"), (172_800, 3600, "{:.0f} h")):
        if seconds < limit:
            return text.format(seconds / unit_s)
    return f"{seconds / 86_400:.0f} days"


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
