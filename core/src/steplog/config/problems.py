"""What is wrong with a configuration, and where: every problem at once (docs/errors.md, ``config_invalid``)."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from steplog.errors import ConfigInvalid

Kind = Literal["file", "environment", "flag"]


class Place(msgspec.Struct, frozen=True):
    """Where something was written: a file with a line, a variable, or a flag."""

    name: str
    kind: Kind
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that cannot work, and what to do."""

    problem: str
    place: Place | None = None
    key: str = ""
    value: str = ""  # as it was written; empty for a secret, and where nothing was written

    @property
    def what(self) -> str:
        """The key with its value."""
        return f"{self.key} = {self.value}" if self.value else self.key


def refuse(problems: Sequence[Problem], otherwise: str) -> None:
    """Raise ``ConfigInvalid`` where there are problems. ``otherwise`` names what has no place."""
    if problems:
        raise ConfigInvalid(_source(problems, otherwise), _aligned(in_order(problems)))


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Problems of one file by line, in the order in which files, variables and flags come."""
    names = list(dict.fromkeys(_name(problem) for problem in problems))
    return sorted(problems, key=lambda each: (names.index(_name(each)), (each.place and each.place.line) or 0))


def _source(problems: Sequence[Problem], otherwise: str) -> str:
    """Where the problems are: ``steplog.toml and the environment``."""
    *others, last = dict.fromkeys(_name(problem) or otherwise for problem in problems)
    return f"{', '.join(others)} and {last}" if others else last


def _aligned(problems: Sequence[Problem]) -> list[str]:
    """Write problems in columns: place, key, problem."""
    rows = [(str(each.place or ""), each.what, each.problem) for each in problems]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 1), strict=True) if width) for row in rows
    ]


def _name(problem: Problem) -> str:
    names = {"environment": "the environment", "flag": "the command line"}
    return "" if problem.place is None else names.get(problem.place.kind, problem.place.name)
