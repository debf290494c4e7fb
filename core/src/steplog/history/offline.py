"""A history for reading where no server runs: the file as it is, and the rest of the log on top of it.

What came to the log after the file's position is projected into a private temporary database, which takes copies of the
runs it goes on with; views put the two together. So the file is neither written nor copied, however large it is, and
without one the whole log is projected. Both may be written meanwhile: what is read is of the moment of opening.
"""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from steplog.engine.records import EventRouted
from steplog.history import schema
from steplog.history.journal import TurnRecords
from steplog.history.position import Position
from steplog.history.projection import project
from steplog.history.queries import History, open_history
from steplog.history.source import Portion, Source, open_source
from steplog.history.sqlite import (
    SqliteReader,
    SqliteWriter,
    create_tables,
    read_meta,
    read_only,
    read_position,
    unavailable,
    write_position,
)
from steplog.paths import file_path, is_postgres

ARRIVING_S = 0.005


def open_offline(log: str, history: str) -> History:
    """Open a log's history, complete up to now, by their addresses.

    One in PostgreSQL is read as it is: whoever runs the log keeps it up to date. Raises ``LogUnavailable`` where the
    log cannot be read, ``HistoryUnavailable`` where the history cannot.
    """
    if is_postgres(history):
        return open_history(history)
    source, path = open_source(log), file_path(history)
    try:
        connection = sqlite3.connect("", uri=True, isolation_level=None, check_same_thread=False)
        try:
            with unavailable(path):
                _put_together(connection, source, path)
        except BaseException:
            connection.close()
            raise
    finally:
        source.close()
    return History(SqliteReader(path, connection))


def portions(source: Source, after: Position) -> Iterator[Portion]:
    """Read a log from a position to where it ends now."""
    target = source.end()
    while not after.covers(target):
        portion = source.read(after)
        if portion is None:
            time.sleep(ARRIVING_S)
            continue
        after = after.joined(portion.position)
        yield portion


def _put_together(connection: sqlite3.Connection, source: Source, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = MEMORY")
    create_tables(connection, source.log_id)
    position = _attach(connection, path, source)
    is_attached, writer = position is not None, SqliteWriter(connection)
    reached = position or Position()
    for portion in portions(source, reached):
        if is_attached:
            _copy(connection, portion.turns)
        project(writer, portion.turns)
        reached = reached.joined(portion.position)
    write_position(connection, reached)
    for view in _VIEWS if is_attached else ():
        connection.execute(view)


def _attach(connection: sqlite3.Connection, path: Path, source: Source) -> Position | None:
    """Open the file, and a transaction that sees it as it is now; return its position, None where it is of no use."""
    if path.exists():
        connection.execute("ATTACH ? AS disk", (read_only(path),))
        connection.execute("BEGIN")
        found = read_meta(connection, "disk")
        if found is not None and (found.log_id, found.version) == (source.log_id, schema.VERSION):
            position = read_position(connection, "disk")
            if source.has_come_to(position):
                return position
        connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    return None


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
    """CREATE TEMP VIEW routings AS SELECT * FROM disk.routings UNION ALL
        SELECT * FROM main.routings AS m WHERE NOT EXISTS (SELECT 1 FROM disk.routings AS d WHERE d.event = m.event)""",
    """CREATE TEMP VIEW functions AS SELECT env, function, app, sum(runs) AS runs
        FROM (SELECT * FROM main.functions UNION ALL SELECT * FROM disk.functions) GROUP BY env, function""",
    "CREATE TEMP VIEW dead AS SELECT * FROM main.dead UNION ALL SELECT * FROM disk.dead",
)
