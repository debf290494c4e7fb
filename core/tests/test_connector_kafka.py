"""A Kafka source, on a real broker: what is read becomes an event once, in order, or is parked by its key."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steplog.config.connectors import KafkaConnector
from steplog.connectors import kafka as module
from steplog.connectors.running import Surroundings, run_connectors
from steplog.dead.kafka import KafkaDeadLetters
from steplog.dead.letters import DeadLetters
from steplog.dead.sqlite import SqliteDeadLetters
from steplog.engine.operations import EventOut
from steplog.errors import LogUnavailable, Overloaded
from steplog.server.validation import Misfit

from .raw_produce import put_raw
from .running import Heard
from .topics import Topics

DEADLINE_S = 30.0
POISON = b"{"


class Node:
    """Takes events in, or does not: what it has taken, in order."""

    def __init__(self) -> None:
        self.taken: list[EventOut] = []
        self.refuses: list[Exception] = []  # raised by the next groups
        self.hold: asyncio.Event | None = None  # until it is set nothing is answered
        self.misfits: list[Any] = []  # values that fit no type
        self.asked = 0

    async def accept(self, events: Sequence[EventOut]) -> Misfit | None:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.refuses:
            raise self.refuses.pop(0)
        for index, event in enumerate(events):
            if json.loads(event.data)["value"] in self.misfits:
                return Misfit(index, "$.value: not what was expected")
        self.taken += events
        return None

    @property
    def data(self) -> list[dict[str, Any]]:
        return [json.loads(event.data) for event in self.taken]

    @property
    def values(self) -> list[Any]:
        return [data["value"] for data in self.data]

    def of(self, key: str) -> list[Any]:
        """The values of a key, in order."""
        return [data["value"] for data in self.data if data["key"] == key]


class Stage:
    """A topic, a group that reads it, and where its letters are."""

    def __init__(self, topics: Topics, directory: Path, *, partitions: int = 1, **table: Any) -> None:
        self.topics, self._dead_path = topics, directory / "log.dead.db"
        self.topic = topics.make("orders", partitions)
        self.group = topics.name("group")
        options = {"heartbeat.interval.ms": 500, "session.timeout.ms": 6_000, "topic.metadata.refresh.interval.ms": 500}
        self.table = msgspec.structs.replace(
            KafkaConnector(
                topics=(self.topic,), brokers=(topics.brokers,), group=self.group, start="earliest",
                options={**options},
            ),
            **table,
        )  # fmt: skip
        self.node = Node()

    def dead(self) -> DeadLetters:
        return SqliteDeadLetters(self._dead_path)

    @asynccontextmanager
    async def reading(self, node: Node | None = None, **table: Any) -> AsyncIterator[None]:
        """Run the connector, until the block ends."""
        surroundings = Surroundings(
            entrance=lambda _: (node or self.node).accept, open_dead=self.dead, event_bytes=10_000
        )
        changed = msgspec.structs.replace(self.table, **table)
        running = asyncio.create_task(run_connectors({"orders": changed}, surroundings))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled() or running.exception() is None  # it may have stopped by itself

    def put(self, *values: Any, key: str | None = None, **more: Any) -> None:
        encoded = [v if isinstance(v, bytes | None) else json.dumps(v).encode() for v in values]
        self.topics.put(self.topic, *encoded, key=None if key is None else key.encode(), **more)

    def has_read_all(self) -> bool:
        return self.topics.has_read_all(self.group, self.topic)

    def letters(self) -> list[tuple[int, str, str]]:
        """Offset, state and reason of each."""
        opened = self.dead()
        found = [(entry.offset, str(entry.state), entry.reason) for entry in opened.entries()]
        opened.close()
        return found

    def ask(self, verb: str, *offsets: int) -> None:
        """What ``steplog dead`` does."""
        opened = self.dead()
        ids = [entry.id for entry in opened.entries() if entry.offset in offsets]
        assert len(ids) == len(offsets)
        getattr(opened, verb)(ids)
        opened.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, off the loop: it may ask the broker."""
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 2 * DEADLINE_S))


@pytest.fixture
def stage(topics: Topics, tmp_path: Path) -> Stage:
    return Stage(topics, tmp_path)


