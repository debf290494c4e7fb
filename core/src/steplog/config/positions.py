"""The line of each key of a TOML file, for messages.

``tomllib`` gives none. A file is a sequence of statements, each of which is TOML by itself: lines are added to a
statement until ``tomllib`` takes it, so this knows no more of TOML's grammar than that. Values never come from here.
"""

import tomllib
from collections.abc import Iterator, Mapping

MOST_LINES = 500  # of one statement; past that it and what follows have no line
CLOSING = ("]", "}", '"""', "'''")  # a statement of several lines ends on one that has one of these

KeyPath = tuple[str, ...]


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Find the first line of each key and table of a text that is TOML: ``{("log", "url"): 4}``."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    statement: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not statement and (not line.strip() or line.lstrip().startswith("#")):
            continue
        statement.append(line)
        if len(statement) > 1 and not any(mark in line for mark in CLOSING):
            continue
        try:
            parsed = tomllib.loads("\n".join(statement))
        except tomllib.TOMLDecodeError:
            if len(statement) >= MOST_LINES:
                break
            continue
        first = number - len(statement) + 1
        paths = list(_paths(parsed))
        if statement[0].lstrip().startswith("["):
            table = paths[-1]
            paths = [table[:length] for length in range(1, len(table) + 1)]
        else:
            paths = [table + path for path in paths]
        for path in paths:
            lines.setdefault(path, first)
        statement = []
    return lines


def _paths(value: object) -> Iterator[KeyPath]:
    if isinstance(value, list) and len(value) == 1:  # [[table]]
        value = value[0]
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(below))
