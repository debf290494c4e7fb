"""Types of events: what they make, what they read, and what they say of data that does not fit."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog import App, Context, Event, EventDataInvalid, EventType, FunctionFailed
from steplog.drivers.failures import describe_error
from steplog.engine import records
from steplog.engine.events import accept_event
from steplog.engine.ids import ulid
from steplog.errors import ConfigInvalid, EventInvalid
from steplog.event import Types, find_type, read_event, read_match, read_matches
from steplog.functions import FAILED
from steplog.outgoing import outgoing_event

from .running import declare, fail, of, on_users_loop, perform, run_once, value


@dataclass
class Order:
    id: str
    total: int
    at: datetime | None = None


class Paid(msgspec.Struct):
    order: str
    amount: Decimal = Decimal(0)


class Line(pydantic.BaseModel):
    sku: str
    count: int = pydantic.Field(alias="quantity", ge=1)


class Basket(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    lines: list[Line]
    at: datetime | None = None


class Shelf(msgspec.Struct):
    lines: list[Line]


class Early(msgspec.Struct):
    later: "Later"  # type: ignore[name-defined] # noqa: F821 - the point of a test


class Note(TypedDict):
    text: str


placed, paid = EventType("shop/order.placed", Order), EventType("shop/order.paid", Paid)
filled = EventType("shop/basket.filled", Basket)
MOMENT = datetime(2026, 11, 1, 8, tzinfo=UTC)


def stored(event: Event[Any]) -> bytes:
    """An event as it stands on the log."""
    out = outgoing_event(event, 256_000)
    return accept_event(out, ulid(1_800_000_000_000, bytes(10)), env=0, received_ms=1_800_000_000_000, source="t").body


def received(event: Event[Any], *types: EventType[Any]) -> Any:
    """What a function gets of an event, through its record on the log."""
    return Context(_no_run, (stored(event),), types).event.data


_no_run: Any = None


@pytest.mark.spec("EVT-01", "EVT-02", "EVT-23", "SDK-01")
def test_a_type_makes_events_with_its_name() -> None:
    event = placed(Order("o1", 5), id="i", ts=1_800_000_000_000, v="2", user={"id": "u"})
    assert event == Event(
        name="shop/order.placed", data=Order("o1", 5), id="i", ts=1_800_000_000_000, v="2", user={"id": "u"}
    )
    assert (placed.name, placed.data_type, repr(placed)) == (
        "shop/order.placed",
        Order,
        "EventType('shop/order.placed', Order)",
    )
    assert placed.source.startswith("test_api_events.py:")
    assert EventType("shop/noted")({"text": "x"}) == Event(name="shop/noted", data={"text": "x"})


@pytest.mark.spec("EVT-23", "SDK-04", "PY-54")
@pytest.mark.parametrize(
    ("event", "data_type"),
    [
        (placed(Order("o1", 5, MOMENT)), placed),
        (paid(Paid("o1", Decimal("1.10"))), paid),
        (filled(Basket(lines=[Line(sku="a", quantity=2)], at=MOMENT)), filled),
        (EventType("shelf", Shelf)(Shelf([Line(sku="a", quantity=1)])), EventType("shelf", Shelf)),
        (EventType("note", Note)({"text": "x"}), EventType("note", Note)),
        (EventType("any")({"a": [1, None, {"b": 1.5}]}), EventType("any")),
        (EventType("ints", dict[int, str])({1: "a"}), EventType("ints", dict[int, str])),
    ],
)
def test_data_arrives_as_the_type_that_it_was_sent_as(event: Event[Any], data_type: EventType[Any]) -> None:
    data = received(event, data_type)
    assert data == event.data
    assert type(data) is type(event.data)


@given(st.builds(Order, st.text(), st.integers(-(2**62), 2**62), st.none() | st.datetimes(timezones=st.just(UTC))))
def test_any_order_survives_the_log(order: Order) -> None:
    assert received(placed(order), placed) == order


def test_without_a_type_data_is_plain_json() -> None:
    assert received(placed(Order("o1", 5))) == {"id": "o1", "total": 5, "at": None}
    assert received(Event(name="other", data={"id": 5}), placed) == {"id": 5}


@pytest.mark.spec("EVT-23")
@pytest.mark.parametrize(
    ("data_type", "data", "problem"),
    [
        (Order, {"id": "o1", "total": "5"}, "data.total: expected int, got str"),
        (Order, {"id": "o1"}, "data: object missing required field total"),
        (Order, {"id": "o1", "total": 5, "at": "noon"}, "data.at: invalid RFC3339 encoded datetime"),
        (Shelf, {"lines": [{"sku": "a", "quantity": 1}, 5]}, "data.lines[1]: input should be an object"),
        (Shelf, {"lines": [{"quantity": 0}]},
         "data.lines[0].sku: field required; data.lines[0].quantity: input should be greater than or equal to 1"),
        (Basket, {"lines": [{"sku": "a", "quantity": "2"}], "at": "2026-11-01T08:00:00Z"}, None),
        (Basket, {"lines": [{"sku": "a", "quantity": []}]}, "data.lines[0].quantity: input should be a valid integer"),
        (dict[str, Any], {"anything": None}, None),
    ],
)  # fmt: skip
def test_a_misfit_names_its_path(data_type: Any, data: dict[str, Any], problem: str | None) -> None:
    event_type: EventType[Any] = EventType("e", data_type)
    assert event_type.check(json.dumps(data).encode()) == problem
    if problem is not None:
        with pytest.raises(EventDataInvalid) as raised:
            _ = received(Event(name="e", data=data), event_type)
        assert str(raised.value) == f"the data of event e does not fit {data_type.__name__}: {problem}"
        assert (raised.value.event, raised.value.problem) == ("e", problem)


def test_what_a_types_own_check_raises_is_a_misfit() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise {1: ValueError, 3: KeyError}[self.number](f"{self.number} is odd")

    even = EventType("even", Even)
    assert even.check(b'{"number": 1}') == "data: 1 is odd"
    assert even.check(b'{"number": 3}') == "data: '3 is odd'"
    assert even.check(b'{"number": 4}') is None


@pytest.mark.spec("EVT-23", "PY-54")
def test_a_misfit_fails_the_run_without_retries() -> None:
    async def body(ctx: Context) -> None:
        placed.decode(b'{"id": "o1", "total": "5"}')

    failed, log = fail(body, retries=5)
    assert failed.error.name == "EventDataInvalid"
    assert failed.error.message.endswith("does not fit Order: data.total: expected int, got str")
    assert of(log, records.RunErrored) == []
    assert describe_error(ExceptionGroup("two", [EventDataInvalid("e", "Order", "data: x")]), 0).is_final


def test_data_is_read_once_and_only_when_it_is_asked_for() -> None:
    context: Context[Order] = Context(_no_run, (stored(Event(name=placed.name, data={"total": 5})),), (placed,))
    with pytest.raises(EventDataInvalid):
        _ = context.event
    context = Context(_no_run, (stored(placed(Order("o1", 5))),), (placed,))
    assert context.event.data is context.events[0].data


@pytest.mark.spec("FN-09", "FN-10")
def test_each_event_is_read_by_the_type_of_its_name() -> None:
    every: Types = (EventType("shop/*", Note), placed, EventType("shop/order.*", Paid), EventType("shop/plain"))
    bodies = tuple(
        stored(Event(name=name, data=data))
        for name, data in (
            ("shop/order.placed", {"id": "o1", "total": 5}), ("shop/order.x", {"text": "x"}),
            ("shop/plain", {"id": 5}), ("elsewhere", {"id": 5}),
        )
    )  # fmt: skip
    data = [event.data for event in Context[Any](_no_run, bodies, every).events]
    assert data == [Order("o1", 5), {"text": "x"}, {"id": 5}, {"id": 5}]
    assert find_type("elsewhere", every) is None


@pytest.mark.spec("FN-09")
def test_data_that_a_function_is_invoked_with_is_of_one_of_its_types() -> None:
    def invoked(data: str, *types: EventType[Any]) -> Any:
        body = stored(Event(name="e", data={})).replace(b'"name":"e"', b'"name":"inngest/function.invoked"')
        return read_event(body.replace(b'"data":{}', f'"data":{data}'.encode()), types).data

    assert invoked('{"id":"o1","total":5}', placed) == Order("o1", 5)
    assert invoked('{"order":"o1"}', placed, paid) == Paid("o1")
    assert invoked('{"x":1}', EventType("any"), placed) == {"x": 1}
    assert invoked('{"id":"o1","total":5}', EventType("any"), placed) == Order("o1", 5)
    with pytest.raises(EventDataInvalid, match=r"Order or Paid: .*field id; or .*field order"):
        invoked("{}", placed, paid)


@pytest.mark.spec("FN-08", "SDK-02")
def test_a_type_matches_events_of_its_name_or_pattern() -> None:
    every = EventType("app/*")
    assert placed.matches(placed(Order("o1", 5)))
    assert not placed.matches(paid(Paid("o1")))
    names = ["app/user.created", "app/blog.post.published", "apps/x", "other/app/x"]
    assert [every.matches(Event(name=name, data={})) for name in names] == [True, True, False, False]
    with pytest.raises(EventInvalid, match=r"app/\* is a pattern of names"):
        every({})


@pytest.mark.spec("FN-08", "EVT-08")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("app/user.update*", r"* stands only at the end, directly after / or .; did you mean 'app/user.*'?"),
        ("app/blog.*.published", r"* stands only at the end, directly after / or .; did you mean 'app/blog.*'?"),
        ("app/*/x*", r"did you mean 'app/*'?"),
        ("order*", r"* stands only at the end, directly after / or ."),
        ("*", r"* stands only at the end, directly after / or ."),
        ("", "name is ''; give the name of an event"),
        (5, "name is 5; give the name of an event"),
        ("x" * 257, "name has 257 characters, the limit is 256"),
    ],
)
def test_a_name_or_pattern_that_cannot_work_is_refused(name: Any, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        EventType(name)
    assert raised.value.problems[0].endswith(problem)


@pytest.mark.parametrize("data_type", [int, str, list[int], int | str, bytes, object.__class__, asyncio.Event, 5])
def test_a_type_of_data_is_a_class_whose_json_is_an_object(data_type: Any) -> None:
    with pytest.raises(ConfigInvalid, match=r"2 problems in event type \n  name is .*\n  data type is "):
        EventType("", data_type)


def test_names_in_annotations_may_be_defined_later() -> None:
    early = EventType("early", Early)
    globals()["Later"] = Paid
    try:
        assert early.decode(b'{"later": {"order": "o1"}}').later == Paid("o1")
    finally:
        del globals()["Later"]


@pytest.mark.spec("EVT-20", "PY-31", "STEP-17")
def test_a_function_sends_typed_events() -> None:
    async def body(ctx: Context) -> list[str]:
        return await ctx.step.send_event(
            "tell", [paid(Paid("o1")), filled(Basket(lines=[Line(sku="a", quantity=1)])), placed(Order("o1", 5))]
        )

    ids, log = perform(body)
    sent = [read_event(each, (paid, filled, placed)) for _, bodies in log.events for each in bodies][-3:]
    assert [event.id for event in sent] == ids
    assert [event.data for event in sent] == [
        Paid("o1"), Basket(lines=[Line(sku="a", quantity=1)]), Order("o1", 5)
    ]  # fmt: skip


@pytest.mark.parametrize("data", [[1], "text", 5, Paid, asyncio.Lock, {1.5j: 1}, {"at": float("nan")}])
def test_data_that_is_no_object_cannot_be_sent(data: Any) -> None:
    with pytest.raises(EventInvalid, match="the data of event e"):
        outgoing_event(Event(name="e", data=data), 256_000)


def test_a_number_that_is_not_finite_is_found_inside_a_model() -> None:
    class Weight(pydantic.BaseModel):
        grams: float

    with pytest.raises(EventInvalid, match=r"\$.grams is not a finite number"):
        outgoing_event(Event(name="e", data=Weight(grams=float("inf"))), 256_000)


@pytest.mark.spec("STEP-03", "PY-25", "PY-34")
def test_a_step_may_return_a_model() -> None:
    async def fills() -> Basket:
        return Basket(lines=[Line(sku="a", quantity=3)], at=MOMENT)

    async def body(ctx: Context) -> int:
        basket = await ctx.step.run("fill", fills)
        assert basket == await fills()
        return basket.lines[0].count

    assert perform(body)[0] == 3


def test_what_a_wait_recorded_is_read_by_its_types() -> None:
    one, two = stored(placed(Order("o1", 5))), stored(paid(Paid("o1")))
    found = read_match(one, (placed, paid))
    assert found is not None
    assert (found.name, found.data, found.ts) == (placed.name, Order("o1", 5), 1_800_000_000_000)
    both = read_matches(b"[%s,%s]" % (one, two), (placed, paid))
    assert both is not None
    assert [event.data for event in both] == [Order("o1", 5), Paid("o1")]
    assert read_match(b"null", (placed,)) is None
    assert read_matches(b"null", (placed,)) is None


def test_the_data_of_a_failure_is_typed() -> None:
    data = {
        "error": {"name": "ValueError", "message": "no", "stack": "…", "__serialized": True, "error": "ValueError: no"},
        "event": {"name": "go", "data": {"n": 1}, "id": "e1", "ts": 5},
        "function_id": "a-f", "run_id": "r1",
    }  # fmt: skip
    failed = FAILED.decode(json.dumps(data).encode())
    assert (failed.error.name, failed.error.message, failed.error.cause) == ("ValueError", "no", None)
    assert (failed.event.name, failed.event.data, failed.function_id, failed.run_id) == ("go", {"n": 1}, "a-f", "r1")
    assert failed.events == [failed.event]
    more = FAILED.decode(json.dumps(data | {"events": [data["event"], {"name": "x", "data": {}}]}).encode())
    assert [event.name for event in more.events] == ["go", "x"]
    assert isinstance(more, FunctionFailed)


def test_pydantic_is_never_imported_by_steplog() -> None:
    code = "import sys, steplog, steplog.node; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"


def test_a_program_sends_typed_events() -> None:
    async def body(ctx: Context) -> Any:
        return ctx.event.data

    ended, _ = on_users_loop(run_once(declare(body, trigger=placed.name), placed(Order("o1", 5))))
    assert ended.output == {"id": "o1", "total": 5, "at": None}


def test_an_app_knows_the_types_that_its_triggers_name() -> None:
    app = App("a")
    app.function("f", trigger=(placed, paid))(value)
    app.function("g", trigger=["plain", EventType("also/plain")])(value)
    assert app.event_types == {placed.name: placed, paid.name: paid}
    app.function("h", trigger=EventType(placed.name, Order))(value)  # the same, written again
    other = EventType(placed.name, Paid)
    with pytest.raises(ConfigInvalid, match=r"placed has two types: Order \(test_.*:\d+\) and Paid \(test_.*:\d+\)"):
        app.function("i", trigger=other)(value)
    assert "a-i" not in app.functions
    assert app.event_types[placed.name] is placed