def test_a_record_becomes_an_event_with_all_that_it_says(stage: Stage) -> None:
    async def story() -> None:
        stage.put({"n": 1}, key="o1", headers=[("trace", b"t1"), ("raw", b"\xff"), ("none", None)])
        stage.topics.put(stage.topic, b" [1, 2] ", None, key=b"\xfe", timestamp=1_700_000_000_123)
        stage.put(5, timestamp=1_700_000_000)  # seconds, by mistake
        async with stage.reading():
            await until(stage.has_read_all)

    play(story())
    first, second, tombstone, early = stage.node.taken
    assert first.name == f"kafka/{stage.topic}"
    data = json.loads(first.data)
    assert first.ts == data.pop("timestamp")
    assert data == {
        "topic": stage.topic, "partition": 0, "offset": 0, "key": "o1", "value": {"n": 1},
        "headers": {"trace": "t1", "raw": {"base64": "/w=="}, "none": None},
    }  # fmt: skip
    assert second.ts == 1_700_000_000_123
    assert [json.loads(each.data)["value"] for each in (second, tombstone)] == [[1, 2], None]
    assert json.loads(second.data)["key"] == {"base64": "/g=="}
    assert (early.ts, json.loads(early.data)["timestamp"]) == (None, 1_700_000_000)
    ids = [event.id for event in stage.node.taken]
    prefix, _, incarnation = (ids[0] or "").partition("@")
    assert prefix == f"kafka:{stage.topic}/0/0"
    assert ids == [f"kafka:{stage.topic}/0/{n}@{incarnation}" for n in range(4)]
    assert len(incarnation) == 22


@pytest.mark.parametrize(("form", "values"), [("text", ["{", "ö"]), ("bytes", ["ew==", "w7Y="])])
def test_the_format_says_what_a_value_is(stage: Stage, form: str, values: list[str]) -> None:
    async def story() -> None:
        stage.put(b"{", "ö".encode())
        async with stage.reading(format=form, event="shop/{topic}.came"):
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values == values
    assert {event.name for event in stage.node.taken} == {f"shop/{stage.topic}.came"}


@pytest.mark.spec("FAULT-B17")
def test_poison_is_parked_with_what_follows_of_its_key_and_nobody_else_waits(stage: Stage) -> None:
    async def story() -> None:
        for round_ in range(3):
            for key in ("a", "b", "c"):
                stage.put(POISON if (key, round_) == ("b", 1) else {"n": round_}, key=key)
        stage.put(POISON, {"n": 9})  # without a key they hold nobody up
        async with stage.reading():
            await until(stage.has_read_all)

    play(story())
    rounds = [{"n": n} for n in range(3)]
    assert (stage.node.of("a"), stage.node.of("b"), stage.node.of("c")) == (rounds, rounds[:1], rounds)
    assert stage.node.values[-1] == {"n": 9}
    (poison, _, reason), (follower, _, waits), (keyless, *_) = stage.letters()
    assert (poison, follower, keyless) == (4, 7, 9)
    assert reason.startswith("the value is not JSON: ")
    assert waits.startswith(f"waits behind orders:{stage.topic}/0/4@")


POISONS = {
    b"\xff\xfe": "not JSON",
    b'"\xff"': "not UTF-8",
    b"{} {}": "not JSON: JSON is malformed: trailing characters",
    b"NaN": "not JSON",
    b"": "not JSON",
    b"[" * 250 + b"]" * 250: "nested deeper than 200",
    b"1e999": "beyond the range of a double",
    b'"' + b"x" * 10_000 + b'"': "the limit is 10000 (limits.event_size)",
}


@pytest.mark.spec("FAULT-B17")
def test_whatever_is_in_a_record_it_is_an_event_or_parked_with_the_reason(stage: Stage) -> None:
    async def story() -> None:
        stage.put(*POISONS, {"last": True})
        async with stage.reading():
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values == [{"last": True}]
    for (offset, _, reason), (value, text) in zip(stage.letters(), POISONS.items(), strict=True):
        assert text in reason, (offset, value[:20])


