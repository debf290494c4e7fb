"""A history in a SQLite file: one process writes it, others read it meanwhile."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from steplog.errors import HistoryUnavailable
from steplog.history import schema
from steplog.history.position import Position
from steplog.history.projection import Row, project
from steplog.history.source import Portion, Source
from steplog.history.statements import Statement
from steplog.history.store import Read, Values

BUSY_S = 5.0
POLL_S = 0.005
PAGE_BYTES = 8192  # a tenth less CPU time than 4096: rows are large


class SqliteStore:
    """The file, to write it. It can always be made again, so a commit does not wait for the disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._log_id = ""
        with unavailable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._writer = SqliteWriter(self._connection)
            try:
                self._connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                self._connection.close()
                raise

    def prepare(self, source: Source) -> None:
        self._log_id = source.log_id
        with unavailable(self.path), self._transaction():
            found = read_meta(self._connection)
            fits = found is not None and (found.log_id, found.version) == (self._log_id, schema.VERSION)
            if not fits or not source.has_come_to(read_position(self._connection)):
                drop_tables(self._connection)
                create_tables(self._connection, self._log_id)

    def position(self) -> Position:
        with unavailable(self.path):
            return read_position(self._connection)

    def commit(self, portion: Portion) -> Position:
        with unavailable(self.path), self._transaction():
            found = read_meta(self._connection)
            if found is None or found.log_id != self._log_id:
                raise HistoryUnavailable(f"{self.path} has become the history of another log")
            stored = read_position(self._connection)
            if any(stored.number(place) != portion.start.number(place) for place in portion.position.numbers):
                return stored
            project(self._writer, portion.turns)
            write_position(self._connection, portion.position)
            return stored.joined(portion.position)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise


class SqliteWriter:
    """A transaction that is open."""

    unfit: tuple[type[Exception], ...] = (
        sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError, ValueError,
    )  # fmt: skip

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self._executemany = connection.executemany

    def write(self, statement: Statement, rows: Sequence[Row]) -> None:
        self._executemany(statement.sqlite, rows)


class SqliteReader:
    """The file, to read it."""

    poll_s = POLL_S

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.name = path, str(path)
        self._connection = connection
        self._lock = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[Read]:
        connection = self._connection
        with self._lock, unavailable(self.path):
            if connection.in_transaction:  # opened for one moment as a whole
                yield self._read
                return
            connection.execute("BEGIN")
            try:
                yield self._read
            finally:
                connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _read(self, query: str, values: Sequence[str | int] = ()) -> list[Values]:
        cursor = self._connection.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class Meta(NamedTuple):
    """What a history is of."""

    log_id: str
    version: int


def read_meta(connection: sqlite3.Connection, database: str = "main") -> Meta | None:
    """Read what a history is of; None where the file has no tables yet, or those of another version."""
    names = {name for (name,) in connection.execute(f"SELECT name FROM {database}.sqlite_schema")}  # noqa: S608 - ours
    if not {"meta", "positions"} <= names:
        return None
    return Meta(*connection.execute(f"SELECT log_id, schema FROM {database}.meta").fetchone())  # noqa: S608


def read_position(connection: sqlite3.Connection, database: str = "main") -> Position:
    """Read how far a history is."""
    return Position.of(dict(connection.execute(f"SELECT place, position FROM {database}.positions").fetchall()))  # noqa: S608


def write_position(connection: sqlite3.Connection, position: Position) -> None:
    """Write how far a history is, in some places."""
    connection.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", list(position.numbers.items()))


def create_tables(connection: sqlite3.Connection, log_id: str) -> None:
    """Make the tables, without rows."""
    for name, columns in schema.TABLES.items():
        connection.execute(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID")
    connection.execute(f"CREATE TABLE dead ({schema.DEAD})")
    connection.execute(f"CREATE TABLE positions ({schema.POSITIONS}) WITHOUT ROWID")
    connection.execute(f"CREATE TABLE meta ({schema.META})")
    for statement in schema.INDEXES:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, ?)", (log_id, schema.VERSION))


def drop_tables(connection: sqlite3.Connection) -> None:
    """Drop every table of the file, of whatever version."""
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (name,) in names:
        connection.execute(f'DROP TABLE "{name}"')


def open_reading(path: Path) -> sqlite3.Connection:
    """Open a history that another process may be writing."""
    if not path.exists():
        raise HistoryUnavailable(f"{path} does not exist; steplog dev or start make it")
    with unavailable(path):
        return sqlite3.connect(read_only(path), uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def read_only(path: Path) -> str:
    """The address that opens a file without writing to it."""
    return f"{path.absolute().as_uri()}?mode=ro"


@contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise HistoryUnavailable(
                f"{path} is not a history, or is damaged; move it away and it is made again from the log"
            ) from error
        raise HistoryUnavailable(f"{path}: {error}") from error
    except OSError as error:
        raise HistoryUnavailable(f"{path}: {error.strerror or error}") from error
