"""The state's table in a SQLite file: every row with the CRC-32 of its key and value, checked when it is read."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from zlib import crc32

from steplog.engine import keys
from steplog.errors import LogCorrupt, LogUnavailable

TABLE = "CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
_SIZES = (128, 32, 8, 4, 2, 1)  # rows a statement; few sizes, so that their statements stay prepared
_DELETE = {n: f"DELETE FROM state WHERE key IN ({', '.join('?' * n)})" for n in _SIZES}  # noqa: S608 - ours
_REPLACE = {n: f"INSERT OR REPLACE INTO state VALUES {', '.join(['(?, ?, ?)'] * n)}" for n in _SIZES}  # noqa: S608
_READ = {
    n: "WITH wanted(n, first, last) AS (VALUES "  # noqa: S608
    + ", ".join([f"({i}, ?, ?)" for i in range(n)])
    + ") SELECT n, key, value, crc FROM wanted CROSS JOIN state WHERE key >= first AND key < last ORDER BY n, key"
    for n in _SIZES
}


class SqliteTable:
    """The state table, read by the writer's own connection."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def get(self, key: bytes) -> bytes | None:
        with foreign(self._path):
            row = self._connection.execute("SELECT value, crc FROM state WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._checked(key, *row)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        query = "SELECT key, value, crc FROM state WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        with foreign(self._path):
            rows = self._connection.execute(query, (start, stop, limit)).fetchall()
        return [(key, self._checked(key, value, crc)) for key, value, crc in rows]

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        query = "SELECT key FROM state WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        with foreign(self._path):
            return [key for (key,) in self._connection.execute(query, (start, stop, limit))]

    def read(self, prefixes: Sequence[bytes]) -> list[list[tuple[bytes, bytes]]]:
        found: list[list[tuple[bytes, bytes]]] = [[] for _ in prefixes]
        for first, count in _pieces(len(prefixes)):
            bounds = [bound for p in prefixes[first : first + count] for bound in (p, keys.after(p))]
            with foreign(self._path):
                rows = self._connection.execute(_READ[count], bounds).fetchall()
            for n, key, value, crc in rows:
                found[first + n].append((key, self._checked(key, value, crc)))
        return found

    def _checked(self, key: bytes, value: bytes, crc: int) -> bytes:
        try:
            if crc32(value, crc32(key)) == crc:
                return value
        except TypeError:  # not even bytes any more
            pass
        raise LogCorrupt(str(self._path), f"the state of {named(key)}")


def write_table(connection: sqlite3.Connection, pairs: list[tuple[bytes, bytes | None]]) -> None:
    """Write many rows with few statements: the GIL goes away and comes back around each row of ``executemany``."""
    execute = connection.execute
    gone = [key for key, value in pairs if value is None]
    for first, count in _pieces(len(gone)):
        execute(_DELETE[count], gone[first : first + count])
    kept = [(key, value, crc32(value, crc32(key))) for key, value in pairs if value is not None]
    for first, count in _pieces(len(kept)):
        execute(_REPLACE[count], [field for row in kept[first : first + count] for field in row])


def fits(data: object, crc: object, key: bytes) -> bool:
    """Whether a row is as it was written. A damaged one may be of any type."""
    return isinstance(data, bytes) and crc32(data, crc32(key)) == crc


def named(key: object) -> str:
    """A key in words, also one that is damaged."""
    try:
        assert isinstance(key, bytes), "not even bytes"
        return keys.printed(key)
    except (AssertionError, LookupError, ValueError):
        return repr(key)


class foreign:  # noqa: N801 - reads as a statement
    """Turn SQLite's errors into ours, at the port. ``sqlite3`` cannot even decode some that quote a damaged page."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not isinstance(error, sqlite3.Error | UnicodeDecodeError):
            return
        name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")  # without: what it read is not the type it was
        if name == "SQLITE_NOTADB" or name.startswith("SQLITE_CORRUPT"):
            raise LogCorrupt(str(self._path), "the file (it is not, or no longer, a SQLite database)") from error
        raise LogUnavailable(f"{self._path}: {error}") from error


def _pieces(total: int) -> Iterator[tuple[int, int]]:
    """Cut a number of rows into (first, count), with counts that there are statements for."""
    first = 0
    for size in _SIZES:
        while total - first >= size:
            yield first, size
            first += size


def open_table(path: Path) -> tuple[sqlite3.Connection, SqliteTable]:
    """Open a file that holds a table and may be lost: nothing waits for the disk."""
    with foreign(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        except BaseException:
            connection.close()
            raise
    return connection, SqliteTable(connection, path)
