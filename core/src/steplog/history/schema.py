"""The tables of the history, the same in SQLite and PostgreSQL.

Every row carries its environment, and every time is in milliseconds UTC. ``positions`` move in the transaction that
writes the rows of the records up to them. Ids are text as printed, and JSON is text as it was recorded, of which
``jsonb`` cannot hold all: so plain SQL over the tables is readable, and no value changes on its way.
"""

VERSION = 5  # of the tables and of what is projected into them; raised with either, and the history is made again

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
        "user" TEXT,                  -- JSON
        data TEXT NOT NULL,           -- JSON
        is_duplicate INTEGER NOT NULL,
        runs TEXT,                    -- JSON: [{run, function}]; NULL: what became of it is in ``routings``
        skipped TEXT NOT NULL,        -- JSON: [{function, reason}]
        resumed TEXT NOT NULL         -- JSON: [{run, step}], whose wait it has ended
    """,
    "routings": """
        event TEXT PRIMARY KEY,       -- what became of it, where that was not read with it (on Kafka)
        env TEXT NOT NULL,
        is_duplicate INTEGER NOT NULL,
        runs TEXT NOT NULL,
        skipped TEXT NOT NULL,
        resumed TEXT NOT NULL
    """,
    "functions": """
        env TEXT NOT NULL,
        function TEXT NOT NULL,
        app TEXT NOT NULL,
        runs INTEGER NOT NULL,        -- scheduled so far
        PRIMARY KEY (env, function)
    """,
}
DEAD = "position INTEGER, source TEXT, env TEXT, reason TEXT, data TEXT, partition INTEGER"
POSITIONS = "place TEXT PRIMARY KEY, position INTEGER NOT NULL"
META = "log_id TEXT, schema INTEGER"
INDEXES = (
    "CREATE INDEX runs_function ON runs (function, id)",
    f"CREATE INDEX runs_open ON runs (state, id, function, env) WHERE {OPEN_RUN}",
    f"CREATE INDEX steps_open ON steps (run) WHERE {OPEN_STEP}",
    "CREATE INDEX events_name ON events (name, internal_id)",
)
