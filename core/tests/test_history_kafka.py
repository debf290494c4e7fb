"""The history of a log on Kafka: several partitions, in no order relative to each other, read from a real broker."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Consumer, TopicPartition

from steplog.errors import ConfigInvalid, HistoryUnavailable, LogUnavailable
from steplog.history import kafka as kafka_source
from steplog.history.audit import audit, audit_source
from steplog.history.kafka import KafkaSource
from steplog.history.offline import open_offline
from steplog.history.position import Position
from steplog.history.process import start_projector
from steplog.history.projector import Projector, Task, open_projector
from steplog.history.queries import open_history
from steplog.history.source import open_source
from steplog.paths import KafkaAddress, file_url

from .history_log import RecordedPartition, rows
from .kafka_journal import PARTITIONS, KafkaJournal, kafka_journal
from .partition import MINUTE, broke, function, raised, ran, returned, slept

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedPartition]:
    """A log with runs in every state."""
    log = RecordedPartition(tmp_path_factory.mktemp("log") / "log.db", function("f", retries=1), function("g"))
    for _ in range(30):
        log.finish()
        log.finish("g", steps=1)
        log.now_ms += 7
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


@pytest.fixture(scope="module")
def whole(log: RecordedPartition, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    """What the history has of the same log in one file."""
    history = file_url(tmp_path_factory.mktemp("whole") / "history.db")
    with open_projector(file_url(log.path), history) as projector:
        projector.catch_up()
    return rows(history)


@pytest.fixture(scope="module")
def written(log: RecordedPartition, kafka: str) -> Iterator[KafkaJournal]:
    """The same log on Kafka; nothing is written to it any more."""
    with kafka_journal(kafka) as journal:
        journal.write_all(log)
        yield journal


@pytest.fixture
def journal(kafka: str) -> Iterator[KafkaJournal]:
    with kafka_journal(kafka) as journal:
        yield journal


def test_partitions_together_are_the_history(
    written: KafkaJournal, new_history: Callable[[], str], whole: dict[str, list[tuple[object, ...]]]
) -> None:
    history = new_history()
    with open_projector(written.log, history) as projector:
        position = projector.catch_up()
        assert projector.step() is None
    assert rows(history) == whole
    assert set(position.numbers) == {f"{name}/{n}" for name in ("journal", "events") for n in range(PARTITIONS)}
    with open_history(history) as reader:
        assert reader.position() == position
        assert reader.wait_for(position, 0)
        further = position.joined(Position.of({"journal/1": position.number("journal/1") + 1}))
        assert not reader.wait_for(further, 0)


def test_events_may_come_before_their_runs_or_after_them(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str],
    whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    history = new_history()
    with open_projector(journal.log, history) as projector:
        journal.write_all(log, events_first=False)
        projector.catch_up()
    assert rows(history) == whole


def test_goes_on_where_the_history_is(
    log: RecordedPartition, journal: KafkaJournal, new_history: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch, whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    monkeypatch.setattr(kafka_source, "RECORDS_AT_FIRST", 7)
    history = new_history()
    turns = log.log.journal
    for first in range(0, len(turns), 80):
        for _, records in turns[first : first + 80]:
            journal.write(records)
        if first == 0:
            journal.write(events=[event for _, some in log.log.events for event in some])
        with open_projector(journal.log, history) as projector:
            for _ in range(5):
                projector.step()
        if first:
            with open_projector(journal.log, history) as projector:
                projector.catch_up()
    assert rows(history) == whole


def test_aborted_transactions_never_appear(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str],
    whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    events = [event for _, some in log.log.events for event in some]
    journal.write(log.log.journal[0][1], events[:3], is_aborted=True)
    journal.write_all(log)
    journal.write([b'{"kind":"nonsense"}'], events[:1], is_aborted=True)
    history = new_history()
    with open_projector(journal.log, history) as projector:
        projector.catch_up()  # also past the aborted records at the end
    assert rows(history) == whole


def test_two_projectors_share_the_partitions(
    written: KafkaJournal, postgres: str, whole: dict[str, list[tuple[object, ...]]]
) -> None:
    history = f"{postgres}?schema=shared"
    with open_projector(written.log, history) as one, open_projector(written.log, history) as other:
        target = _end(written)
        owned: list[set[str]] = []
        deadline_s = time.monotonic() + DEADLINE_S
        while len(owned) < 2 or not all(owned):
            assert time.monotonic() < deadline_s, "the partitions were not shared"
            one.step()
            other.step()
            owned = [set(_source(each)._at) for each in (one, other)]
            owned = owned if not owned[0] & owned[1] else []
        assert owned[0] | owned[1] == {f"{name}/{n}" for name in ("journal", "events") for n in range(PARTITIONS)}
        one.close()
        while not other.position.covers(target):
            assert time.monotonic() < deadline_s, "what the other one had was not taken over"
            other.step()
    assert rows(history) == whole


def test_a_projector_that_is_behind_the_history_writes_nothing(
    written: KafkaJournal, new_history: Callable[[], str], whole: dict[str, list[tuple[object, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(kafka_source, "RECORDS_AT_FIRST", 20)
    monkeypatch.setattr(kafka_source, "RECORDS", 20)
    history = new_history()
    with open_projector(written.log, history) as one:
        monkeypatch.setattr("steplog.history.projector.is_postgres", lambda _: False)  # both read every partition
        with open_projector(written.log, history) as other, open_projector(written.log, history) as third:
            while not other.position.covers(_end(written)):
                other.step()
                third.step()
            assert third.catch_up() == other.position
        assert one.position == Position()
    assert rows(history) == whole


def test_the_group_shows_what_is_in_the_history(written: KafkaJournal, postgres: str) -> None:
    history = f"{postgres}?schema=lag"
    with open_projector(written.log, history) as projector:
        position = projector.catch_up()
        projector.step()
    consumer = Consumer({"bootstrap.servers": KafkaAddress.parse(written.log).servers,
                         "group.id": written.topic("history")})  # fmt: skip
    places = [TopicPartition(written.topic("journal"), n) for n in range(PARTITIONS)]
    deadline_s = time.monotonic() + DEADLINE_S
    while [each.offset for each in consumer.committed(places, 10)] != [
        position.number(f"journal/{n}") for n in range(PARTITIONS)
    ]:
        assert time.monotonic() < deadline_s
    consumer.close()


def test_values_that_cannot_be_read_are_dead_with_their_offsets(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str],
    whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    half = len(log.log.journal) // 2
    events = [event for _, some in log.log.events for event in some]
    journal.write(events=events[:5])
    for _, records in log.log.journal[:half]:
        journal.write(records)
    journal.write_raw("journal", 1, b'{"kind":"run.teleported","env":"default","run":"R"}', b"\xff")
    journal.write_raw("events", 2, b"", b'{"id":"x"}')
    for _, records in log.log.journal[half:]:
        journal.write(records)
    journal.write(events=events[5:])
    history = new_history()
    with open_projector(journal.log, history) as projector, open_history(history) as reader:
        projector.catch_up()
        dead = reader.dead()
    assert {(bad.source, bad.partition, bad.env) for bad in dead} == {
        ("journal", 1, "default"), ("journal", 1, ""), ("events", 2, ""),
    }  # fmt: skip
    assert len({(bad.source, bad.position) for bad in dead}) == 4
    assert {bad.data for bad in dead} == {
        '{"kind":"run.teleported","env":"default","run":"R"}',
        "\\xff",
        "",
        '{"id":"x"}',
    }
    found = rows(history)
    assert found | {"dead": []} == whole


def test_records_that_retention_has_deleted_are_told_and_stepped_over(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str]
) -> None:
    history = new_history()
    half = len(log.log.journal) // 2
    for _, records in log.log.journal[:half]:
        journal.write(records)
    with open_projector(journal.log, history) as projector:
        before = projector.catch_up().number("journal/0")
    for _, records in log.log.journal[half:]:
        journal.write(records)
    journal.delete_before("journal", 0, before + 9)
    with open_projector(journal.log, history) as projector, open_history(history) as reader:
        projector.catch_up()
        (gone,) = reader.dead()
    assert (gone.source, gone.partition, gone.position) == ("journal", 0, before)
    assert gone.reason == (
        f"records {before} to {before + 8} were deleted, by the topic's retention, before they were projected"
    )


def test_a_history_that_begins_late_begins_where_the_topics_do(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str]
) -> None:
    journal.write_all(log)
    journal.delete_before("journal", 0, 5)
    history = new_history()
    with open_projector(journal.log, history) as projector, open_history(history) as reader:
        projector.catch_up()
        assert reader.dead() == ()


def test_a_log_that_is_not_there_is_named(kafka: str) -> None:
    with pytest.raises(LogUnavailable, match="127"):
        open_source(f"kafka://{kafka}/steplog-tests-nowhere")


def test_a_history_of_other_topics_is_made_again_in_a_file_and_refused_in_a_database(
    journal: KafkaJournal, written: KafkaJournal, new_history: Callable[[], str],
    whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    history = new_history()
    with open_projector(journal.log, history):
        pass
    if history.startswith("postgresql"):
        with pytest.raises(LogUnavailable, match=r"is of another log .* drop it: DROP SCHEMA history_"):
            open_projector(written.log, history)
        return
    with open_projector(written.log, history) as projector:
        projector.catch_up()
    assert rows(history) == whole


# --- without a server


def test_read_offline_it_is_the_same_with_a_file_of_any_length_and_without(
    written: KafkaJournal, log: RecordedPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "RECORDS_AT_FIRST", 50)
    with open_offline(file_url(log.path), file_url(tmp_path / "none.db")) as one:
        runs, counts = one.runs(limit=100), one.counts()
        steps = [one.steps(run.id) for run in runs.runs]
    history = file_url(tmp_path / "history.db")
    for _ in range(3):
        with open_offline(written.log, history) as offline:
            assert (offline.runs(limit=100), offline.counts()) == (runs, counts)
            assert [offline.steps(run.id) for run in runs.runs] == steps
        with open_projector(written.log, history) as projector:
            while projector.step() is None:
                pass


def test_the_audit_is_the_same(written: KafkaJournal, log: RecordedPartition) -> None:
    expected = audit(log.path)
    assert expected.is_clean
    assert audit_source(open_source(written.log)) == expected
    middle_ms = log.now_ms - MINUTE
    early, late = (audit_source(open_source(written.log), *window) for window in ((None, middle_ms), (middle_ms, None)))
    assert early.is_clean
    assert late.is_clean
    assert early.accepted + late.accepted == expected.accepted
    assert early.scheduled + late.scheduled == expected.scheduled


def test_the_audit_finds_what_is_missing(journal: KafkaJournal, log: RecordedPartition) -> None:
    journal.write(events=[event for _, some in log.log.events for event in some])
    for _, records in log.log.journal[:-3]:
        journal.write(records[1:] if len(records) > 1 else records)
    report = audit_source(open_source(journal.log))
    assert not report.is_clean
    assert report.unaccounted > 0


# --- the process


def test_killed_at_any_moment_the_history_is_that_of_one_that_was_not(
    journal: KafkaJournal, log: RecordedPartition, new_history: Callable[[], str],
    whole: dict[str, list[tuple[object, ...]]],
) -> None:  # fmt: skip
    history, random = new_history(), Random(6)
    task = Task(log=journal.log, history=history, member="node-1")
    turns = list(log.log.journal)
    events = [event for _, some in log.log.events for event in some]
    kills, reached = 0, Position()
    process = start_projector(task)
    while turns:
        count = random.randint(1, 60)
        now, turns = turns[:count], turns[count:]
        for _, records in now:
            journal.write(records)
        journal.write(events=events[: len(now)])
        events = events[len(now) :]
        if kills % 3 == 2:
            time.sleep(random.random())  # also while it starts
        else:
            reached = _moved(history, reached)
            time.sleep(random.random() / 10)
        process.send_signal(signal.SIGKILL)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        _close(process)
        kills += 1
        process = start_projector(task)
    journal.write(events=events)
    with open_history(history) as reader:
        assert reader.wait_for(_end(journal), DEADLINE_S)
    _close(process)
    assert process.wait(DEADLINE_S) == 0
    assert kills > 3
    assert rows(history) == whole


def _moved(history: str, before: Position) -> Position:
    """Wait until a projector has written something, and return the history's position."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        with suppress(HistoryUnavailable), open_history(history) as reader:  # there are no tables yet
            if (position := reader.position()) != before:
                return position
        assert time.monotonic() < deadline_s, "nothing was written"
        time.sleep(0.01)


def _close(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()


def _source(projector: Projector) -> KafkaSource:
    source = projector._source
    assert isinstance(source, KafkaSource)
    return source


def _end(journal: KafkaJournal) -> Position:
    source = open_source(journal.log)
    try:
        return source.end()
    finally:
        source.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("kafka://h:9092", KafkaAddress(servers="h:9092")),
        ("kafka://h:1,i:2/shop", KafkaAddress(servers="h:1,i:2", prefix="shop")),
        (
            "kafka://h:1/shop?sasl.username=u",
            KafkaAddress(servers="h:1", prefix="shop", settings=(("sasl.username", "u"),)),
        ),
    ],
)
def test_an_address_names_brokers_and_a_prefix(url: str, address: KafkaAddress) -> None:
    assert KafkaAddress.parse(url) == address


@pytest.mark.parametrize("url", ["kafka:", "kafka://", "kafka://h/x/y", "sqlite:x"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="is no log on Kafka"):
        KafkaAddress.parse(url)
