"""Dead letters in a SQLite file of their own, beside a log that is a file. Several processes may use it at once."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from steplog.dead.letters import Entry, Letter
from steplog.errors import LogUnavailable
from steplog.kafka_record import Headers

BUSY_S = 5.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS letters (
    id TEXT PRIMARY KEY, connector TEXT, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    incarnation TEXT NOT NULL, key BLOB, value BLOB, headers BLOB NOT NULL, timestamp_ms INTEGER,
    reason TEXT NOT NULL, parked_ms INTEGER NOT NULL, state TEXT NOT NULL, behind TEXT
) WITHOUT ROWID"""
_ENTRY = 'connector, topic, partition, "offset", incarnation, key, reason, parked_ms, state, behind'
_PARK = f"INSERT OR REPLACE INTO letters VALUES ({', '.join('?' * 14)})"  # noqa: S608 - ours
_ORDER = "ifnull(connector, ''), topic, partition, \"offset\""
_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode


class SqliteDeadLetters:
    """The letters in a file (``DeadLetters``), which is made with the first of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version = -1

    def entries(self) -> list[Entry]:
        if not self._path.exists():
            return []
        with self._open() as connection:
            self._version = _version(connection)
            rows = connection.execute(f"SELECT {_ENTRY} FROM letters ORDER BY {_ORDER}")  # noqa: S608 - ours
            return [_entry(row) for row in rows]

    def find(self, id_: str) -> Letter | None:
        if not self._path.exists():
            return None
        with self._open() as connection:
            query = f"SELECT {_ENTRY}, value, headers, timestamp_ms FROM letters WHERE id = ?"  # noqa: S608 - ours
            row = connection.execute(query, (id_,)).fetchone()
        if row is None:
            return None
        *entry, value, headers, timestamp_ms = row
        return Letter(
            entry=_entry(tuple(entry)), value=value, headers=_decode_headers(headers), timestamp_ms=timestamp_ms
        )

    def park(self, letters: Sequence[Letter]) -> None:
        rows = [
            (
                e.id, e.connector, e.topic, e.partition, e.offset, e.incarnation, e.key, letter.value,
                _encode_headers(letter.headers), letter.timestamp_ms, e.reason, e.parked_ms, e.state, e.behind,
            )
            for letter in letters
            for e in (letter.entry,)
        ]  # fmt: skip
        with self._open() as connection:
            connection.executemany(_PARK, rows)

    def retry(self, ids: Sequence[str]) -> None:
        with self._open() as connection:
            connection.executemany("UPDATE letters SET state = 'retry' WHERE id = ?", [(id_,) for id_ in ids])

    def drop(self, ids: Sequence[str]) -> None:
        with self._open() as connection:
            connection.executemany("DELETE FROM letters WHERE id = ?", [(id_,) for id_ in ids])

    def has_changed(self) -> bool:
        if not self._path.exists():
            return False
        with self._open() as connection:
            return _version(connection) != self._version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction."""
        try:
            if self._connection is None:
                connection = sqlite3.connect(self._path, BUSY_S, check_same_thread=False)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_SCHEMA)
                self._connection = connection
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise LogUnavailable(f"{self._path}: the dead letters cannot be read or written: {error}") from error


def _version(connection: sqlite3.Connection) -> int:
    """Another number after a change by another connection."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _entry(row: tuple[object, ...]) -> Entry:
    names = ("connector", "topic", "partition", "offset", "incarnation", "key", "reason", "parked_ms", "state")
    return msgspec.convert(dict(zip((*names, "behind"), row, strict=True)), Entry)
