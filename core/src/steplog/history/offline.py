"""A history for reading where no server runs: the file as it is, and the rest of the journal on top of it.

The journal after the file's position is projected into a private temporary database, which takes copies of the runs it
goes on with; views put the two together. So the file is neither written nor copied, however large it is, and without
one the whole journal is projected. Both may be written meanwhile: what is read is of the moment of opening.
"""

import sqlite3
from pathlib import Path

import msgspec

from steplog.engine.records import EventRouted
from steplog.history import schema
from steplog.history.journal import Tape, TurnRecords
from steplog.history.projection import project
from steplog.history.queries import History
from steplog.log.sqlite import JournalReader


def open_offline(log_path: Path, history_path: Path) -> History:
    """Open a log's history, complete up to now. Raises ``LogUnavailable`` where the log cannot be read."""
    with JournalReader(log_path) as reader:
        connection = sqlite3.connect("", uri=True, isolation_level=None, check_same_thread=False)
        try:
            with schema.unavailable(history_path):
                _put_together(connection, reader, history_path)
        except BaseException:
            connection.close()
            raise
    return History(history_path, connection)


def _put_together(connection: sqlite3.Connection, reader: JournalReader, history_path: Path) -> None:
    connection.execute("PRAGMA journal_mode = MEMORY")
    schema.create_tables(connection, reader.log_id)
    target = reader.last_position()
    position = _attach(connection, history_path, reader.log_id, target)
    tape, is_attached = Tape(reader), position > 0
    while position < target and (batch := tape.read(position)) is not None:
        if is_attached:
            _copy(connection, batch.turns)
        project(connection, batch.turns)
        position = batch.position
    connection.execute("UPDATE meta SET position = ?", (position,))
    for view in _VIEWS if is_attached else ():
        connection.execute(view)


def _attach(connection: sqlite3.Connection, history_path: Path, log_id: str, target: int) -> int:
    """Open the file, and a transaction that sees it as it is now; return its position, or 0 where it is of no use."""
    if history_path.exists():
        connection.execute("ATTACH ? AS disk", (schema.read_only(history_path),))
        connection.execute("BEGIN")
        found = schema.read_meta(connection, "disk")
        if found is not None and (found.log_id, found.version) == (log_id, schema.VERSION) and found.position <= target:
            return found.position
        connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    return 0


def _copy(connection: sqlite3.Connection, turns: list[TurnRecords]) -> None:
    """Copy the runs that the turns go on with, with their steps, unless they were copied before."""
    runs = {record.run for turn in turns for record in turn.records if not isinstance(record, EventRouted)}
    wanted = (msgspec.json.encode(sorted(runs)).decode(),)
    for statement in _COPY:
        connection.execute(statement, wanted)


_COPY = (  # steps first: those of a run that is copied already are
    """INSERT INTO main.steps SELECT * FROM disk.steps
        WHERE run IN (SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM main.runs))""",
    "INSERT OR IGNORE INTO main.runs SELECT * FROM disk.runs WHERE id IN (SELECT value FROM json_each(?))",
)
_VIEWS = (
    """CREATE TEMP VIEW runs AS SELECT * FROM main.runs UNION ALL
        SELECT * FROM disk.runs AS d WHERE NOT EXISTS (SELECT 1 FROM main.runs AS m WHERE m.id = d.id)""",
    """CREATE TEMP VIEW steps AS SELECT * FROM main.steps UNION ALL
        SELECT * FROM disk.steps AS d WHERE NOT EXISTS (SELECT 1 FROM main.runs AS m WHERE m.id = d.run)""",
    "CREATE TEMP VIEW attempts AS SELECT * FROM main.attempts UNION ALL SELECT * FROM disk.attempts",
    """CREATE TEMP VIEW events AS SELECT * FROM disk.events UNION ALL
        SELECT * FROM main.events AS m
        WHERE NOT EXISTS (SELECT 1 FROM disk.events AS d WHERE d.internal_id = m.internal_id)""",
    """CREATE TEMP VIEW functions AS SELECT env, function, app, sum(runs) AS runs
        FROM (SELECT * FROM main.functions UNION ALL SELECT * FROM disk.functions) GROUP BY env, function""",
    "CREATE TEMP VIEW dead AS SELECT * FROM main.dead UNION ALL SELECT * FROM disk.dead",
)
