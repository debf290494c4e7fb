"""Dead letters: one contract for those beside a file and those in a topic, and the commands over it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from steplog.dead.kafka import KafkaDeadLetters
from steplog.dead.letters import DeadLetters, Entry, Letter
from steplog.dead.opening import open_dead
from steplog.dead.sqlite import SqliteDeadLetters
from steplog.errors import ConfigInvalid, LogUnavailable
from steplog.paths import dead_path

from .command_line import Done, steplog
from .topics import Topics

Open = Callable[[], DeadLetters]


@pytest.fixture(params=["sqlite", "kafka"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same letters again and again."""
    held: list[DeadLetters] = []

    def hold(letters: DeadLetters) -> DeadLetters:
        held.append(letters)
        return letters

    if request.param == "sqlite":
        yield lambda: hold(SqliteDeadLetters(tmp_path / "log.dead.db"))
    else:
        topics: Topics = request.getfixturevalue("topics")
        topic = topics.make("dead", 2, **{"cleanup.policy": "compact"})
        yield lambda: hold(KafkaDeadLetters(topic, {"bootstrap.servers": topics.brokers}))
    for letters in held:
        letters.close()


def letter(offset: int, *, value: bytes | None = b"{", **fields: object) -> Letter:
    entry = Entry(topic="payments", partition=3, offset=offset, reason="no JSON", parked_ms=5, connector="orders")
    return Letter(
        entry=msgspec.structs.replace(entry, **fields), value=value, headers=(("h", b"\xff"), ("h", None)),
        timestamp_ms=7,
    )  # fmt: skip


def test_what_is_parked_is_there_as_it_was_read(opened: Open) -> None:
    first, second = opened(), opened()
    assert first.entries() == []
    plain = letter(12, key=b"\xff\x00", incarnation="abcdefgh")
    bare = Letter(entry=Entry(topic="in", partition=0, offset=1, reason="no text", parked_ms=5), value=None)
    first.park([plain, bare])
    assert [entry.id for entry in second.entries()] == ["in/0/1", "orders:payments/3/12@abcdef"]
    for letters in (first, second, opened()):
        assert letters.entries() == [bare.entry, plain.entry]
        assert (letters.find(plain.entry.id), letters.find("in/0/1")) == (plain, bare)
        assert letters.find("in/0/2") is None


def test_letters_stand_in_the_order_of_their_topics(opened: Open) -> None:
    letters = opened()
    letters.park([letter(10), letter(9), letter(100), letter(9, partition=2), letter(1, topic="zoo")])
    letters.park([letter(5, connector=None)])
    assert [entry.id for entry in letters.entries()] == [
        "payments/3/5", "orders:payments/2/9", "orders:payments/3/9", "orders:payments/3/10", "orders:payments/3/100",
        "orders:zoo/3/1",
    ]  # fmt: skip


def test_a_letter_is_retried_parked_again_and_dropped(opened: Open) -> None:
    ours, theirs = opened(), opened()
    ours.park([letter(1), letter(2)])
    assert len(ours.entries()) == 2
    theirs.retry(["orders:payments/3/2", "nobody's"])
    assert [entry.state for entry in ours.entries()] == ["parked", "retry"]
    found = ours.find("orders:payments/3/2")
    assert found is not None
    assert (found.entry.state, found.value) == ("retry", b"{")
    ours.park([letter(2, reason="still no JSON")])
    assert [(entry.state, entry.reason) for entry in theirs.entries()] == [
        ("parked", "no JSON"), ("parked", "still no JSON")
    ]  # fmt: skip
    theirs.retry(["orders:payments/3/1"])
    theirs.drop(["orders:payments/3/1", "nobody's"])
    assert [entry.offset for entry in ours.entries()] == [2]
    ours.park([letter(1)])
    assert [(entry.offset, entry.state) for entry in opened().entries()] == [(1, "parked"), (2, "parked")]


def test_a_change_by_another_is_noticed(opened: Open) -> None:
    ours, theirs = opened(), opened()
    ours.park([letter(1)])
    ours.entries()
    theirs.entries()
    while ours.has_changed():  # our own may be one
        ours.entries()
    theirs.retry([letter(1).entry.id])
    assert _soon(ours.has_changed)
    assert ours.entries()[0].state == "retry"
    assert not ours.has_changed()
    theirs.drop([letter(1).entry.id])
    assert _soon(ours.has_changed)
    assert ours.entries() == []


def _soon(condition: Callable[[], bool]) -> bool:
    import time

    until_s = time.monotonic() + 10
    while not (found := condition()) and time.monotonic() < until_s:
        time.sleep(0.01)
    return found


