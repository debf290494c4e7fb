"""The projector: where it stops and goes on, what it makes again, and what it does with what it cannot read."""

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steplog.errors import LogUnavailable
from steplog.history import journal, projection, schema
from steplog.history.position import Position
from steplog.history.process import start_projector
from steplog.history.projector import Task
from steplog.paths import file_url

from .history_log import Json, RecordedPartition, copy_log, damage, flip, open_history, open_projector, rows
from .partition import MINUTE, broke, function, raised, ran, returned, slept

DEADLINE_S = 10.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RecordedPartition]:
    """A log with runs in every state."""
    log = RecordedPartition(tmp_path / "log.db", function("f", retries=1))
    log.finish()
    log.live()
    at = log.start("f")
    log.post(broke(at, "a"), slept(at, "b", log.now_ms + MINUTE), returned(at, executing=["c"]))
    log.post(ran(at, "c"))
    log.post(raised(log.start("f")), raised(log.start("f"), final=True))
    log.send("f", id="e1")
    log.send("f", id="e1")
    log.advance(MINUTE)
    yield log
    log.close()


def projected(log: Path, history: Path | str) -> dict[str, list[tuple[object, ...]]]:
    """Project a log at once and read the history."""
    with open_projector(log, history) as projector:
        projector.catch_up()
    return rows(history)


def small_batches(monkeypatch: pytest.MonkeyPatch, size: int = 1) -> None:
    monkeypatch.setattr(journal, "ROWS", size)
    monkeypatch.setattr(journal, "ROWS_AT_FIRST", size)


class Killed(BaseException):
    """The process ends here."""


def test_killed_in_any_batch_it_goes_on_without_loss_or_repeat(
    log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_history: Callable[[], str]
) -> None:
    whole = projected(log.path, tmp_path / "whole.db")
    small_batches(monkeypatch)
    project = projection.project

    def set_project(function: Callable[[projection.Writer, list[journal.TurnRecords]], None]) -> None:
        for store in ("sqlite", "postgres"):
            monkeypatch.setattr(f"steplog.history.{store}.project", function)

    def killed_after_writing(writer: projection.Writer, turns: list[journal.TurnRecords]) -> None:
        project(writer, turns)
        raise Killed

    history, kills = new_history(), 0
    while True:
        with open_projector(log.path, history) as projector:
            before = rows(history), projector.position
            set_project(killed_after_writing)
            try:
                is_done = projector.step() is None
            except Killed:
                is_done = False
                kills += 1
            assert (rows(history), projector.position) == before
            if is_done:
                break
            set_project(project)
            projector.step()
    assert kills >= len(log.log.journal)
    assert rows(history) == whole


def test_history_is_the_same_whatever_the_batches(
    log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_history: Callable[[], str]
) -> None:
    whole = projected(log.path, tmp_path / "whole.db")
    for size in (1, 2, 3, 7):
        small_batches(monkeypatch, size)
        assert projected(log.path, new_history()) == whole
    assert whole["dead"] == []
    assert len(whole["runs"]) == 6


def test_two_projectors_of_one_history_do_no_harm(
    log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_history: Callable[[], str]
) -> None:
    whole = projected(log.path, tmp_path / "whole.db")
    small_batches(monkeypatch)
    history = new_history()
    with open_projector(log.path, history) as one, open_projector(log.path, history) as other:
        while one.step() is not None:
            other.step()  # the batch that the first one has written, then the next
        assert one.position == other.catch_up() == log.position
    assert rows(history) == whole


def test_position_reaches_commits_without_records(log: RecordedPartition, new_history: Callable[[], str]) -> None:
    log.crash()  # its recovery writes state alone
    with open_projector(log.path, new_history()) as projector:
        assert projector.catch_up() == projector.position == log.position
        assert projector.step() is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET log_id = 'another'",
        "UPDATE meta SET schema = schema - 1",
        "UPDATE positions SET position = 1000000",
        "DROP TABLE steps; DROP TABLE meta; DROP TABLE positions",
    ],
)
def test_history_of_another_log_or_version_is_made_again(log: RecordedPartition, tmp_path: Path, change: str) -> None:
    history = tmp_path / "history.db"
    whole = projected(log.path, history)
    connection = sqlite3.connect(history)
    connection.executescript(f"INSERT INTO dead VALUES (1, 'journal', '', 'old', '', 0); {change}")
    connection.close()
    with open_history(history) as reader:  # a reader that has it open sees the new one
        if "DROP" in change:
            with pytest.raises(LogUnavailable):
                reader.position()
        assert projected(log.path, history) == whole
        assert reader.position() == log.position


def test_file_that_is_no_history_is_refused_and_left_alone(log: RecordedPartition, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("something of the user's, longer than a header of SQLite's would be; " * 20)
    text = other.read_text()
    with pytest.raises(LogUnavailable, match="not a history, or is damaged"):
        open_projector(log.path, other)
    assert other.read_text() == text


def test_log_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="does not exist"):
        open_projector(tmp_path / "log.db", tmp_path / "history.db")
    assert not (tmp_path / "history.db").exists()


# --- what cannot be read


def unknown_kind(records: list[Json]) -> list[Json]:
    return [record | {"kind": "run.teleported"} if record["kind"] == "run.completed" else record for record in records]


def without_function(records: list[Json]) -> list[Json]:
    return [
        {name: value for name, value in record.items() if (name, record["kind"]) != ("function", "run.scheduled")}
        for record in records
    ]


