"""What the file of the SQLite log has to stand. One suite over every log is in ``tests/conformance``."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from steplog.engine import keys
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.state import Slice
from steplog.errors import LogCorrupt, LogLocked, LogUnavailable
from steplog.log.memory import MemoryLog
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.log.wal import readers
from steplog.turns import Log
from tests.conformance.stores import MemoryStore, SqliteStore, content

A, B, C = (keys.run(0, bytes([n]) * 16) for n in range(3))
Change = dict[bytes, bytes | None]
Rows = list[tuple[int, list[object]]]


def read_memory(log: MemoryLog) -> tuple[Rows, Rows]:
    """Read journal and events, each with the turns that wrote them."""

    def read(rows: list[tuple[int, list[bytes]]]) -> Rows:
        return [(turn, [msgspec.json.decode(record) for record in found]) for turn, found in rows]

    return read(log.journal), read(log.events)


def read_file(path: Path) -> tuple[Rows, Rows]:
    """The same of a file."""
    with JournalReader(path) as reader:
        journal, events = reader.journal(0, 1_000), reader.events(0, 1_000)
    return [(r.position, msgspec.json.decode(r.data)) for r in journal], [
        (r.position, msgspec.json.decode(r.data)) for r in events
    ]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryStore | SqliteStore]:
    opened = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path)
    yield opened
    opened.close()


def load(log: Log) -> LoadedState:
    return asyncio.run(log.load())


def commit(
    log: Log, number: int, changes: Change, flush: Change | None = None, *, redo_from: int = 1,
    records: tuple[bytes, ...] = (), events: tuple[bytes, ...] = (),
) -> None:  # fmt: skip
    state = Slice(changes, sorted((flush or {}).items()), redo_from)
    turn = Turn(number=number, now_ms=number * 10, state=state, records=list(records), events=list(events))
    asyncio.run(log.commit(turn))


# --- logs that keep the events with their turns (tests/conformance has what every log keeps)


def test_journal_and_events_are_kept_by_turn_and_in_order(store: MemoryStore | SqliteStore) -> None:
    load(store.log)
    commit(store.log, 1, {}, records=(b'{"n":1}', b'{"n":2}'), events=(b'{"e":1}',))
    commit(store.log, 2, {A: b"1"})
    commit(store.log, 3, {}, records=('{"n":"é\\u0000"}'.encode(),))
    store.crash()
    load(store.log)
    written = read_memory(store.log) if isinstance(store, MemoryStore) else read_file(store.path)
    assert written == ([(1, [{"n": 1}, {"n": 2}]), (3, [{"n": "é\0"}])], [(1, [{"e": 1}])])


def test_accepted_events_are_read_back_from_the_latest_turn(store: MemoryStore | SqliteStore) -> None:
    load(store.log)
    for turn in range(1, 201):
        commit(store.log, turn, {}, events=(b'{"e":"%d"}' % turn, b'{"e":"\\u00e9,[]"}') if turn % 2 else ())
    store.crash()
    events = load(store.log).events
    assert events is not None
    accepted = events.accepted
    assert [turn for turn, _ in accepted(1, 200)] == list(range(199, 0, -2))
    assert list(accepted(6, 9)) == [(turn, [b'{"e":"%d"}' % turn, b'{"e":"\\u00e9,[]"}']) for turn in (9, 7)]
    assert list(accepted(2, 2)) == []
    assert list(accepted(201, 500)) == []


# --- SQLite


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    yield opened
    opened.close()


def test_a_commit_that_fails_leaves_nothing(sqlite_store: SqliteStore) -> None:
    log = sqlite_store.log
    load(log)
    commit(log, 1, {A: b"1"}, records=(b'"a"',))
    with pytest.raises(LogUnavailable):
        commit(log, 1, {A: b"2"}, {B: b"1"}, records=(b'"b"',), events=(b'"b"',), redo_from=1)
    commit(log, 2, {C: b"1"})
    sqlite_store.crash()
    assert content(load(sqlite_store.log)) == {A: b"1", C: b"1"}
    assert read_file(sqlite_store.path) == ([(1, ["a"])], [])


def flip(path: Path, table: str, column: str) -> None:
    """Change one bit of the first row of a table."""
    with sqlite3.connect(path) as other:
        row, value = other.execute(f"SELECT {'key' if table == 'state' else 'rowid'}, {column} FROM {table}").fetchone()
        name = "key" if table == "state" else "rowid"
        changed = bytes([value[0] ^ 1]) + value[1:]
        other.execute(f"UPDATE {table} SET {column} = ? WHERE {name} = ?", (changed, row))
    other.close()


def load_file(path: Path) -> None:
    log = SqliteLog(path)
    try:
        load(log)
    finally:
        log.close()


def read_journal(path: Path) -> None:
    with JournalReader(path) as reader:
        reader.journal(0, 10)


def read_events(path: Path) -> None:
    with JournalReader(path) as reader:
        reader.events(0, 10)


@pytest.mark.spec("FAULT-C4")
@pytest.mark.parametrize(
    ("table", "read"),
    [
        ("redo", load_file),
        ("journal", read_journal),
        ("events", read_events),
    ],
)
def test_a_flipped_bit_of_a_row_is_noticed(
    sqlite_store: SqliteStore, table: str, read: Callable[[Path], object]
) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"}, records=(b'{"n":1}',), events=(b'{"n":1}',))
    sqlite_store.close()
    flip(sqlite_store.path, table, "data")
    with pytest.raises(LogCorrupt) as caught:
        read(sqlite_store.path)
    assert caught.value.where == f"row 1 of {table}"
    assert str(sqlite_store.path) in str(caught.value)


@pytest.mark.spec("FAULT-C4")
@pytest.mark.parametrize("column", ["value", "key"])
def test_a_flipped_bit_of_the_state_is_noticed(sqlite_store: SqliteStore, column: str) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"}, {A: b"1"}, redo_from=2)
    table = load(sqlite_store.log).table
    flip(sqlite_store.path, "state", column)
    with pytest.raises(LogCorrupt) as caught:
        table.scan(b"\0", b"\xff", 10)
    assert caught.value.where.startswith("the state of ")
    if column == "value":
        with pytest.raises(LogCorrupt) as caught:
            table.get(A)
        assert caught.value.where == f"the state of {keys.printed(A)}"


@pytest.mark.spec("FAULT-C4")
def test_a_torn_page_is_noticed(sqlite_store: SqliteStore) -> None:
    load(sqlite_store.log)
    for number in range(1, 50):
        commit(sqlite_store.log, number, {A: b"1"}, records=(b'"%s"' % (b"x" * 2_000),))
    sqlite_store.close()
    with sqlite_store.path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(bytes(20 * 4096))
    with pytest.raises(LogCorrupt), JournalReader(sqlite_store.path) as reader:
        reader.journal(0, 1_000)


@pytest.mark.spec("FAULT-C4")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'x'",
        "DELETE FROM meta",
        "DROP TRIGGER commit_turn",
        "UPDATE redo SET data = 1",
        "UPDATE redo SET turn = -1",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
    ],
)
def test_what_is_not_as_it_was_made_is_noticed(sqlite_store: SqliteStore, statement: str) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"})
    sqlite_store.close()
    with sqlite3.connect(sqlite_store.path) as other:
        other.execute(statement)
    other.close()
    with pytest.raises(LogCorrupt):
        load_file(sqlite_store.path)


@pytest.mark.spec("FAULT-C4")
@pytest.mark.parametrize(
    ("table", "column"),
    [("redo", "data"), ("journal", "data"), ("events", "data"), ("state", "key"), ("state", "value")],
)
def test_the_whole_file_can_be_checked(sqlite_store: SqliteStore, table: str, column: str) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"}, {A: b"1"}, records=(b'{"n":1}',), events=(b'{"n":1}',))
    with JournalReader(sqlite_store.path) as reader:
        assert list(reader.damage()) == []
        flip(sqlite_store.path, table, column)
        ((place, problem),) = reader.damage()
    assert table in place
    assert problem == "does not match its checksum"


# --- a head beside the file


def copy_of(store: SqliteStore, target: Path) -> Path:
    with sqlite3.connect(store.path) as reading, sqlite3.connect(target) as writing:
        reading.backup(writing)
    reading.close()
    writing.close()
    return target


def restore(copy: Path, log: Path) -> None:
    for suffix in ("-wal", "-shm"):
        log.with_name(log.name + suffix).unlink(missing_ok=True)
    shutil.copy(copy, log)


@pytest.mark.spec("FAULT-C6")
def test_a_log_that_is_behind_its_head_says_so_once(
    sqlite_store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(sqlite_store.log)
    for number in range(1, 6):
        commit(sqlite_store.log, number, {A: b"%d" % number}, records=(b'{"n":1}',))
        if number == 2:
            copy = copy_of(sqlite_store, tmp_path / "copy")
    sqlite_store.close()
    with JournalReader(sqlite_store.path) as reader:
        id_before = reader.log_id
    restore(copy, sqlite_store.path)
    log = SqliteLog(sqlite_store.path)
    loaded = load(log)
    assert (loaded.turn, content(loaded)) == (6, {A: b"2"})
    assert loaded.now_ms > 20
    commit(log, 7, {A: b"7"})
    log.close()
    log = SqliteLog(sqlite_store.path)
    assert load(log).turn == 7
    log.close()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "restored from a backup: commits 3–5 are missing"
    ]
    with JournalReader(sqlite_store.path) as reader:
        rows = reader.journal(2, 10)
        assert [row.position for row in rows] == [6]
        assert msgspec.json.decode(rows[0].data) == [
            {"kind": "log.restored", "v": 1, "at": loaded.now_ms, "first": 3, "last": 5}
        ]
        assert reader.log_id != id_before, "what was read of the missing commits is of another log"


@pytest.mark.spec("FAULT-C6")
@pytest.mark.parametrize("data", [None, b"", b"x" * 28])
def test_a_head_that_is_lost_or_damaged_is_nothing(sqlite_store: SqliteStore, data: bytes | None) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"})
    sqlite_store.close()
    head = sqlite_store.path.with_name("log.db.head")
    head.unlink() if data is None else head.write_bytes(data)
    log = SqliteLog(sqlite_store.path)
    assert load(log).turn == 1
    log.close()


@pytest.mark.spec("FAULT-C6")
def test_the_head_of_another_log_says_nothing(sqlite_store: SqliteStore) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"})
    sqlite_store.close()
    for file in sqlite_store.path.parent.glob("log.db*"):
        if file.suffix != ".head":
            file.unlink()
    log = SqliteLog(sqlite_store.path)
    assert load(log).turn == 0
    log.close()


# --- its WAL


@pytest.mark.spec("FAULT-C5")
def test_the_wal_is_cut_when_no_reader_needs_it(sqlite_store: SqliteStore) -> None:
    load(sqlite_store.log)
    wal = sqlite_store.path.with_name("log.db-wal")
    reader = sqlite3.connect(f"{sqlite_store.path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM journal").fetchone()
    commit(sqlite_store.log, 1, {A: b"1"}, records=(b'"%s"' % (b"x" * 100_000),))
    assert readers(sqlite_store.path) == {os.getpid()}
    assert not sqlite_store.log.shrink_wal()
    assert wal.stat().st_size > 100_000
    reader.execute("COMMIT")
    assert sqlite_store.log.shrink_wal()
    assert wal.stat().st_size == 0
    assert readers(sqlite_store.path) == set()
    reader.close()
    commit(sqlite_store.log, 2, {A: b"2"})


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 500)
    before = path.read_bytes()
    with pytest.raises(LogCorrupt, match="SQLite"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(sqlite_store: SqliteStore) -> None:
    sqlite_store.close()
    with sqlite3.connect(sqlite_store.path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(LogUnavailable, match="format 99"):
        SqliteLog(sqlite_store.path)
    with sqlite3.connect(sqlite_store.path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (99,)
        other.execute("PRAGMA user_version = 1")
    other.close()
    SqliteLog(sqlite_store.path).close()  # the refusal holds no lock


@pytest.mark.parametrize("folder", ["/proc/none", "{tmp}/file"])
def test_a_folder_that_cannot_be_written_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = Path(folder.format(tmp=tmp_path)) / "log.db"
    with pytest.raises(LogUnavailable, match=str(path)):
        SqliteLog(path)


def test_a_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    with pytest.raises(LogUnavailable, match=r"log\.db"):
        SqliteLog(tmp_path / "log.db")


# --- processes


HOLD = "import sys, time, pathlib; from steplog.log.sqlite import SqliteLog; log = SqliteLog(pathlib.Path(sys.argv[1]))"


def python(code: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.spec("FAULT-A9")
def test_a_second_writer_is_refused_by_name(sqlite_store: SqliteStore) -> None:
    load(sqlite_store.log)
    commit(sqlite_store.log, 1, {A: b"1"})
    began = time.monotonic()
    _, complaint = python(HOLD, sqlite_store.path).communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert "LogLocked" in complaint
    assert f"process {os.getpid()};" in complaint
    with pytest.raises(LogLocked, match=f"process {os.getpid()}"):
        SqliteLog(sqlite_store.path)
    commit(sqlite_store.log, 2, {B: b"1"})
    sqlite_store.crash()
    assert content(load(sqlite_store.log)) == {A: b"1", B: b"1"}


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    holder = python(HOLD + "; print('open', flush=True); time.sleep(60)", path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(LogLocked, match=f"process {holder.pid}"):
        SqliteLog(path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=20)
    log = SqliteLog(path)
    load(log)
    log.close()


def test_readers_follow_a_writer(sqlite_store: SqliteStore) -> None:
    load(sqlite_store.log)
    with JournalReader(sqlite_store.path) as reader, JournalReader(sqlite_store.path) as slow:
        assert reader.log_id == slow.log_id
        assert reader.last_position() == 0
        seen: list[int] = []
        for number in range(1, 100):
            commit(
                sqlite_store.log, number, {A: b"1"}, {A: b"1"}, redo_from=number + 1, records=(b"1",), events=(b"2",)
            )
            assert reader.last_position() == number
            seen += [row.position for row in reader.journal(seen[-1] if seen else 0, 10)]
        assert seen == list(range(1, 100))
        assert [row.position for row in slow.journal(90, 5)] == list(range(91, 96))
        assert slow.events(98, 5)[0].data == b"[2]"


def test_a_reader_wants_a_file(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="does not exist"):
        JournalReader(tmp_path / "log.db")
    assert list(tmp_path.iterdir()) == []


def test_a_load_that_fails_leaves_no_transaction_behind(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("ALTER TABLE state RENAME TO hidden")  # the load cannot write its table

        async def story() -> None:
            for _ in range(2):
                with pytest.raises(LogUnavailable, match="no such table"):
                    await log.load()
            other.execute("ALTER TABLE hidden RENAME TO state")
            assert (await log.load()).turn == 1

        asyncio.run(_commit_one(log))
        asyncio.run(story())
    finally:
        other.close()
        log.close()
        log.close()  # closing again does nothing


async def _commit_one(log: SqliteLog) -> None:
    slice_ = Slice({b"\x10key": b"value"}, [], 1)
    await log.commit(Turn(number=1, now_ms=1, state=slice_, records=[], events=[]))