@pytest.mark.spec("FAULT-B17")
def test_a_header_whose_name_is_no_text_is_poison(stage: Stage) -> None:
    async def story() -> None:
        put_raw(stage.topics.brokers, stage.topic, b"1", b"k", {b"fine": b"\xff"})
        put_raw(stage.topics.brokers, stage.topic, b"2", b"k", {b"\xff\xfe": b"evil"})
        stage.put(3, key="k")
        stage.put(4, key="other")
        async with stage.reading():
            await until(stage.has_read_all)
            assert stage.node.values == [1, 4]
            assert [reason for _, _, reason in stage.letters()][:1] == ["the name of a header is not UTF-8"]
            stage.ask("drop", 1)
            await until(lambda: not stage.letters())

    play(story())
    assert stage.node.of("k") == [1, 3]


def test_a_parked_key_goes_on_in_its_order_when_its_letter_is_retried(stage: Stage) -> None:
    async def story() -> None:
        stage.put(b"{", b"1", b"[", b"3", key="k")
        async with stage.reading():
            await until(stage.has_read_all)
            assert stage.node.taken == []
            stage.ask("retry", 0)
            await until(lambda: stage.letters()[0][1] == "parked")  # it still is none
            stage.ask("retry", 1)  # not the first of its key: it waits
        assert [(offset, state) for offset, state, _ in stage.letters()] == [
            (0, "parked"), (1, "retry"), (2, "parked"), (3, "parked")
        ]  # fmt: skip
        async with stage.reading(format="text"):
            stage.ask("retry", 0)
            await until(lambda: not stage.letters())
            stage.put(b"4", key="k")
            await until(lambda: len(stage.node.taken) == 5)

    play(story())
    assert stage.node.of("k") == ["{", "1", "[", "3", "4"]
    ids = [event.id for event in stage.node.taken]
    assert len(set(ids)) == 5
    assert all(str(id_).startswith(f"kafka:{stage.topic}/0/{n}@") for n, id_ in enumerate(ids))


def test_what_waited_goes_on_when_the_letter_before_it_is_dropped(stage: Stage) -> None:
    async def story() -> None:
        stage.put(b"{", b"1", b"[", b"3", key="k")
        async with stage.reading():
            await until(stage.has_read_all)
            stage.ask("drop", 0)
            await until(lambda: "not JSON" in stage.letters()[0][2])
            assert stage.node.of("k") == [1]
            assert [offset for offset, *_ in stage.letters()] == [2, 3]
            stage.ask("drop", 2)
            await until(lambda: not stage.letters())
            assert stage.node.of("k") == [1, 3]

    play(story())


def test_which_keys_are_parked_outlives_the_process(stage: Stage) -> None:
    async def story() -> None:
        stage.put(b"{", key="k")
        async with stage.reading():
            await until(stage.has_read_all)
        stage.put(b"1", key="k")
        stage.put(b"2", key="other")
        async with stage.reading():
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values == [2]
    assert [offset for offset, *_ in stage.letters()] == [0, 1]


def test_what_fits_no_type_is_parked_as_well(stage: Stage) -> None:
    async def story() -> None:
        stage.node.misfits = ["odd"]
        stage.put("a", "odd", "b", key="k")
        stage.put("c", key="other")
        async with stage.reading():
            await until(stage.has_read_all)
            assert stage.node.values == ["a", "c"]
            assert stage.letters()[0][2] == "$.value: not what was expected"
            stage.node.misfits = []
            stage.ask("retry", 1)
            await until(lambda: not stage.letters())

    play(story())
    assert stage.node.of("k") == ["a", "odd", "b"]


@pytest.mark.parametrize("is_misfit", [False, True])
def test_a_connector_may_stop_at_poison_and_begins_there_again(stage: Stage, heard: Heard, is_misfit: bool) -> None:
    async def story() -> None:
        stage.node.misfits = ["odd"] if is_misfit else []
        stage.put("a", "odd" if is_misfit else b"{", "b")
        async with stage.reading(on_poison="stop"):
            await until(lambda: stage.topics.committed(stage.group, stage.topic) == {0: 1})
            await until(lambda: heard.fields("a connector has stopped at a record that is no event"))
        assert stage.node.values == ["a"]
        stage.node.misfits = []
        async with stage.reading(format="text"):
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values[0] == "a"
    assert len(stage.node.taken) == 3
    assert stage.letters() == []
    (fields,) = heard.fields("a connector has stopped")
    assert (fields["offset"], fields["topic"]) == (1, stage.topic)