def huge_time(records: list[Json]) -> list[Json]:
    return [record | {"at": 1 << 80} if record["kind"] == "run.completed" else record for record in records]


class RepeatedRun:
    """The first run is scheduled again when it ends."""

    def __init__(self) -> None:
        self.first: Json | None = None

    def __call__(self, records: list[Json]) -> list[Json]:
        if self.first is None:
            self.first = next(record for record in records if record["kind"] == "run.scheduled")
            return records
        is_last = any(record["kind"] == "run.completed" for record in records)
        return [*records, self.first] if is_last else records


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unknown_kind, "Invalid value 'run.teleported'"),
        (without_function, "missing required field `function`"),
        (huge_time, "OverflowError|out of range"),
        (RepeatedRun, "UNIQUE constraint failed: runs.id|UniqueViolation"),
    ],
)
def test_record_that_does_not_fit_is_dead_and_its_neighbours_are_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_history: Callable[[], str],
    change: Callable[[list[Json]], list[Json]] | type[RepeatedRun],
    reason: str,
) -> None:
    log = RecordedPartition(tmp_path / "log.db")
    log.finish()
    damage(log.path, change() if isinstance(change, type) else change)
    log.now_ms += 1
    log.finish()  # what comes after it
    small_batches(monkeypatch)
    address = new_history()
    with open_projector(log.path, address) as projector, open_history(address) as history:
        assert projector.catch_up() == log.position
        (dead,) = history.dead()
        assert re.search(reason, dead.reason)
        assert (dead.source, dead.env) == ("journal", "default")
        assert 0 < dead.position < log.commits
        page = history.events()
        assert len(page.events) == 2
        after, *before = history.runs().runs
        assert (after.state, len(history.steps(after.id))) == ("completed", 3)
        assert all(len(history.steps(run.id)) == 3 for run in before)
    log.close()


@pytest.mark.parametrize("table", ["journal", "events"])
def test_damaged_row_is_dead_and_its_neighbours_are_not(
    log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    copy = copy_log(log.path, tmp_path / "copy.db")
    connection = sqlite3.connect(copy)
    positions = [row[0] for row in connection.execute(f"SELECT position FROM {table} ORDER BY position")]
    connection.close()
    damaged = [positions[1], positions[2], positions[-1]]
    for position in damaged:
        flip(copy, position, table=table)
    found = projected(copy, tmp_path / "history.db")
    assert {(row[0], row[1]) for row in found["dead"]} == {(position, table) for position in damaged}
    assert len(found["dead"]) == len(damaged)
    assert all("does not match its checksum" in str(row[3]) for row in found["dead"])
    small_batches(monkeypatch)
    assert projected(copy, tmp_path / "singly.db") == found


def test_row_that_is_no_list_is_dead(log: RecordedPartition, tmp_path: Path) -> None:
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, lambda _: {"not": "a list"}, table="events")  # type: ignore[arg-type, return-value]  # on purpose
    found = projected(copy, tmp_path / "history.db")
    assert {row[1] for row in found["dead"]} == {"events"}
    assert '{"not":"a list"}' in {row[4] for row in found["dead"]}
    assert found["events"] == []
    assert len(found["runs"]) == 6


def test_batches_are_smaller_where_rows_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BATCH_BYTES", 20_000)
    log = RecordedPartition(tmp_path / "log.db")
    at = log.start("f")
    for index in range(100):
        log.post(ran(at, f"s{index}", b'"%s"' % (b"x" * 5_000)))
    with open_projector(log.path, tmp_path / "history.db") as projector:
        sizes = []
        while (batch := projector.step()) is not None:
            sizes.append(len(batch.turns))
    assert sum(sizes) == log.commits
    assert max(sizes[1:]) <= 4
    log.close()


# --- the process


def start(log: Path, history: Path) -> "subprocess.Popen[bytes]":
    return start_projector(Task(log=file_url(log), history=file_url(history)), stderr=subprocess.PIPE)


def test_process_follows_the_log_and_ends_with_its_parent(log: RecordedPartition, tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    with open_projector(log.path, history):
        pass  # makes the file
    process = start(log.path, history)
    with open_history(history) as reader:
        assert reader.wait_for(log.position, DEADLINE_S)
        log.finish()
        assert reader.wait_for(log.position, DEADLINE_S)
        run = log.finish()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
        assert reader.run(run).state == "completed"  # it came last and is there
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_process_says_what_is_wrong(tmp_path: Path) -> None:
    process = start(tmp_path / "log.db", tmp_path / "history.db")
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == LogUnavailable.exit_code
    assert errors.startswith(b"error[log_unavailable]: ")


def test_process_starts_light() -> None:
    heavy = "asyncio", "starlette", "uvicorn", "aiohttp", "click", "rich", "uvloop"
    code = f"import sys, steplog.history.projector; print(set({heavy!r}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_wait_for_says_when_it_is_in_vain(log: RecordedPartition, tmp_path: Path) -> None:
    with open_projector(log.path, tmp_path / "h.db") as projector, open_history(tmp_path / "h.db") as history:
        started_s = time.monotonic()
        assert not history.wait_for(Position.commit(1), 0.02)
        assert time.monotonic() - started_s >= 0.02
        projector.catch_up()
        assert history.wait_for(log.position, 0)


def test_tables_have_an_environment() -> None:
    assert all("env TEXT NOT NULL" in columns for columns in schema.TABLES.values())