def test_where_no_broker_answers_the_log_is_unavailable(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from steplog.dead import kafka as module

    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    letters = KafkaDeadLetters("steplog.dead", {"bootstrap.servers": "127.0.0.1:1"})
    for call in (letters.entries, lambda: letters.park([letter(1)])):
        with pytest.raises(LogUnavailable, match=r"topic steplog\.dead: "):
            call()
    letters.close()
    missing = KafkaDeadLetters("connectors-nowhere.dead", {"bootstrap.servers": kafka})
    with pytest.raises(LogUnavailable, match="Unknown topic"):
        missing.entries()
    missing.close()


def test_a_file_that_is_none_of_ours_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.dead.db").write_text("something else, and more than a hundred characters of it" * 3)
    with pytest.raises(LogUnavailable, match="the dead letters cannot be read or written: file is not a database"):
        SqliteDeadLetters(tmp_path / "log.dead.db").entries()


def test_the_letters_of_a_log_are_found_by_its_address(topics: Topics) -> None:
    topics.make("dead")
    with pytest.raises(ConfigInvalid):
        open_dead("redis://x")
    found = open_dead(f"kafka://{topics.brokers}/{topics.prefix}?client.id=test")
    with pytest.raises(LogUnavailable, match=f"topic {topics.prefix}.dead: "):
        found.entries()
    found.close()


def test_records_that_are_no_letters_are_passed_over(topics: Topics) -> None:
    topic = topics.make("dead")
    topics.put(topic, b"scribble", key=b"k")
    topics.put(
        topic, b"x", key=b"l", headers=[("steplog.entry", b"{}"), ("steplog.value", b""), ("steplog.timestamp", b"")]
    )
    letters = KafkaDeadLetters(topic, {"bootstrap.servers": topics.brokers})
    assert letters.entries() == []
    letters.park([letter(1)])
    assert [entry.offset for entry in letters.entries()] == [1]
    letters.close()


# --- the commands


class Shelf:
    """Some letters beside a log."""

    def __init__(self, directory: Path) -> None:
        log = directory / "steplog.db"
        log.touch()
        self.letters = SqliteDeadLetters(dead_path(log))
        self.letters.park([
            letter(1, key=b"o1"), letter(2, key=b"o1", behind="orders:payments/3/1", reason="waits"),
            letter(3, key=b"\xff", connector="audit", incarnation="abcdefgh"),
            letter(4, key=None, connector=None, value=None),
        ])  # fmt: skip
        self._directory = directory

    def run(self, *arguments: str) -> Done:
        return steplog("dead", *arguments, cwd=self._directory)

    def json(self, *arguments: str) -> dict[str, object]:
        done = self.run(*arguments, "--json")
        assert done.code == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    @property
    def states(self) -> list[tuple[int, str]]:
        return sorted((entry.offset, entry.state) for entry in self.letters.entries())


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.letters.close()


def test_letters_are_listed(shelf: Shelf) -> None:
    lines = shelf.run("list").stdout.splitlines()
    assert [line.split()[1:3] for line in lines] == [
        ["id", "state"], ["payments/3/4", "parked"], ["audit:payments/3/3@abcdef", "parked"],
        ["orders:payments/3/1", "parked"], ["orders:payments/3/2", "waits"],
    ]  # fmt: skip
    found = shelf.json("list", "--connector", "audit")["letters"]
    assert found == [{
        "id": "audit:payments/3/3@abcdef", "connector": "audit", "topic": "payments", "partition": 3, "offset": 3,
        "key": {"base64": "/w=="}, "reason": "no JSON", "parked_at": "1970-01-01T00:00:00.005Z", "state": "parked",
        "behind": None,
    }]  # fmt: skip


def test_a_letter_is_shown_with_its_content(shelf: Shelf) -> None:
    shown = shelf.json("show", "payments/3/1")["letter"]
    assert isinstance(shown, dict)
    assert (shown["key"], shown["value"], shown["headers"], shown["timestamp"]) == (
        "o1", "{", {"h": None}, "1970-01-01T00:00:00.007Z",
    )  # fmt: skip
    text = shelf.run("show", "audit:payments/3/3").stdout
    assert "base64: /w==" in text
    assert "reason     no JSON" in text
    assert shelf.json("show", "payments/3/4")["letter"]["value"] is None  # type: ignore[index] # checked above


def test_letters_are_retried_and_dropped_by_id_or_all(shelf: Shelf) -> None:
    assert shelf.json("retry", "orders:payments/3/1", "payments/3/3@abcdef") == {
        "retried": ["orders:payments/3/1", "audit:payments/3/3@abcdef"]
    }
    assert shelf.states == [(1, "retry"), (2, "parked"), (3, "retry"), (4, "parked")]
    assert shelf.run("drop", "payments/3/4").stdout == "1 record is forgotten\n"
    assert shelf.run("retry", "--all", "--connector", "orders").stdout == "2 records are to be read again\n"
    assert shelf.states == [(1, "retry"), (2, "retry"), (3, "retry")]
    assert shelf.json("drop", "--all", "--connector", "orders", "--yes") == {
        "dropped": ["orders:payments/3/1", "orders:payments/3/2"]
    }
    assert shelf.states == [(3, "retry")]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "payments/3/9"), 4, "there is no record 'payments/3/9'"),
        (("retry", "x"), 4, "there is no record 'x'"),
        (("retry",), 2, "name records by their ids, or say --all"),
        (("drop", "payments/3/1", "--all", "--yes"), 2, "name records by their ids, or say --all"),
        (("drop", "--all"), 2, "--all forgets everything that is listed; say that with --yes"),
        (("list", "--log", "redis:x"), 2, "is no log that this version knows"),
    ],
)
def test_what_cannot_be_done_is_said(shelf: Shelf, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = shelf.run(*arguments)
    assert (done.code, text in done.stderr) == (code, True), done.stderr
    assert len(shelf.states) == 4


def test_an_id_that_means_two_is_refused(shelf: Shelf) -> None:
    shelf.letters.park([letter(1, connector="other")])
    done = shelf.run("show", "payments/3/1")
    assert done.code == 4
    assert "orders:payments/3/1, other:payments/3/1" in done.stderr


def test_nothing_is_as_it_should_be(tmp_path: Path) -> None:
    assert steplog("dead", "list", cwd=tmp_path).code == 4
    (tmp_path / "steplog.db").touch()
    done = steplog("dead", "list", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "nothing here, as it should be\n")
    assert not dead_path(tmp_path / "steplog.db").exists()
