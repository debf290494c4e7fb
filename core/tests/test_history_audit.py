"""The audit: a sound log adds up, and each kind of damage is found and named."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steplog.errors import LogUnavailable
from steplog.history.audit import LATE_MS, AuditReport, Ledger, audit
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader

from .history_log import Json, RecordedPartition, copy_log, damage, flip
from .partition import DAY, HOUR, MINUTE, NOON, broke, function, raised, ran, returned, slept


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RecordedPartition]:
    log = RecordedPartition(tmp_path / "log.db", function("f"), function("g"), function("h", "g"))
    yield log
    log.close()


def tell(log: RecordedPartition) -> None:
    """Events and runs with every fate."""
    log.send("nobody")
    log.finish("f")
    log.live("f")
    log.send("g", id="e1")
    log.send("g", id="e1")
    at = log.start("f")
    log.post(broke(at, "a"), ran(at, "b"), ran(at, "b"), returned(at, executing=["c"]), ran(at, "c"))
    log.post(raised(log.start("f"), final=True))
    log.send("f", ts_ms=NOON + DAY)


def test_sound_log_adds_up(log: RecordedPartition) -> None:
    tell(log)
    come_to = list[tuple[int, int]]()
    report = audit(log.path, on_progress=lambda turn, last: come_to.append((turn, last)))
    assert come_to[-1][0] == come_to[-1][1] > 0
    assert report.is_clean
    assert report == AuditReport(
        accepted=9, scheduled=7, completed=2, failed=1, open=4, skipped={"duplicate": 2}, dead=0, unaccounted=0,
        planned_steps=8, recorded_steps=5, repeated_steps=0, findings=(),
    )  # fmt: skip


def test_empty_log_adds_up(log: RecordedPartition) -> None:
    report = audit(log.path)
    assert (report.accepted, report.is_clean) == (0, True)


def test_runs_go_on_after_a_crash_and_still_add_up(log: RecordedPartition) -> None:
    log.live("f")
    log.crash()
    log.advance(MINUTE)
    assert audit(log.path).is_clean


def test_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable):
        audit(tmp_path / "log.db")


# --- damage


def without(kind: str) -> Callable[[list[Json]], list[Json]]:
    return lambda records: [record for record in records if record["kind"] != kind]


def twice(kind: str) -> Callable[[list[Json]], list[Json]]:
    return lambda records: [each for record in records for each in [record] * (1 + (record["kind"] == kind))]


def with_two_ends(records: list[Json]) -> list[Json]:
    return [
        each
        for record in records
        for each in ([record, record | {"seq": 6}] if record["kind"] == "run.completed" else [record])
    ]


def with_two_results(records: list[Json]) -> list[Json]:
    """The second step is the first one again."""
    first = {"step": "step-0", "id": "0" * 40}
    return [record | first if record.get("step") in ("step-0", "step-1") else record for record in records]


@pytest.mark.parametrize(
    ("change", "unaccounted", "repeated", "problem"),
    [
        (without("event.routed"), 1, 0, "is accepted, but not routed"),
        (twice("event.routed"), 1, 0, "is routed more often than accepted"),
        (without("run.scheduled"), 1, 0, "begins with record 2, a step.completed, and is not scheduled"),
        (twice("run.scheduled"), 1, 0, "has record 1 where 2 is the next"),
        (without("step.completed"), 1, 0, "has record 5 where 2 is the next"),
        (twice("run.completed"), 1, 0, "has record 5 where 6 is the next"),
        (with_two_ends, 1, 0, "ended before its record 6, a run.completed"),
        (with_two_results, 0, 1, "step step-0 has more than one result"),
    ],
)
def test_damage_is_found_and_named(
    log: RecordedPartition,
    tmp_path: Path,
    change: Callable[[list[Json]], list[Json]],
    unaccounted: int,
    repeated: int,
    problem: str,
) -> None:
    run = log.finish("f")
    assert audit(log.path).is_clean
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, change)
    report = audit(copy)
    assert (report.unaccounted, report.repeated_steps, report.is_clean) == (unaccounted, repeated, False)
    assert problem in [finding.problem for finding in report.findings]
    assert report.findings[0].id == run or "routed" in problem


def test_run_that_was_never_scheduled_is_unaccounted(log: RecordedPartition, tmp_path: Path) -> None:
    at = log.start("f")
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, without("run.scheduled"))
    report = audit(copy)
    assert (report.unaccounted, report.findings[0].id) == (1, at.run_id)
    assert report.findings[0].problem.startswith("was started by event 01")


def test_lost_event_is_found(log: RecordedPartition, tmp_path: Path) -> None:
    log.finish("f")
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, lambda _: [], table="events")
    report = audit(copy)
    assert (report.accepted, report.unaccounted) == (0, 1)


def test_unreadable_record_is_dead_and_makes_no_gap(log: RecordedPartition, tmp_path: Path) -> None:
    log.finish("f")
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, lambda records: [r | {"kind": "step.dreamt"} if r.get("seq") == 3 else r for r in records])
    report = audit(copy)
    assert (report.dead, report.unaccounted, report.is_clean) == (1, 0, False)
    assert (report.findings[0].id, "step.dreamt" in report.findings[0].problem) == ("journal@3", True)


def test_damaged_row_is_dead_and_what_it_held_is_missed(log: RecordedPartition, tmp_path: Path) -> None:
    log.finish("f")
    copy = copy_log(log.path, tmp_path / "copy.db")
    flip(copy, 3)
    report = audit(copy)
    assert (report.dead, report.unaccounted) == (1, 1)


@pytest.mark.spec("FAULT-C4")
def test_damage_that_no_record_needs_is_found_when_everything_is_read(log: RecordedPartition, tmp_path: Path) -> None:
    log.finish("f")
    assert audit(log.path, is_deep=True).damaged == 0
    copy = copy_log(log.path, tmp_path / "copy.db")
    connection = sqlite3.connect(copy)
    connection.execute("UPDATE redo SET crc = crc + 1")
    (rows,) = connection.execute("SELECT count(*) FROM redo").fetchone()
    connection.commit()
    connection.close()
    assert audit(copy).is_clean
    report = audit(copy, is_deep=True)
    assert (report.damaged, report.is_clean) == (rows, False)
    assert report.findings[0].id.startswith("redo@")


def test_only_the_first_findings_are_shown(log: RecordedPartition, tmp_path: Path) -> None:
    for _ in range(25):
        log.send("nobody")
    copy = copy_log(log.path, tmp_path / "copy.db")
    damage(copy, without("event.routed"))
    report = audit(copy)
    assert (report.unaccounted, len(report.findings)) == (25, 20)


# --- time


def test_events_of_a_time_are_followed_to_the_end(log: RecordedPartition) -> None:
    log.finish("f")
    early = log.start("f")
    log.now_ms = NOON + HOUR
    log.send("g")
    log.now_ms = NOON + 2 * HOUR
    log.post(ran(early, "a"), returned(early))
    log.finish("f")
    middle = audit(log.path, NOON + HOUR, NOON + 2 * HOUR)
    assert (middle.accepted, middle.scheduled, middle.open, middle.completed) == (1, 2, 2, 0)
    assert middle.is_clean
    first = audit(log.path, until_ms=NOON + 1)
    assert (first.accepted, first.completed, first.open) == (2, 2, 0)
    last = audit(log.path, NOON + 2 * HOUR)
    assert (last.accepted, last.completed, last.is_clean) == (1, 1, True)
    assert audit(log.path).completed == 3


def test_ended_runs_leave_memory_when_no_answer_can_come(log: RecordedPartition) -> None:
    at = log.start("f")
    log.post(slept(at, "nap", NOON + MINUTE), returned(at, executing=["a"]))
    log.now_ms += HOUR
    log.post(ran(at, "a"))
    log.now_ms += LATE_MS
    log.send("nobody")
    ledger = Ledger()
    with JournalReader(log.path) as reader:
        batch = Tape(reader).read(0)
    assert batch is not None
    for turn in batch.turns[:-1]:
        ledger.add(turn)
    assert list(ledger._ended) == [at.run_id]
    ledger.add(batch.turns[-1])
    assert not ledger._ended
    assert ledger.report().is_clean
