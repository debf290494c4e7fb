"""Where a history is kept: the port that the projector writes, and the one that queries read."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from steplog.history.position import Position
from steplog.history.source import Portion, Source
from steplog.paths import file_path, is_postgres

Values = dict[str, Any]  # a row, by column
Read = Callable[..., list[Values]]  # of a statement with ``?`` for each value, and the values


class Store(Protocol):
    """A history to write. Its methods raise ``HistoryUnavailable``."""

    name: str  # to print: without a password

    def prepare(self, source: Source) -> None:
        """Make the tables where they are not those of this log and version."""
        ...

    def position(self) -> Position:
        """Everything up to here is in the history."""
        ...

    def commit(self, portion: Portion) -> Position:
        """Write what a portion does, with its position, and return the position that the history has then.

        Nothing is written where the history is not at the portion's start: another projector was faster.
        """
        ...

    def close(self) -> None: ...


class Reader(Protocol):
    """A history to read, from any thread."""

    name: str  # to print: without a password
    poll_s: float  # how often to look whether it has come to a position

    def reading(self) -> AbstractContextManager[Read]:
        """Read in one transaction, so that all that is read is of one moment. Raises ``HistoryUnavailable``."""
        ...

    def close(self) -> None: ...


def open_store(history: str) -> Store:
    """Open a history to write it, by its address: ``sqlite:PATH`` or ``postgresql://…``."""
    if is_postgres(history):
        from steplog.history.postgres import PostgresStore

        return PostgresStore(history)
    from steplog.history.sqlite import SqliteStore

    return SqliteStore(file_path(history))


def open_reader(history: str) -> Reader:
    """Open a history that another process writes, by its address."""
    if is_postgres(history):
        from steplog.history.postgres import PostgresReader

        return PostgresReader(history)
    from steplog.history.sqlite import SqliteReader, open_reading

    path = file_path(history)
    return SqliteReader(path, open_reading(path))
