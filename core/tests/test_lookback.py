"""Reading events back for waits, over topics in memory: what is answered is what a plain scan finds."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steplog.engine import keys
from steplog.engine.effects import Answer, ReadEvents
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV
from steplog.engine.ids import ulid
from steplog.engine.messages import EventAccepted, EventsRead
from steplog.engine.operations import EventOut
from steplog.engine.records import event_seen
from steplog.engine.waits import value_hash
from steplog.log import lookback
from steplog.log.broker import BrokerError, Fetched, Place
from steplog.log.encoding import produced
from steplog.log.lookback import Lookback

RUN, STEP, PATH = keys.run(0, bytes(16)), bytes(16), ("data", "n")
NOON = 1_800_014_400_000
MEBIBYTE = 1 << 20


class Written(NamedTuple):
    """A record of ``events``."""

    at_ms: int
    event: EventAccepted


class Topics:
    """The events of all partitions; ``fails`` is how many calls do."""

    def __init__(self, partitions: int) -> None:
        self.logs: list[list[Written]] = [[] for _ in range(partitions)]
        self.fails = self.calls = 0

    def write(self, partition: int, name: str, number: int, received_ms: int) -> None:
        internal = ulid(received_ms, sum(map(len, self.logs)).to_bytes(10, "big"))
        out = EventOut(name=name, data=b'{"n":%d}' % number)
        event = accept_event(out, internal, env=DEFAULT_ENV, received_ms=received_ms, source="test")
        self.logs[partition].append(Written(received_ms, event))

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        self._call()
        log = self.logs[place.partition]
        end = min(len(log), offset + 7)
        written = [(at, produced(place.partition, log[at].event)) for at in range(offset, end)]
        return [Fetched(place, at, b"", record.value, record.headers) for at, record in written], end

    def forget(self, place: Place) -> None: ...

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        self._call()
        return {place: len(self.logs[place.partition]) for place in places}

    async def offset_at(self, place: Place, at_ms: int) -> int:
        self._call()
        log = self.logs[place.partition]
        return next((at for at, written in enumerate(log) if written.at_ms >= at_ms), len(log))

    def _call(self) -> None:
        self.calls += 1
        if self.fails:
            self.fails -= 1
            raise BrokerError("the broker does not answer")

    def scan(self, question: ReadEvents) -> list[bytes]:
        """What an answer is to have."""
        found: list[EventAccepted] = []
        for partition, log in enumerate(self.logs):
            for offset, (_, event) in enumerate(log):
                is_behind = partition != question.trigger[0] or offset > question.trigger[1]
                if is_behind and event.received_ms >= question.since_ms and _is_wanted(question, event):
                    found.append(event)
        return [e.body for e in sorted(found, key=lambda e: (e.received_ms, e.internal_text))]


def _is_wanted(question: ReadEvents, event: EventAccepted) -> bool:
    return any(
        event.name == name and (not path or value_hash(event_seen(event.body), path) == value)
        for name, path, value in question.spots
    )


def ask(*names: str, number: int | None, since_ms: int, trigger: tuple[int, int] = (-1, -1)) -> ReadEvents:
    """A question for events of some names, with a number or with any."""
    value = keys.NO_PATH if number is None else value_hash({"data": {"n": number}}, PATH) or b""
    spots = tuple([(name, () if number is None else PATH, value) for name in names])
    return ReadEvents(run=RUN, step=STEP, env=DEFAULT_ENV, spots=spots, since_ms=since_ms, trigger=trigger)


class Asking:
    """Asks one question after the other."""

    def __init__(self, topics: Topics, *, most_bytes: int = MEBIBYTE) -> None:
        self.now_ms = NOON
        self.answers: asyncio.Queue[EventsRead] = asyncio.Queue()
        self.lookback = Lookback(
            topics, len(topics.logs), answer=self._answer, now_ms=lambda: self.now_ms, most_bytes=most_bytes
        )

    def _answer(self, message: EventsRead) -> None:
        assert message.run == RUN
        self.answers.put_nowait(message)

    async def ask(self, question: ReadEvents) -> EventsRead:
        assert self.lookback.take([question]) == []
        return await asyncio.wait_for(self.answers.get(), 10)


def run(story: Callable[[Asking], Coroutine[None, None, None]], asking: Asking) -> None:
    """Run a story while questions are answered."""

    async def both() -> None:
        answering = asyncio.create_task(asking.lookback.run())
        await story(asking)
        answering.cancel()

    asyncio.run(both())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_an_answer_is_what_a_scan_finds(seed: int) -> None:
    """Questions far back and near, while events are written, some of them later than others that came after them."""
    chance = Random(seed)
    topics = Topics(chance.choice((1, 3)))

    async def story(asking: Asking) -> None:
        for _ in range(6):
            for _ in range(chance.choice((0, 1, 30))):
                asking.now_ms += chance.choice((0, 0, 1, 5_000))
                late_ms = chance.choice((0, 0, 0, 4_000))
                partition = chance.randrange(len(topics.logs))
                topics.write(partition, chance.choice("ab"), chance.randrange(3), asking.now_ms - late_ms)
            partition = chance.randrange(len(topics.logs))
            question = ask(
                *chance.sample("abc", chance.randint(1, 2)), number=chance.choice((None, 0, 1)),
                since_ms=asking.now_ms - chance.choice((0, 3, 20_000, 10**9)),
                trigger=(partition, chance.randrange(-1, len(topics.logs[partition]) + 1)),
            )  # fmt: skip
            answer = await asking.ask(question)
            assert list(answer.events) == topics.scan(question)
            assert answer.cut_ms == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookback, "BLOCK", chance.choice((1, 4, 500)))
        patch.setattr(lookback, "MOST_MISSED", chance.choice((0, 3, 100_000)))
        run(story, Asking(topics))


def test_what_has_been_read_is_not_read_again() -> None:
    topics = Topics(1)
    for number in range(1_000):
        topics.write(0, "paid", number, NOON + number)

    async def story(asking: Asking) -> None:
        asking.now_ms = NOON + 1_000
        assert len((await asking.ask(ask("paid", number=None, since_ms=NOON))).events) == 1_000
        before = topics.calls
        answer = await asking.ask(ask("paid", number=700, since_ms=NOON + 300))
        assert [event_seen(body)["data"] for body in answer.events] == [{"n": 700}]
        assert topics.calls - before == 1, "where the topic ends"
        topics.write(0, "paid", 700, NOON + 1_000)
        assert len((await asking.ask(ask("paid", number=700, since_ms=NOON + 300))).events) == 2
        assert topics.calls - before == 3, "and what is new"

    run(story, Asking(topics))


def test_too_much_is_not_read_and_the_answer_says_so() -> None:
    topics = Topics(1)
    for number in range(2_000):
        topics.write(0, "paid", number, NOON + number)

    async def story(asking: Asking) -> None:
        asking.now_ms = NOON + 2_000
        answer = await asking.ask(ask("paid", number=None, since_ms=NOON))
        latest = [event_seen(body)["data"]["n"] for body in answer.events]
        assert latest == list(range(2_000 - len(latest), 2_000))
        assert 0 < len(latest) < 2_000
        assert answer.cut_ms == NOON + 2_000 - len(latest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookback, "BLOCK", 10)
        run(story, Asking(topics, most_bytes=50_000))


def test_of_many_candidates_the_latest_are_given() -> None:
    topics = Topics(2)
    for number in range(20):
        topics.write(number % 2, "paid", number, NOON + number)

    async def story(asking: Asking) -> None:
        answer = await asking.ask(ask("paid", number=None, since_ms=NOON))
        assert [event_seen(body)["data"]["n"] for body in answer.events] == [17, 18, 19]
        assert answer.cut_ms == NOON + 16

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookback, "MOST_TRIED", 3)
        run(story, Asking(topics))


def test_names_that_nobody_asks_for_any_more_are_forgotten() -> None:
    topics = Topics(1)
    topics.write(0, "paid", 1, NOON)

    async def story(asking: Asking) -> None:
        question = ask("paid", number=None, since_ms=NOON)
        await asking.ask(question)
        asking.now_ms += 3_600_000
        await asking.ask(ask("shipped", number=None, since_ms=asking.now_ms))
        before = topics.calls
        assert len((await asking.ask(question)).events) == 1
        assert topics.calls - before == 3, "the end, the offset and the record"

    run(story, Asking(topics))


def test_what_fails_is_tried_again_and_what_is_forgotten_is_not_answered() -> None:
    topics = Topics(1)
    topics.write(0, "paid", 1, NOON)
    question = ask("paid", number=None, since_ms=NOON)

    async def story(asking: Asking) -> None:
        topics.fails = 2
        assert len((await asking.ask(question)).events) == 1
        assert asking.lookback.take([question]) == []
        asking.lookback.forget(lambda _: True)
        await asking.ask(question)
        assert asking.answers.empty()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookback, "AGAIN_S", 0)
        run(story, Asking(topics))


def test_other_effects_are_handed_on() -> None:
    asking = Asking(Topics(1))
    assert asking.lookback.take([Answer(1), ask("paid", number=None, since_ms=0), Answer(2)]) == [Answer(1), Answer(2)]
