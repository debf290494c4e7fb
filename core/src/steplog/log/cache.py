"""A partition's table in a file of this machine: a copy of its part of the ``state`` topic (``log/kafka.py``).

It may be lost at any time, so nothing waits for the disk; what SQLite leaves after a crash is whole, if older.
"""

import sqlite3
from pathlib import Path

from steplog.errors import LogCorrupt, LogUnavailable
from steplog.log.table import SqliteTable, open_table, write_table


class FileCache:
    """See ``log.kafka.Cache``. ``origin`` names the cluster and the topic: the copy of another is not used."""

    def __init__(self, path: Path, origin: str) -> None:
        self.path, self._origin = path, origin
        self.offset = self.as_of_ms = 0
        try:
            self._open()
        except (LogCorrupt, LogUnavailable, sqlite3.Error):
            self._remove()
            self._open()

    @property
    def table(self) -> SqliteTable:
        return self._table

    def write(self, pairs: list[tuple[bytes, bytes | None]], offset: int, as_of_ms: int) -> None:
        execute = self._connection.execute
        if not self._connection.in_transaction:
            execute("BEGIN IMMEDIATE")
        write_table(self._connection, pairs)
        execute("UPDATE copy SET last = ?, as_of_ms = ?", (offset, as_of_ms))
        execute("COMMIT")
        self.offset, self.as_of_ms = offset, as_of_ms

    def overlay(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        write_table(self._connection, pairs)

    def uncover(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def clear(self) -> None:
        self._connection.close()
        self._remove()
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection, self._table = open_table(self.path)
        execute = self._connection.execute
        execute("CREATE TABLE IF NOT EXISTS copy (origin TEXT, last INTEGER, as_of_ms INTEGER)")
        row = execute("SELECT origin, last, as_of_ms FROM copy").fetchone()
        if row is None:
            execute("INSERT INTO copy VALUES (?, 0, 0)", (self._origin,))
            self.offset = self.as_of_ms = 0
        elif row[0] != self._origin:
            self._connection.close()
            self._remove()
            self._open()
        else:
            _, self.offset, self.as_of_ms = row

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
