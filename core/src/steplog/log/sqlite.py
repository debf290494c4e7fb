"""The log in one SQLite file: one writer, fsync on every commit, few rows whatever the turn holds.

A commit writes one redo row (every state change of the turn), one journal row and one events row (its records as JSON
arrays). The state table behind them is brought up to date in slices; replaying the redo at load closes the gap. Every
row carries the CRC-32 of its key and value, checked when it is read: SQLite does not notice a flipped byte (fault C4).

Readers (``JournalReader``) may be other processes; a second writer is refused by a lock file. A head beside the log
(``head.py``) tells when it was replaced by an older copy of itself; numbers of commits are never used again.
"""

import fcntl
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar
from zlib import crc32

import msgspec

from steplog.engine.processor import LoadedState, Turn
from steplog.engine.records import LogRestored
from steplog.engine.state import Slice
from steplog.errors import LogCorrupt, LogLocked, LogUnavailable
from steplog.log.head import Head
from steplog.log.moves import NAME, Move, decode_move, encode_move, refusal
from steplog.log.table import TABLE, SqliteTable, fits, foreign, named, write_table

logger = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 1  # PRAGMA user_version
BUSY_S = 5.0  # a reader's checkpoint lock is short
WAL_KEPT_BYTES = 16 << 20  # what is left of a WAL that a long read let grow; it holds 4 MiB otherwise
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE redo (turn INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE journal (position INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE events (position INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)",
    # A commit is one statement: sqlite3 gives the GIL away around each, and beside a busy thread it comes back late.
    "CREATE VIEW commits AS SELECT 0 turn, 0 redo, 0 redo_crc, 0 journal, 0 journal_crc, 0 events, 0 events_crc",
    """CREATE TRIGGER commit_turn INSTEAD OF INSERT ON commits BEGIN
        INSERT INTO redo VALUES (NEW.turn, NEW.redo, NEW.redo_crc);
        INSERT INTO journal SELECT NEW.turn, NEW.journal, NEW.journal_crc WHERE NEW.journal IS NOT NULL;
        INSERT INTO events SELECT NEW.turn, NEW.events, NEW.events_crc WHERE NEW.events IS NOT NULL;
    END""",
    TABLE,  # a table has to be the last: behind a view, integrity_check of SQLite 3.40 would not look for lost pages
)
_TABLES = {"redo": "turn", "journal": "position", "events": "position"}  # with their numbers
_COMMIT = "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)"
ROWS_READ = 64  # at once, of events: those of one turn may be megabytes
DAMAGED = "does not match its checksum"
_LOG_ID = re.compile("[0-9a-f]{32}")
CUT_TURNS = 64  # the redo is cut no more often than this without a slice


class _Redo(msgspec.Struct, array_like=True):
    """The value of a redo row, as msgpack."""

    now_ms: int
    changes: dict[bytes, bytes | None]


_encode_redo = msgspec.msgpack.Encoder().encode
_decode_redo = msgspec.msgpack.Decoder(_Redo).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


class SqliteLog:
    """The writer of a log file. Create it, ``load`` it once, then ``commit`` turns in order.

    Raises ``LogLocked`` where another process writes the file, ``LogCorrupt`` where a row was damaged,
    ``LogUnavailable`` where the file cannot be opened or written, and ``LogMoved`` where it is moved elsewhere, or was.
    ``is_moving``: it is opened for just that; a file that is made bears the mark ``move`` from the beginning on.
    """

    def __init__(self, path: Path, *, is_moving: bool = False, move: Move | None = None) -> None:
        self.path = path
        self._new_move = move
        self._redo_from = 0
        self._is_closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
        except OSError as error:
            raise LogUnavailable(f"{path}: {error.strerror or error}") from error
        try:
            self._connection, self._log_id = self._open()
            self._check_place(is_moving=is_moving)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            self._head = Head(path)
        except OSError as error:
            self._connection.close()
            os.close(self._lock)
            raise LogUnavailable(f"{path}: {error.strerror or error}") from error

    async def load(self) -> LoadedState:
        """Replay the redo into the table and hand out what is committed."""
        connection = self._connection
        with foreign(self.path):
            rows = connection.execute("SELECT turn, data, crc FROM redo ORDER BY turn")
            now_ms = turn = 0
            last: dict[bytes, bytes | None] = {}
            for turn, data, crc in rows:
                redo = _decoded(_decode_redo, self.path, "redo", turn, data, crc)
                now_ms = redo.now_ms
                last.update(redo.changes)
            reached = self._head.read(self._log_id)
            log_id = os.urandom(16) if reached > turn else self._log_id
            with self._transaction() as execute:
                write_table(connection, sorted(last.items()))
                if reached > turn:
                    now_ms = max(now_ms, round(time.time() * 1000))
                    self._go_on_after(turn, reached, now_ms, log_id)
                    turn = reached + 1
                execute("DELETE FROM redo WHERE turn < ?", (turn,))
        self._log_id = log_id
        self._head.write(log_id, turn)
        return LoadedState(turn=turn, now_ms=now_ms, table=SqliteTable(connection, self.path), events=self)

    async def commit(self, turn: Turn) -> None:
        """Make a turn durable: when this returns, it is on the disk."""
        state = turn.state
        redo_from = min(state.redo_from, turn.number)  # the newest row stays: it has turn and time
        is_plain = not state.flush and redo_from - self._redo_from < CUT_TURNS
        with foreign(self.path):
            if is_plain:
                self._connection.execute(_COMMIT, _row(turn))
            else:
                with self._transaction() as execute:
                    execute(_COMMIT, _row(turn))
                    write_table(self._connection, state.flush)
                    execute("DELETE FROM redo WHERE turn < ?", (redo_from,))
                self._redo_from = redo_from
        self._head.write(self._log_id, turn.number)

    def shrink_wal(self) -> bool:
        """Write the WAL back and cut it, as far as no reader needs it; returns whether that was all of it."""
        execute = self._connection.execute
        with foreign(self.path):
            execute("PRAGMA busy_timeout = 0")  # a commit is not to wait for a reader
            try:
                is_busy, *_ = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")
        return not is_busy

    def accepted(self, first: int, last: int) -> Iterator[tuple[int, list[bytes]]]:
        """Read the events of each turn that accepted any, from turn ``last`` back to turn ``first``."""
        query = "SELECT position, data, crc FROM events WHERE position BETWEEN ? AND ? ORDER BY position DESC LIMIT ?"
        while True:
            with foreign(self.path):
                rows = self._connection.execute(query, (first, last, ROWS_READ)).fetchall()
            _check_order([row[0] for row in rows[::-1]] + [last + 1], "events", self.path)
            for position, data, crc in rows:
                events = _decoded(_decode_array, self.path, "events", position, data, crc)
                yield position, [bytes(event) for event in events]
                last = position - 1
            if len(rows) < ROWS_READ:
                return

    @property
    def move(self) -> Move | None:
        """The mark of a log that is moved."""
        with foreign(self.path):
            row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (NAME,)).fetchone()
        try:
            return None if row is None else decode_move(row[0])
        except (TypeError, msgspec.MsgspecError) as error:
            raise LogCorrupt(str(self.path), "the mark of a migration") from error

    def mark(self, move: Move | None) -> None:
        """Set that mark, or take it away; durable when this returns."""
        with foreign(self.path), self._transaction() as execute:
            execute("DELETE FROM meta WHERE name = ?", (NAME,))
            if move is not None:
                execute("INSERT INTO meta VALUES (?, ?)", (NAME, encode_move(move).decode()))

    def close(self) -> None:
        """Close the file and give the lock back. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(sqlite3.Error):
            self._connection.close()
        self._head.close()
        os.close(self._lock)

    def _check_place(self, *, is_moving: bool) -> None:
        """Refuse a log that is moved elsewhere, unless it is opened for that."""
        try:
            move = self.move
            if move is not None and not is_moving:
                raise refusal(move)
        except BaseException:
            self._connection.close()
            raise

    def _go_on_after(self, turn: int, reached: int, now_ms: int, log_id: bytes) -> None:
        """Write, in the transaction that is open, that the commits after a turn are missing.

        The log is another one from here on: what a history has read of the missing commits is not to stay.
        """
        logger.warning(
            "restored from a backup: commits %d–%d are missing; what they had accepted is lost, and what they had "
            "recorded runs again. Where nobody restored one, the WAL of %s was damaged or removed",
            turn + 1, reached, self.path,
        )  # fmt: skip
        record = msgspec.json.encode(LogRestored(at=now_ms, first=turn + 1, last=reached))
        noted = Turn(number=reached + 1, now_ms=now_ms, state=Slice({}, [], 0), records=[record], events=[])
        self._connection.execute(_COMMIT, _row(noted))
        self._connection.execute("UPDATE meta SET value = ? WHERE name = 'log_id'", (log_id.hex(),))

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """All of it, or nothing."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield execute
            execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    def _open(self) -> tuple[sqlite3.Connection, bytes]:
        """Open the file, made where it is new; returns the log's id too."""
        with foreign(self.path):
            connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (is_made,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if version == 0 and not is_made:
                    connection.execute("BEGIN IMMEDIATE")
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES ('log_id', ?)", (os.urandom(16).hex(),))
                    if self._new_move is not None:
                        mark = encode_move(self._new_move).decode()
                        connection.execute("INSERT INTO meta VALUES (?, ?)", (NAME, mark))
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
                    connection.execute("COMMIT")
                elif version > FORMAT:
                    raise LogUnavailable(
                        f"{self.path} was written by a newer steplog (format {version}, this one reads {FORMAT})"
                    )
                elif version < FORMAT:
                    raise LogCorrupt(str(self.path), f"the file's format, {version},")
                return connection, bytes.fromhex(_checked_id(self.path, connection))
            except BaseException:
                connection.close()
                raise


class Row(NamedTuple):
    """A row of journal or events: the turn that wrote it, and its records as a JSON array."""

    position: int
    data: bytes


class JournalReader:
    """Reads a log file that another process may be writing."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise LogUnavailable(f"{path} does not exist; steplog dev or start make it")
        self.path = path
        with foreign(path):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            try:
                self.log_id = _checked_id(path, self._connection)
            except BaseException:
                self._connection.close()
                raise

    def journal(self, after: int, limit: int) -> list[Row]:
        """Rows of the journal after a position, in order."""
        return self._rows("journal", after, limit)

    def events(self, after: int, limit: int) -> list[Row]:
        """Rows of accepted events after a position, in order."""
        return self._rows("events", after, limit)

    def last_position(self) -> int:
        """The position of the newest commit."""
        with foreign(self.path):
            (turn,) = self._connection.execute("SELECT max(turn) FROM redo").fetchone()
        return int(turn or 0)

    def damage(self) -> Iterator[tuple[str, str]]:
        """Read the whole file; yields what is damaged, as (place, problem). Raises where it cannot be read on.

        SQLite's own check finds pages that do not fit together, the checksums find rows that were changed.
        """
        with foreign(self.path):
            for (problem,) in self._connection.execute("PRAGMA integrity_check"):
                if problem != "ok":
                    yield str(self.path), problem
            for table, number in _TABLES.items():
                for position, data, crc in self._connection.execute(f"SELECT {number}, data, crc FROM {table}"):  # noqa: S608
                    if not fits(data, crc, _number(position)):
                        yield f"{table}@{position}", DAMAGED
            for key, value, crc in self._connection.execute("SELECT key, value, crc FROM state"):
                if not (isinstance(key, bytes) and fits(value, crc, key)):
                    yield f"the state of {named(key)}", DAMAGED

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def _rows(self, table: str, after: int, limit: int) -> list[Row]:
        with foreign(self.path):
            rows = self._connection.execute(
                f"SELECT position, data, crc FROM {table} WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608 - ours
                (after, limit),
            ).fetchall()
            _check_order([after, *[row[0] for row in rows]], table, self.path)
        return [Row(position, _checked(self.path, table, position, data, crc)) for position, data, crc in rows]


def _check_order(positions: list[int], table: str, path: Path) -> None:
    """A page that stands twice in a table's tree brings rows again that were read: reading on might never end."""
    if any(later <= earlier for earlier, later in pairwise(positions)):
        raise LogCorrupt(str(path), f"the order of {table}") from ValueError(str(positions))


def _row(turn: Turn) -> tuple[int, bytes, int, bytes | None, int, bytes | None, int]:
    """What a turn writes, as a row of the ``commits`` view."""
    seed = crc32(_number(turn.number))
    redo = _encode_redo((turn.now_ms, turn.state.changes))
    journal = b"[" + b",".join(turn.records) + b"]" if turn.records else None
    events = b"[" + b",".join(turn.events) + b"]" if turn.events else None
    return (
        turn.number, redo, crc32(redo, seed), journal, crc32(journal or b"", seed), events, crc32(events or b"", seed)
    )  # fmt: skip


def _checked(path: Path, table: str, position: int, data: bytes, crc: int) -> bytes:
    if not fits(data, crc, _number(position)):
        raise LogCorrupt(str(path), f"row {position} of {table}")
    return data


def _decoded(decode: Callable[[bytes], T], path: Path, table: str, position: int, data: bytes, crc: int) -> T:
    """Read a row: one that a page of another table brought here fits its checksum, but is not one of these."""
    checked = _checked(path, table, position, data, crc)
    try:
        return decode(checked)
    except msgspec.MsgspecError as error:
        raise LogCorrupt(str(path), f"row {position} of {table}") from error


def _number(position: int) -> bytes:
    """A position as its checksum has it; that of a damaged row may be negative."""
    return (position & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "big")


def _checked_id(path: Path, connection: sqlite3.Connection) -> str:
    """Read a log's id. Raises ``LogCorrupt`` where it, or what says how rows are written, is not as it was made."""
    made = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema")}
    if not made.issuperset(_SCHEMA):
        raise LogCorrupt(str(path), "how its tables are made")
    row = connection.execute("SELECT value FROM meta WHERE name = 'log_id'").fetchone()
    if row is None or not isinstance(row[0], str) or not _LOG_ID.fullmatch(row[0]):
        raise LogCorrupt(str(path), "the log's id")
    return row[0]


def _lock(path: Path) -> int:
    """Take the writer's lock beside the file, or raise ``LogLocked`` with the name of the holder."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 1000)
        os.close(lock)
        try:
            name = f"process {json.loads(holder)['pid']}"
        except (ValueError, KeyError):
            name = "another process"
        raise LogLocked(str(path), name) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid()}).encode(), 0)
    return lock
