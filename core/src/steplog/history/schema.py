"""The tables of the history, and how its file is opened.

Every row carries its environment, and every time is in milliseconds UTC. ``meta.position`` moves in the transaction
that writes the rows of the turns up to it. Ids are text as printed, so that plain SQL over the file is readable.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from steplog.errors import LogUnavailable

VERSION = 4  # of the tables and of what is projected into them; raised with either, and the history is made again
BUSY_S = 5.0
PAGE_BYTES = 8192  # a tenth less CPU time than 4096: rows are large

OPEN_STEP = "state IN ('waiting', 'errored')"  # word for word in queries that want the index
OPEN_RUN = "state <> 'completed'"  # likewise; failed ones are in that index too: they are looked for, and few

TABLES = {
    "runs": """
        id TEXT PRIMARY KEY,
        env TEXT NOT NULL,
        function TEXT NOT NULL,
        app TEXT NOT NULL,
        version TEXT,                 -- the app's
        function_version INTEGER NOT NULL,
        events TEXT NOT NULL,         -- JSON: internal ids of what triggered it
        state TEXT NOT NULL,          -- scheduled | queued | running | waiting | completed | failed
        scheduled_ms INTEGER NOT NULL,
        due_ms INTEGER,               -- it starts then, where its event lay in the future
        started_ms INTEGER,
        ended_ms INTEGER,
        generation INTEGER NOT NULL,  -- dispatches so far
        retry_at_ms INTEGER,          -- of the function's own code
        output TEXT,                  -- JSON
        error TEXT,                   -- JSON: name, message, stack, cause
        steps TEXT NOT NULL           -- JSON: [[id, name, op, attempt, seq, started_ms, ended_ms, output]] of a run
                                      -- that began and ended at once; of others they are in ``steps``
    """,
    "steps": """
        run TEXT NOT NULL,
        id TEXT NOT NULL,             -- the wire's: SHA-1 of the step's id
        env TEXT NOT NULL,
        name TEXT NOT NULL,
        op TEXT NOT NULL,
        state TEXT NOT NULL,          -- waiting | errored | completed | failed
        attempt INTEGER NOT NULL,     -- the last one, counted from 0
        seq INTEGER NOT NULL,         -- of its first record
        started_ms INTEGER NOT NULL,  -- of the first attempt, or of the wait
        ended_ms INTEGER,             -- of the last attempt, or of the wait
        until_ms INTEGER,             -- of a wait
        retry_at_ms INTEGER,
        output TEXT,
        error TEXT,
        waits_for TEXT,               -- JSON: events, all, expression | signal | function, child
        PRIMARY KEY (run, id)
    """,
    "attempts": """
        run TEXT NOT NULL,
        seq INTEGER NOT NULL,
        env TEXT NOT NULL,
        step TEXT NOT NULL,           -- the wire's id; empty for the function's own code
        name TEXT NOT NULL,
        op TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,        -- errored | failed | completed | late
        at_ms INTEGER NOT NULL,
        started_ms INTEGER,
        ended_ms INTEGER,
        retry_at_ms INTEGER,
        max_attempts INTEGER,         -- where another one follows
        output TEXT,
        error TEXT,
        PRIMARY KEY (run, seq)
    """,
    "events": """
        internal_id TEXT PRIMARY KEY,
        env TEXT NOT NULL,
        id TEXT NOT NULL,             -- the sender's, else the internal one
        name TEXT NOT NULL,
        ts_ms INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        source TEXT NOT NULL,
        v TEXT,
        user TEXT,                    -- JSON
        data TEXT NOT NULL,           -- JSON
        is_duplicate INTEGER NOT NULL,
        runs TEXT NOT NULL,           -- JSON: [{run, function}]
        skipped TEXT NOT NULL,        -- JSON: [{function, reason}]
        resumed TEXT NOT NULL         -- JSON: [{run, step}], whose wait it has ended
    """,
    "functions": """
        env TEXT NOT NULL,
        function TEXT NOT NULL,
        app TEXT NOT NULL,
        runs INTEGER NOT NULL,        -- scheduled so far
        PRIMARY KEY (env, function)
    """,
}
_STATEMENTS = (
    *(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID" for name, columns in TABLES.items()),
    "CREATE TABLE dead (position INTEGER, source TEXT, env TEXT, reason TEXT, data TEXT)",
    "CREATE TABLE meta (position INTEGER, log_id TEXT, schema INTEGER)",
    "CREATE INDEX runs_function ON runs (function, id)",
    f"CREATE INDEX runs_open ON runs (state, id, function, env) WHERE {OPEN_RUN}",
    f"CREATE INDEX steps_open ON steps (run) WHERE {OPEN_STEP}",
    "CREATE INDEX events_name ON events (name, internal_id)",
)


class Meta(NamedTuple):
    """What a history is of."""

    position: int
    log_id: str
    version: int


def read_meta(connection: sqlite3.Connection, database: str = "main") -> Meta | None:
    """Read what a history is of; None where the file has no tables yet."""
    if connection.execute(f"SELECT 1 FROM {database}.sqlite_schema WHERE name = 'meta'").fetchone() is None:  # noqa: S608
        return None
    return Meta(*connection.execute(f"SELECT position, log_id, schema FROM {database}.meta").fetchone())  # noqa: S608


def create_tables(connection: sqlite3.Connection, log_id: str, *, position: int = 0) -> None:
    """Make the tables, without rows."""
    for statement in _STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, ?, ?)", (position, log_id, VERSION))


def drop_tables(connection: sqlite3.Connection) -> None:
    """Drop every table of the file, of whatever version."""
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (name,) in names:
        connection.execute(f'DROP TABLE "{name}"')


def open_writer(path: Path) -> sqlite3.Connection:
    """Open a history to write it. It can always be made again, so a commit does not wait for the disk."""
    with unavailable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a history that another process may be writing."""
    if not path.exists():
        raise LogUnavailable(f"{path} does not exist; steplog dev or start make it")
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
            raise LogUnavailable(
                f"{path} is not a history, or is damaged; move it away and it is made again from the log"
            ) from error
        raise LogUnavailable(f"{path}: {error}") from error
    except OSError as error:
        raise LogUnavailable(f"{path}: {error.strerror or error}") from error
