"""What connectors are made of, without a broker: records as events, keys that are parked, the way in."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.config.connectors import KafkaConnector
from steplog.connectors.entrance import entrance
from steplog.connectors.parking import Parking
from steplog.connectors.records import Poison, to_event
from steplog.dead.kafka import of_record, to_record
from steplog.dead.letters import Entry, Letter
from steplog.engine.messages import EventAccepted
from steplog.engine.operations import EventOut
from steplog.kafka_record import Record
from steplog.server.ingest import read_event
from steplog.server.validation import Misfit, Typed, Validation

TABLE = KafkaConnector(topics=("orders",), brokers=("b",))
RECORD = Record("orders", 3, 12, b"k", b"1", (), 1_700_000_000_000)
optional_bytes = st.none() | st.binary(max_size=20)
headers = st.lists(st.tuples(st.text(max_size=5), optional_bytes), max_size=3).map(tuple)


@given(
    value=optional_bytes | st.from_regex(rb"[\[\]{}\",:0-9eE.\-+ ]{0,12}"), key=optional_bytes,
    headers=st.none() | headers,
    timestamp=st.none() | st.integers(-(1 << 63), (1 << 63) - 1), form=st.sampled_from(("json", "text", "bytes")),
)  # fmt: skip
def test_a_record_is_an_event_that_the_api_would_take_or_poison(
    value: bytes | None, key: bytes | None, headers: Any, timestamp: int | None, form: Any
) -> None:
    table = msgspec.structs.replace(TABLE, format=form)
    try:
        event = to_event(Record("orders", 3, 12, key, value, headers, timestamp), table, "topic-id", 1_000)
    except Poison:
        return
    sent = {"name": event.name, "id": event.id, "ts": event.ts, "data": msgspec.Raw(event.data)}
    assert read_event(msgspec.json.encode(sent), 100_000) == event
    data = json.loads(event.data)
    assert (data["offset"], data["timestamp"], event.id) == (12, timestamp, "kafka:orders/3/12@topic-id")
    if form == "json" and value is not None:
        assert data["value"] == json.loads(value)


def test_a_header_that_is_repeated_keeps_its_last_value() -> None:
    event = to_event(RECORD._replace(headers=(("h", b"1"), ("h", b"2"))), TABLE, "", 1_000)
    assert json.loads(event.data)["headers"] == {"h": "2"}


# --- what is parked


def entry(offset: int, key: bytes | None = b"k", **fields: Any) -> Entry:
    made = Entry(topic="orders", partition=0, offset=offset, reason="", parked_ms=0, connector="c", key=key)
    return msgspec.structs.replace(made, **fields)


def offsets(due: Iterable[Sequence[Entry]]) -> list[list[int]]:
    return [[each.offset for each in letters] for letters in due]


OWNED = {("orders", 0)}


def test_a_key_waits_for_its_first_letter() -> None:
    parking = Parking("c", [entry(7, behind="c:orders/0/5"), entry(5), entry(1, connector="other"), entry(2, key=None)])
    assert parking.blocker("orders", b"k") == "c:orders/0/5"
    assert (
        parking.blocker("returns", b"k") is parking.blocker("orders", b"l") is parking.blocker("orders", None) is None
    )
    assert (parking.has("c:orders/0/7"), parking.has("other:orders/0/1")) == (True, False)
    assert offsets(parking.due(OWNED)) == []
    parking.remove(entry(5))
    assert parking.blocker("orders", b"k") == "c:orders/0/7"
    assert offsets(parking.due(OWNED)) == [[7]]
    parking.remove(entry(7))
    parking.remove(entry(7))
    assert parking.blocker("orders", b"k") is None


def test_a_retry_takes_along_what_waits_up_to_the_next_fault() -> None:
    letters = [entry(1, state="retry"), entry(2, behind="x"), entry(3), entry(4, state="retry")]
    parking = Parking(
        "c", [*letters, entry(9, key=None, state="retry"), entry(8, key=b"l", state="retry", partition=1)]
    )
    assert offsets(parking.due(OWNED)) == [[1, 2], [9]]
    parking.add(entry(1))  # it still is none
    assert offsets(parking.due(OWNED)) == [[9]]
    assert offsets(parking.due(set())) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 9)), max_size=30))
def test_the_first_of_a_key_is_always_the_blocker(changes: list[tuple[str, bool, int]]) -> None:
    parking, model = Parking("c"), dict[str, set[int]]()
    for key, is_added, offset in changes:
        changed = entry(offset if key == "a" else offset + 10, key.encode())
        kept = model.setdefault(key, set())
        (parking.add if is_added else parking.remove)(changed)
        (kept.add if is_added else kept.discard)(changed.offset)
        blocker = parking.blocker("orders", key.encode())
        assert blocker == (f"c:orders/0/{min(kept)}" if kept else None)


@given(
    st.builds(
        Letter,
        entry=st.builds(
            Entry, topic=st.just("t"), partition=st.just(1), offset=st.integers(0, 99), reason=st.text(max_size=9),
            parked_ms=st.integers(0, 1 << 50), connector=st.none() | st.just("c"), key=optional_bytes,
            state=st.sampled_from(("parked", "retry")), behind=st.none() | st.just("x"),
            incarnation=st.text(max_size=3),
        ),
        value=optional_bytes, headers=headers, timestamp_ms=st.none() | st.integers(-1, 1 << 50),
    )
)  # fmt: skip
def test_a_letter_is_a_record_that_reads_back_the_same(letter: Letter) -> None:
    key, value, written = to_record(letter)
    assert key.decode() == letter.entry.id
    assert of_record(Record("dead", 0, 0, key, value, written, None)) == letter


# --- the way in


class Turns:
    """What commits."""

    def __init__(self) -> None:
        self.groups: list[list[EventAccepted]] = []

    def now_ms(self) -> int:
        return 1_800_000_000_000

    async def submit(self, events: list[EventAccepted]) -> int:
        self.groups.append(events)
        return len(self.groups)


def test_events_are_one_group_that_names_its_source() -> None:
    turns = Turns()
    events = [EventOut(name="shop/ordered", data=b'{"n":%d}' % n, id=f"kafka:{n}") for n in range(3)]
    assert asyncio.run(_accept(entrance(turns, "connector/orders"), events)) is None
    ((first, second, last),) = turns.groups
    assert [event.is_last for event in (first, second, last)] == [False, False, True]
    assert all(event.is_repeatable for event in (first, second, last)), "they start at most one run a function"
    stored = json.loads(last.body)
    assert (stored["source"], stored["id"], stored["received_at"]) == ("connector/orders", "kafka:2", 1_800_000_000_000)


def test_of_a_group_with_a_misfit_nothing_is_accepted() -> None:
    turns = Turns()

    def ask(events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        answer: asyncio.Future[Misfit | None] = asyncio.get_running_loop().create_future()
        answer.set_result(Misfit(1, "not so"))
        return answer

    async def story() -> Misfit | None:
        validation = Validation(Typed(names=frozenset({"typed"})), ask)
        events = [EventOut(name=name, data=b"{}") for name in ("plain", "typed", "typed")]
        return await entrance(turns, "connector/orders", validation)(events)

    assert asyncio.run(story()) == Misfit(2, "not so")
    assert turns.groups == []


async def _accept(accept: Any, events: list[EventOut]) -> Misfit | None:
    found: Misfit | None = await accept(events)
    return found


@pytest.mark.parametrize("form", ["json", "text", "bytes"])
def test_an_event_that_would_be_too_large_is_poison(form: Any) -> None:
    table = msgspec.structs.replace(TABLE, format=form)
    with pytest.raises(Poison, match=r"the limit is 300 \(limits\.event_size\)"):
        to_event(RECORD._replace(value=b'"' + b"x" * 300 + b'"'), table, "", 300)
