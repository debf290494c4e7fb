"""A history in PostgreSQL, in a schema of its own: any number of projectors write it, any number of nodes read it.

A portion is one transaction, which first locks the positions of its places and looks whether they are where it begins:
of two projectors that have read the same records, one writes them and the other learns that they are there.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from steplog.errors import ConfigInvalid, HistoryUnavailable
from steplog.history import schema
from steplog.history.position import Position
from steplog.history.projection import Row, project
from steplog.history.source import Portion, Source
from steplog.history.statements import STATEMENTS, Statement
from steplog.history.store import Read, Values
from steplog.paths import HIDDEN, masked

try:
    import psycopg
    from psycopg import sql
    from psycopg.rows import dict_row, tuple_row
except ImportError as error:
    raise ConfigInvalid(
        "[history]", ["url is in PostgreSQL, whose driver is not installed: pip install 'steplog[postgres]'"]
    ) from error

SCHEMA = "steplog"
CONNECT_S = 5
ANSWER_S = 10  # of one statement that reads
WRITE_S = 60  # of one that writes: a portion may be megabytes
SILENT_MS = 10_000  # a server that does not even acknowledge is gone
POLL_S = 0.02
AWAY_S = 1.0  # after a failure, reads fail for so long without trying
FEW = 16  # rows that are quicker sent one by one than copied
LOCK = 0x73_74_65_70_6C_6F_67  # "steplog": held while the tables are made

ESCAPE = "\x1a"

T = TypeVar("T")


class Database:
    """Where a history is: ``postgresql://…``, in the schema that the parameter ``schema`` names, else ``steplog``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query))
        self.schema = parameters.pop("schema", SCHEMA)
        self.name = masked(url)
        self._password = parts.password or HIDDEN
        self._url = urlunsplit(parts._replace(query=urlencode(parameters)))

    def connect(self) -> "psycopg.Connection[Values]":
        """Open a connection whose tables are the history's."""
        connection = psycopg.connect(
            self._url, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row,
            connect_timeout=CONNECT_S, tcp_user_timeout=SILENT_MS, keepalives_idle=SILENT_MS // 1000,
            fallback_application_name="steplog history",
        )  # fmt: skip
        try:
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
            connection.execute(f"SET statement_timeout = '{ANSWER_S}s'")
            connection.execute("SET idle_in_transaction_session_timeout = '60s'")
            connection.execute("SET jit = off")  # it takes longer than what it speeds up
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """Turn PostgreSQL's errors into ours."""
        try:
            yield
        except psycopg.Error as error:
            reason = str(error).strip().partition("\n")[0].replace(self._password, HIDDEN) or type(error).__name__
            raise HistoryUnavailable(f"the history at {self.name} cannot be used: {reason}") from error