def test_a_node_that_takes_nothing_loses_nothing(stage: Stage, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)

    async def story() -> None:
        stage.put(*range(20))
        stage.node.refuses = [Overloaded("full"), LogUnavailable("no room"), Overloaded("full")]
        async with stage.reading():
            await until(stage.has_read_all)
            stage.node.hold = asyncio.Event()
            stage.put(*range(20, 40))
            asked = stage.node.asked
            await until(lambda: stage.node.asked > asked)
            stage.put(*range(40, 60))
            await asyncio.sleep(0.5)  # for so long it polls without taking anything
            assert stage.node.values == [*range(20)]
            stage.node.hold.set()
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values == [*range(60)]
    assert len(heard.fields("a connector cannot go on; it tries again")) == 1, "an outage is told once"


def test_two_processes_share_the_partitions_and_one_takes_over(topics: Topics, tmp_path: Path) -> None:
    stage, other = Stage(topics, tmp_path, partitions=4), Node()
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            stage.put({"n": sent}, key=f"k{sent % 10}")
            sent += 1

    async def story() -> None:
        async with stage.reading():
            send(40)
            await until(stage.has_read_all)
            async with stage.reading(other):
                while not other.taken:  # until it has its part
                    send(10)
                    await asyncio.sleep(0.2)
                await until(stage.has_read_all)
            send(40)
            await until(stage.has_read_all)

    play(story())
    taken = {event.id: json.loads(event.data) for node in (stage.node, other) for event in node.taken}
    assert sorted(data["value"]["n"] for data in taken.values()) == list(range(sent)), (
        "each has one id, whoever read it"
    )
    for node in (stage.node, other):
        for key in range(10):
            first = list(dict.fromkeys(data["offset"] for data in node.data if data["key"] == f"k{key}"))
            assert first == sorted(first)


def test_a_topic_that_is_not_there_is_named_and_read_when_it_is_made(stage: Stage, heard: Heard) -> None:
    async def story() -> None:
        late = stage.topics.name("late")
        async with stage.reading(topics=(stage.topic, late)):
            await until(lambda: heard.fields("a connector's topic does not exist"))
            stage.put("early")
            await until(lambda: stage.node.values == ["early"])
            stage.topics.make("late")
            stage.topics.put(late, b'"late"')
            await until(lambda: stage.node.values == ["early", "late"])

    play(story())
    assert [fields["topic"] for fields in heard.fields("a connector's topic does not exist")] == [
        stage.topics.name("late")
    ]


def test_it_begins_with_what_comes_from_now_on_and_then_misses_nothing(stage: Stage) -> None:
    async def story() -> None:
        stage.put("before")
        async with stage.reading(start="latest"):
            await until(lambda: stage.topics.committed(stage.group, stage.topic) == {0: 1})
        stage.put("while nobody read")
        stage.topics.widen(stage.topic, 2)
        stage.put("in a new partition", partition=1)
        async with stage.reading(start="latest"):
            await until(stage.has_read_all)

    play(story())
    assert sorted(stage.node.values) == ["in a new partition", "while nobody read"]


def test_records_that_are_gone_are_told(stage: Stage, heard: Heard) -> None:
    async def story() -> None:
        stage.put(0)
        async with stage.reading():
            await until(stage.has_read_all)
        stage.put(1, 2, 3)
        stage.topics.forget(stage.topic, 3)
        async with stage.reading():
            await until(stage.has_read_all)

    play(story())
    assert stage.node.values == [0, 3]
    assert [fields["partition"] for fields in heard.fields("records are gone that a connector has not read")] == [0]


