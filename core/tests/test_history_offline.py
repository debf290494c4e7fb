"""Reading without a server: the file and the journal's tail are one history."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steplog.errors import LogUnavailable
from steplog.history import journal
from steplog.history.offline import open_offline
from steplog.history.position import Position
from steplog.history.queries import History
from steplog.history.views import RunFilter
from steplog.paths import file_url

from .history_log import RecordedPartition, copy_log, flip, open_history, open_projector
from .partition import MINUTE, broke, function, raised, ran, returned, slept


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RecordedPartition]:
    log = RecordedPartition(tmp_path / "log.db", function("f", retries=1))
    yield log
    log.close()


def tell(log: RecordedPartition, project: Callable[[], object]) -> None:
    """Runs in every state; ``project`` is called at every point of their story."""

    def then() -> None:
        project()
        log.now_ms += 1

    log.finish()
    then()
    log.live()
    then()
    at = log.start("f")
    then()
    log.post(broke(at, "a"), slept(at, "b", log.now_ms + MINUTE))
    then()
    log.post(returned(at, executing=["c"]))
    then()
    log.post(ran(at, "c"))
    then()
    log.post(raised(log.start("f")), raised(log.start("f"), final=True))
    then()
    log.send("f", id="e1")
    then()
    log.send("f", id="e1")
    then()
    log.advance(MINUTE)
    then()


def answers(history: History) -> dict[str, object]:
    """Everything that a history can be asked."""
    runs = history.runs(limit=100).runs
    events = history.events(limit=100).events
    return {
        "position": history.position(),
        "runs": runs,
        "pages": [history.runs(limit=3, cursor=run.id) for run in runs],
        "each": [history.run(run.id) for run in runs],
        "found": [history.find_run(run.id[-10:]) for run in runs],
        "steps": [history.steps(run.id) for run in runs],
        "attempts": [history.attempts(run.id) for run in runs],
        "completed": history.runs(RunFilter(states=("completed", "running"), function="a-f")),
        "events": events,
        "runs of events": [history.runs_of_event(event.internal_id) for event in events],
        "counts": history.counts(),
        "dead": history.dead(),
    }


def test_tail_of_any_length_is_read_as_if_it_had_been_projected(log: RecordedPartition, tmp_path: Path) -> None:
    lengths: list[Path] = []

    def project() -> None:
        lengths.append(tmp_path / f"history-{len(lengths)}.db")
        if len(lengths) > 1:
            with sqlite3.connect(lengths[-2]) as source, sqlite3.connect(lengths[-1]) as target:
                source.backup(target)
            source.close()
            target.close()
        with open_projector(log.path, lengths[-1]) as projector:
            projector.catch_up()

    tell(log, project)
    with open_history(lengths[-1]) as history:
        expected = answers(history)
    assert expected["position"] == log.position
    for length in lengths:
        before = length.read_bytes()
        with open_offline(file_url(log.path), file_url(length)) as offline:
            assert answers(offline) == expected
            assert offline.wait_for(log.position, 0)
            assert not offline.wait_for(Position.commit(log.commits + 1), 0)
        assert length.read_bytes() == before


def test_without_a_file_the_whole_journal_is_the_tail(log: RecordedPartition, tmp_path: Path) -> None:
    tell(log, lambda: None)
    with open_projector(log.path, tmp_path / "history.db") as projector:
        projector.catch_up()
    with (
        open_offline(file_url(log.path), file_url(tmp_path / "missing.db")) as offline,
        open_history(tmp_path / "history.db") as history,
    ):
        assert answers(offline) == answers(history)
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.parametrize("change", ["UPDATE meta SET log_id = 'another'", "UPDATE meta SET schema = schema + 1",
                                    "UPDATE positions SET position = position + 1000", "DROP TABLE meta"])  # fmt: skip
def test_file_of_another_log_or_version_is_left_aside(log: RecordedPartition, tmp_path: Path, change: str) -> None:
    tell(log, lambda: None)
    path = tmp_path / "history.db"
    with open_projector(log.path, path) as projector:
        projector.catch_up()
    with open_history(path) as history:
        expected = answers(history)
    connection = sqlite3.connect(path)
    connection.executescript(f"DELETE FROM runs; {change}")
    connection.close()
    with open_offline(file_url(log.path), file_url(path)) as offline:
        assert answers(offline) == expected


def test_what_is_written_meanwhile_changes_nothing(
    log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROWS", 1)
    monkeypatch.setattr(journal, "ROWS_AT_FIRST", 1)
    with open_projector(log.path, tmp_path / "history.db") as projector:
        at = log.live()
        projector.step()
        with open_offline(file_url(log.path), file_url(tmp_path / "history.db")) as offline:
            seen = answers(offline)
            log.post(returned(at))
            log.finish()
            projector.catch_up()
            assert answers(offline) == seen
        with open_offline(file_url(log.path), file_url(tmp_path / "history.db")) as offline:
            assert offline.run(at.run_id).state == "completed"


def test_large_history_is_not_copied(log: RecordedPartition, tmp_path: Path) -> None:
    for _ in range(20):
        log.finish()
    at = log.live()
    with open_projector(log.path, tmp_path / "history.db") as projector:
        projector.catch_up()
    log.post(ran(at, "more"))
    with open_offline(file_url(log.path), file_url(tmp_path / "history.db")) as offline:
        with offline._reading() as read:
            assert read("SELECT count(*) AS copied FROM main.runs") == [{"copied": 1}]
        assert len(offline.runs(limit=100).runs) == 21
        assert [step.name for step in offline.steps(at.run_id)] == ["done", "broken", "more", "nap"]


def test_damage_in_the_tail_is_dead(log: RecordedPartition, tmp_path: Path) -> None:
    log.finish()
    copy = copy_log(log.path, tmp_path / "copy.db")
    flip(copy, 2)
    with open_offline(file_url(copy), file_url(tmp_path / "history.db")) as offline:
        assert [dead.position for dead in offline.dead()] == [2]
        assert len(offline.runs().runs) == 1


def test_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="does not exist"):
        open_offline(file_url(tmp_path / "log.db"), file_url(tmp_path / "history.db"))


def test_file_that_is_no_history_is_an_error(log: RecordedPartition, tmp_path: Path) -> None:
    (tmp_path / "history.db").write_text("notes " * 1000)
    with pytest.raises(LogUnavailable, match="not a history"):
        open_offline(file_url(log.path), file_url(tmp_path / "history.db"))