class PostgresStore:
    """The history, to write it. Connects when it is needed, and again after a failure."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self.name = self._database.name
        self._connection: psycopg.Connection[Values] | None = None
        self._source_id = ""

    def prepare(self, source: Source) -> None:
        self._source_id = source.log_id

        def made(connection: "psycopg.Connection[Values]") -> None:
            connection.execute("SELECT pg_advisory_xact_lock($1)", (LOCK,))
            _make(connection, self._database.schema, source, self.name)

        self._transact(made)

    def position(self) -> Position:
        return self._transact(lambda connection: _positions(connection.execute(_POSITIONS).fetchall()))

    def commit(self, portion: Portion) -> Position:
        places = sorted(portion.position.numbers)

        def written(connection: "psycopg.Connection[Values]") -> Position:
            self._check(connection)
            connection.execute(_NEW_POSITIONS, (places,))
            locked = _positions(connection.execute(_LOCKED_POSITIONS, (places,)).fetchall())
            if all(locked.number(place) == portion.start.number(place) for place in places):
                project(PostgresWriter(connection), portion.turns)
                connection.execute(_MOVE_POSITIONS, (places, [portion.position.numbers[place] for place in places]))
            return _positions(connection.execute(_POSITIONS).fetchall())

        return self._transact(written)

    def close(self) -> None:
        self._drop()

    def _check(self, connection: "psycopg.Connection[Values]") -> None:
        found = connection.execute("SELECT log_id, schema FROM meta").fetchone()
        if found is None or (found["log_id"], found["schema"]) != (self._source_id, schema.VERSION):
            raise HistoryUnavailable(f"the history at {self.name} has become that of another log or version")

    def _transact(self, body: "Callable[[psycopg.Connection[Values]], T]") -> T:
        """Do something in one transaction. After a failure nothing is known of the connection: it is closed."""
        try:
            with self._database.unavailable():
                connection = self._connected()
                with connection.transaction():
                    return body(connection)
        except BaseException:
            self._drop()
            raise

    def _connected(self) -> "psycopg.Connection[Values]":
        if self._connection is None:
            self._connection = connection = self._database.connect()
            connection.execute(f"SET statement_timeout = '{WRITE_S}s'")
            # rows and positions are lost together, where the server crashes, and then written again
            connection.execute("SET synchronous_commit = off")
            connection.execute("SET enable_hashjoin = off")  # nothing is known of what was just copied: by index always
            connection.execute("SET enable_mergejoin = off")
            for statement in STATEMENTS:
                connection.execute(statement.stage())
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


class PostgresWriter:
    """A transaction that is open."""

    unfit: tuple[type[Exception], ...] = (
        psycopg.IntegrityError, psycopg.DataError, psycopg.errors.CardinalityViolation,
        psycopg.errors.ProgramLimitExceeded, OverflowError, ValueError,
    )  # fmt: skip

    def __init__(self, connection: "psycopg.Connection[Values]") -> None:
        self._connection = connection
        self._staged: set[str] = set()  # what was copied is there until the transaction ends

    def execute(self, statement: str) -> object:
        return self._connection.execute(statement)

    def write(self, statement: Statement, rows: Sequence[Row]) -> None:
        if any("\0" in value or ESCAPE in value for row in rows for value in row if isinstance(value, str)):
            rows = [_escaped(row) for row in rows]
        with self._connection.cursor() as cursor:
            if len(rows) <= FEW or statement.name in self._staged:
                cursor.executemany(statement.postgres, rows)
                return
            self._staged.add(statement.name)
            with cursor.copy(f"COPY staged_{statement.name} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(statement.postgres_staged)


class PostgresReader:
    """The history, to read it: a connection for each thread that reads at the same time."""

    poll_s = POLL_S

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self.name = self._database.name
        self._idle: list[psycopg.Connection[Values]] = []
        self._lock = threading.Lock()
        self._away_until_s, self._away_reason = 0.0, ""

    @contextmanager
    def reading(self) -> Iterator[Read]:
        if time.monotonic() < self._away_until_s:
            raise HistoryUnavailable(self._away_reason)
        connection: psycopg.Connection[Values] | None = None
        try:
            with self._database.unavailable():
                connection = self._taken()
                with connection.transaction():
                    yield _reading_of(connection)
        except HistoryUnavailable as error:
            if connection is None or connection.closed:
                self._away_until_s, self._away_reason = time.monotonic() + AWAY_S, str(error)
                self.close()  # the others are of the same server
            raise
        finally:
            if connection is not None and not connection.closed:
                with self._lock:
                    self._idle.append(connection)

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _taken(self) -> "psycopg.Connection[Values]":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = self._database.connect()
        connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
        return connection


def _reading_of(connection: "psycopg.Connection[Values]") -> Read:
    def read(query: str, values: Sequence[str | int] = ()) -> list[Values]:
        first, *parts = query.split("?")
        numbered = first + "".join([f"${n}{part}" for n, part in enumerate(parts, 1)])
        rows = connection.execute(numbered, _escaped(values)).fetchall()
        for row in rows:
            for column, value in row.items():
                if isinstance(value, str) and ESCAPE in value:
                    row[column] = value.replace(f"{ESCAPE}0", "\0").replace(f"{ESCAPE}1", ESCAPE)
        return rows

    return read


def _escaped(row: Sequence[str | int | None]) -> Row:
    """Write U+0000, which PostgreSQL has in no text, with another character before it that nobody uses."""
    return tuple([_escaped_text(value) if isinstance(value, str) else value for value in row])


def _escaped_text(text: str) -> str:
    return text.replace(ESCAPE, f"{ESCAPE}1").replace("\0", f"{ESCAPE}0")


def _positions(rows: list[Values]) -> Position:
    return Position.of({row["place"]: row["position"] for row in rows})


def _make(connection: "psycopg.Connection[Values]", name: str, source: Source, shown: str) -> None:
    """Make the schema and its tables, where they are not those of this log and version."""
    (is_there,) = _row(connection, "SELECT to_regnamespace($1) IS NOT NULL", (sql.Identifier(name).as_string(None),))
    if not is_there:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    (is_made,) = _row(connection, "SELECT to_regclass('meta') IS NOT NULL")
    if is_made:
        log_id, version = _row(connection, "SELECT log_id, schema FROM meta")
        if log_id != source.log_id:
            raise HistoryUnavailable(
                f"the history at {shown} is of another log ({log_id}, this one is {source.log_id}); give each log a "
                f"schema of its own, as in postgresql://…?schema=NAME, or drop it: DROP SCHEMA {name} CASCADE"
            )
        if version > schema.VERSION:
            raise HistoryUnavailable(
                f"the history at {shown} was made by a newer steplog (version {version}, this one makes "
                f"{schema.VERSION})"
            )
        if version == schema.VERSION and source.has_come_to(_positions(connection.execute(_POSITIONS).fetchall())):
            return
        for table in (*schema.TABLES, "dead", "positions", "meta"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
    for table, columns in (*schema.TABLES.items(), ("dead", schema.DEAD), ("positions", schema.POSITIONS),
                           ("meta", schema.META)):  # fmt: skip
        connection.execute(f"CREATE TABLE {table} ({_typed(columns)})")
    for statement in schema.INDEXES:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ($1, $2)", (source.log_id, schema.VERSION))


def _row(connection: "psycopg.Connection[Values]", query: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query, values).fetchone()
    assert row is not None, "the query has a row"
    return row


def _typed(columns: str) -> str:
    """Columns as PostgreSQL has them. Texts are in the order of their bytes, as ids and cursors need it."""
    return columns.replace("INTEGER", "BIGINT").replace("TEXT", 'TEXT COLLATE "C"')


_POSITIONS = "SELECT place, position FROM positions"
_NEW_POSITIONS = "INSERT INTO positions SELECT place, 0 FROM unnest($1::text[]) AS place ON CONFLICT DO NOTHING"
_LOCKED_POSITIONS = "SELECT place, position FROM positions WHERE place = ANY($1::text[]) ORDER BY place FOR UPDATE"
_MOVE_POSITIONS = """
    UPDATE positions AS p SET position = n.position
    FROM unnest($1::text[], $2::bigint[]) AS n (place, position) WHERE p.place = n.place"""