def test_a_broker_that_is_away_is_told_once(stage: Stage, heard: Heard) -> None:
    async def story() -> None:
        async with stage.reading(brokers=("127.0.0.1:1",)):
            await until(lambda: heard.fields("a connector cannot go on"))
            await asyncio.sleep(1.0)  # in which the client has tried several times

    play(story())
    (fields,) = heard.fields("a connector cannot go on; it tries again")
    assert "127.0.0.1:1" in fields["problem"] or "brokers are down" in fields["problem"]


def test_an_option_that_the_client_does_not_know_is_named(stage: Stage, heard: Heard) -> None:
    async def story() -> None:
        async with stage.reading(options={"no.such.option": 1}):
            await until(lambda: heard.fields("a connector cannot go on"))

    play(story())
    assert "no.such.option" in heard.fields("a connector cannot go on")[0]["problem"]


def test_letters_may_be_kept_in_a_topic(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = stage.topics.make("dead", 2, **{"cleanup.policy": "compact"})
    monkeypatch.setattr(stage, "dead", lambda: KafkaDeadLetters(topic, {"bootstrap.servers": stage.topics.brokers}))

    async def story() -> None:
        stage.put(b"{", b"1", key="k")
        async with stage.reading():
            await until(stage.has_read_all)
        assert [offset for offset, *_ in stage.letters()] == [0, 1]
        async with stage.reading():
            stage.put(b"2", key="k")
            await until(stage.has_read_all)
            stage.ask("drop", 0)
            await until(lambda: not stage.letters())

    play(story())
    assert stage.node.of("k") == [1, 2]


@pytest.mark.spec("FAULT-B17")
def test_a_record_is_parked_in_a_topic_however_large_that_lets_it_be(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_records = {"max.message.bytes": str(4 << 20)}  # of its own accord the client sends no more than 1 MB
    topic = stage.topics.make("dead", 2, **{"cleanup.policy": "compact", **large_records})
    source = stage.topics.make("large", 1, **large_records)
    monkeypatch.setattr(stage, "dead", lambda: KafkaDeadLetters(topic, {"bootstrap.servers": stage.topics.brokers}))
    large = b"{" + b"x" * 2_000_000

    async def story() -> None:
        stage.topics.put(source, large, b"1")
        async with stage.reading(topics=(source,)):
            await until(lambda: stage.topics.has_read_all(stage.group, source))

    play(story())
    assert stage.node.values == [1]
    opened = stage.dead()
    (entry,) = opened.entries()
    letter = opened.find(entry.id)
    opened.close()
    assert letter is not None
    assert (letter.entry.offset, letter.value) == (0, large)


@pytest.mark.spec("FAULT-B12", "FAULT-B17")
def test_what_is_too_large_to_be_parked_holds_up_its_key_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = stage.topics.make("dead", 2, **{"cleanup.policy": "compact", "max.message.bytes": "100000"})
    source = stage.topics.make("large", 1, **{"max.message.bytes": str(4 << 20)})
    monkeypatch.setattr(stage, "dead", lambda: KafkaDeadLetters(topic, {"bootstrap.servers": stage.topics.brokers}))

    async def story() -> None:
        stage.topics.put(source, b"{" + b"x" * 2_000_000, b"1", key=b"k", headers=[("trace", b"t")])
        stage.topics.put(source, b"2", key=b"other")
        async with stage.reading(topics=(source,)):
            await until(lambda: stage.topics.has_read_all(stage.group, source))
            assert stage.node.values == [2]
            large, follower = stage.letters()
            assert large[2].startswith("the value is not JSON")
            assert large[2].endswith("too large to be kept here, so it cannot be replayed: read it where it stood")
            assert follower[2].startswith("waits behind")
            stage.ask("retry", 0)
            await until(lambda: stage.letters()[0][2].startswith("it is too large"))
            assert stage.node.values == [2], "nothing was made up in its place"
            stage.ask("drop", 0)
            await until(lambda: not stage.letters())

    play(story())
    assert stage.node.of("k") == [1]


def test_no_record_says_what_was_in_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        stage.put(b'{"secret": hush}', key="hush")
        async with stage.reading():
            await until(stage.has_read_all)

    with caplog.at_level(logging.DEBUG, "steplog"):
        play(story())
    assert caplog.records
    assert "hush" not in str([vars(record) for record in caplog.records])
