"""The tables of the history, and how its file is opened.

Every row carries its environment, and every time is in milliseconds UTC. ``meta.position`` moves in the transaction that
writes the rows of the turns up to it. Ids are text as printed, so that plain SQL over the file is readable.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steplog.errors import LogUnavailable

VERSION = 1  # of the tables and of what is projected into them; raised with either, and the history is made again
BUSY_S = 5.0

OPEN_STEP = "state IN ('waiting', 'errored')"  # repeated word for word by queries that want the index
NOT_COMPLETED = "state <> 'completed'"

TABLES = {
    "runs": """
        id TEXT PRIMARY KEY,
        env TEXT NOT NULL,
        function TEXT NOT NULL,
        app TEXT NOT NULL,
        version TEXT,
        events TEXT NOT NULL,       -- JSON: internal ids of what triggered it
        state TEXT NOT NULL,        -- scheduled | queued | running | waiting | completed | failed
        scheduled_ms INTEGER NOT NULL,
        due_ms INTEGER,             -- starts then, where the event lay in the future
        started_ms INTEGER,
        ended_ms INTEGER,
        generation INTEGER NOT NULL,  -- dispatches so far
        retry_at_ms INTEGER,        -- of the function's own code
        output TEXT,                -- JSON
        error TEXT                  -- JSON: name, message, stack, cause
    """,
    "steps": """
        run TEXT NOT NULL,
        id TEXT NOT NULL,           -- the wire's
        env TEXT NOT NULL,
        name TEXT NOT NULL,
        op TEXT NOT NULL,
        state TEXT NOT NULL,        -- waiting | errored | completed | failed
        attempt INTEGER NOT NULL,   -- the last one, counted from 0
        seq INTEGER NOT NULL,       -- of its first record
        started_ms INTEGER NOT NULL,  -- of the first attempt, or of the wait
        ended_ms INTEGER,           -- of the last attempt, or of the wait
        until_ms INTEGER,           -- of a wait
        retry_at_ms INTEGER,
        output TEXT,
        error TEXT,
        PRIMARY KEY (run, id)
    """,
    "attempts": """
        run TEXT NOT NULL,
        seq INTEGER NOT NULL,
        env TEXT NOT NULL,
        step TEXT NOT NULL,         -- the wire's id; empty for the function's own code
        name TEXT NOT NULL,
        op TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,      -- errored | failed | completed | late
        at_ms INTEGER NOT NULL,
        started_ms INTEGER,
        ended_ms INTEGER,
        retry_at_ms INTEGER,
        output TEXT,
        error TEXT,
        PRIMARY KEY (run, seq)
    """,
    "events": """
        internal_id TEXT PRIMARY KEY,
        env TEXT NOT NULL,
        id TEXT NOT NULL,           -- the sender's, else the internal one
        name TEXT NOT NULL,
        ts_ms INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        source TEXT NOT NULL,
        v TEXT,
        user TEXT,                  -- JSON
        data TEXT NOT NULL,         -- JSON
        is_duplicate INTEGER NOT NULL,
        runs TEXT NOT NULL,         -- JSON: [{run, function}]
        skipped TEXT NOT NULL       -- JSON: [{function, reason}]
    """,
    "functions": """
        env TEXT NOT NULL,
        function TEXT NOT NULL,
        app TEXT NOT NULL,
        runs INTEGER NOT NULL,      -- scheduled so far
        PRIMARY KEY (env, function, app)
    """,
}
_STATEMENTS = (
    *(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID" for name, columns in TABLES.items()),
    "CREATE TABLE dead (position INTEGER NOT NULL, source TEXT NOT NULL, env TEXT NOT NULL, reason TEXT NOT NULL,"
    " data TEXT NOT NULL)",
    "CREATE TABLE meta (position INTEGER NOT NULL, log_id TEXT NOT NULL, schema INTEGER NOT NULL)",
    "CREATE INDEX runs_function ON runs (function, id)",
    f"CREATE INDEX runs_open ON runs (state, id, function, env) WHERE {NOT_COMPLETED}",
    f"CREATE INDEX steps_open ON steps (run) WHERE {OPEN_STEP}",
    "CREATE INDEX events_name ON events (name, internal_id)",
)


def create_tables(connection: sqlite3.Connection, log_id: str, position: int = 0) -> None:
    """Make the tables, without rows."""
    for statement in _STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, ?, ?)", (position, log_id, VERSION))
