"""Which events are checked by a type, and what is said of data that do not fit it."""

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from steplog import App, Context, Event, EventType
from steplog.engine.events import INVOKED_EVENT, accept_event
from steplog.engine.ids import ulid
from steplog.engine.messages import EventAccepted
from steplog.errors import ConfigInvalid, EventInvalid
from steplog.event_types import EventTypes
from steplog.outgoing import outgoing_event
from steplog.server.validation import Typed

from .running import config, go, on_users_loop, running, value


@dataclass
class Address:
    city: str


@dataclass
class Order:
    id: str
    total: int
    to: Address | None = None


class Paid(msgspec.Struct):
    orders: list[Order]


class Line(pydantic.BaseModel):
    sku: str
    count: int = pydantic.Field(ge=1)


class Basket(pydantic.BaseModel):
    lines: list[Line]


class Note(TypedDict):
    text: str


placed, paid = EventType("shop/order.placed", Order), EventType("shop/order.paid", Paid)
filled, noted = EventType("shop/basket.filled", Basket), EventType("shop/noted", Note)


def accepted(name: str, data: dict[str, Any], starts: str | None = None) -> EventAccepted:
    out = outgoing_event(Event(name="any" if starts else name, data=data), None)
    return accept_event(
        msgspec.structs.replace(out, name=name), ulid(1_800_000_000_000, bytes(10)), env=0,
        received_ms=1_800_000_000_000, source="t", starts=starts,
    )  # fmt: skip


def app_of(*triggers: Any, app_id: str = "shop", event_types: tuple[EventType[Any], ...] = ()) -> App:
    """An app with one function for each trigger, or list of them: ``f0``, ``f1`` …"""
    app = App(app_id, event_types=event_types)
    for number, trigger in enumerate(triggers):
        app.function(f"f{number}", trigger=trigger)(value)
    return app


def problem(types: EventTypes, name: str, data: dict[str, Any], starts: str | None = None) -> str | None:
    found = types.misfit([accepted(name, data, starts)])
    return None if found is None else found.problem


@pytest.mark.spec("EVT-23")
@pytest.mark.parametrize(
    ("event_type", "data", "said"),
    [
        (placed, {"id": "o1", "total": 5}, None),
        (placed, {"id": "o1", "total": 5, "to": {"city": "Ulm", "unknown": 1}}, None),
        (placed, {"id": "o1", "total": "5"}, "data.total: expected int, got str"),
        (placed, {"id": "o1", "total": 5, "to": {"city": 7}}, "data.to.city: expected str, got int"),
        (placed, {}, "data: object missing required field id"),
        (paid, {"orders": [{"id": "o1", "total": 5}, {"id": "o2", "total": None}]},
         "data.orders[1].total: expected int, got null"),
        (filled, {"lines": [{"sku": "a", "count": 1}]}, None),
        (filled, {"lines": [{"sku": "a", "count": 0}]},
         "data.lines[0].count: input should be greater than or equal to 1"),
        (noted, {"text": "x"}, None),
        (noted, {"text": ["x"]}, "data.text: expected str, got array"),
    ],
)  # fmt: skip
def test_data_of_every_kind_of_type_are_checked(event_type: EventType[Any], data: Any, said: str | None) -> None:
    found = problem(EventTypes([app_of(event_type)]), event_type.name, data)
    if said is None:
        assert found is None
    else:
        assert found is not None
        where = f'(type {event_type.name} in {event_type.source}, events.validate = "refuse")'
        assert found == f"{said} {where}"


def test_the_first_misfit_of_several_events_is_named() -> None:
    types = EventTypes([app_of(placed)])
    good, bad = accepted(placed.name, {"id": "o1", "total": 5}), accepted(placed.name, {"id": 1, "total": 5})
    worse = accepted(placed.name, {})
    found = types.misfit([good, good, bad, worse])
    assert found is not None
    assert (found.index, found.problem.partition(" (")[0]) == (2, "data.id: expected str, got int")
    assert types.misfit([good] * 3) is types.misfit([]) is None


def test_a_function_sees_an_event_by_its_own_types() -> None:
    every = EventType("shop/*", Note)
    alone, beside = EventTypes([app_of(every)]), EventTypes([app_of([every, placed])])
    order, note = {"id": "o1", "total": 5}, {"text": "x"}
    assert problem(alone, placed.name, note) is problem(alone, "other/thing", {}) is None
    assert problem(alone, placed.name, order) == (
        f'data: object missing required field text (type shop/* in {every.source}, events.validate = "refuse")'
    )
    assert (
        problem(beside, placed.name, order) is problem(beside, "shop/else", note) is None
    )  # the exact name comes first
    assert "missing required field id" in str(problem(beside, placed.name, note))
    assert problem(EventTypes([app_of([every, "shop/plain"])]), "shop/plain", order) is None  # declared to be plain
    both = EventTypes([app_of(every, placed)])  # each of two functions has to read it
    assert problem(both, placed.name, order | note) is None
    assert "field text" in str(problem(both, placed.name, order))
    assert "field id" in str(problem(both, placed.name, note))


def test_two_apps_may_see_one_name_by_two_types_and_both_have_to_fit() -> None:
    types = EventTypes([app_of(placed), app_of(EventType(placed.name, Note), app_id="mail")])
    assert problem(types, placed.name, {"id": "o1", "total": 5, "text": "x"}) is None
    assert "field text" in str(problem(types, placed.name, {"id": "o1", "total": 5}))
    assert "field id" in str(problem(types, placed.name, {"text": "x"}))


def test_a_call_of_a_function_is_checked_as_the_function_reads_it() -> None:
    async def pack(ctx: Context[Order]) -> None: ...

    async def plain(ctx: Context) -> None: ...

    app = app_of([placed, paid], [placed, "plain"])
    app.function("pack")(pack)
    app.function("plain")(plain)
    types = EventTypes([app])
    order = {"id": "o1", "total": 5}
    refused = 'events.validate = "refuse")'
    for function in ("shop-f0", "shop-f1", "shop-pack", "shop-plain"):
        assert problem(types, INVOKED_EVENT, order, function) is None
    assert problem(types, INVOKED_EVENT, {"orders": []}, "shop-f0") is None  # of any of its triggers
    assert problem(types, INVOKED_EVENT, {"id": 5}, "shop-f0") == (
        "data.id: expected str, got int; or data: object missing required field orders "
        f"(type Order or Paid of shop-f0, {refused}"
    )
    assert problem(types, INVOKED_EVENT, {"id": 5}, "shop-f1") is None
    said = problem(types, INVOKED_EVENT, {"id": 5, "total": 5}, "shop-pack")
    assert said == f"data.id: expected str, got int (type Order of shop-pack, {refused}"
    assert types.typed().functions == {"shop-f0", "shop-f1", "shop-pack"}


def test_the_edge_is_told_names_alone_and_none_that_nobody_can_send() -> None:
    async def failed(ctx: Context[Any]) -> None: ...

    app = app_of(placed, EventType("audit/*", Note), "plain", EventType("also/plain"), event_types=(paid, noted))
    app.function("g", trigger="x", on_failure=failed)(value)
    typed = EventTypes([app, app_of(placed, app_id="mail")]).typed()
    assert typed.names == {placed.name, paid.name, noted.name}
    assert typed.prefixes == ("audit/",)
    covered = [name for name in (placed.name, "audit/x", "audit", "plain", "x") if typed.covers(accepted(name, {}))]
    assert covered == [placed.name, "audit/x"]
    assert not Typed().covers(accepted(placed.name, {}))
    assert EventTypes([]).typed() == Typed()


def test_an_app_lists_types_that_its_functions_wait_for() -> None:
    app = app_of(placed, event_types=(paid, placed, EventType("plain")))
    assert app.event_types == {paid.name: paid, placed.name: placed}
    assert "data.orders: expected array" in str(problem(EventTypes([app]), paid.name, {"orders": 5}))
    assert problem(EventTypes([app_of(placed)]), paid.name, {"orders": 5}) is None
    with pytest.raises(ConfigInvalid, match=r"shop/order.paid has two types: Paid \(.*\) and Note"):
        App("shop", event_types=[paid, EventType(paid.name, Note)])
    with pytest.raises(ConfigInvalid, match=r"shop/order.paid has two types: Paid \(.*\) and Note"):
        app.function("g", trigger=EventType(paid.name, Note))(value)
    wrong: Any = [paid, "shop/x", EventType("shop/*", Note)]
    with pytest.raises(ConfigInvalid) as raised:
        App("shop", event_types=wrong)
    assert raised.value.problems == [
        "event_types[1] is 'shop/x'; give an EventType whose name is no pattern",
        "event_types[2] is EventType('shop/*', Note); give an EventType whose name is no pattern",
    ]
    with pytest.raises(ConfigInvalid, match="give a list of EventType"):
        App("shop", event_types=paid)  # type: ignore[arg-type]  # on purpose


def test_names_from_outside_do_not_gather_in_memory() -> None:
    types = EventTypes([app_of(EventType("shop/*", Note))])
    assert types.misfit([accepted(f"shop/{number}", {"text": "x"}) for number in range(3_000)]) is None
    assert types._of_name.cache_info().currsize <= 1_024


def test_a_program_in_this_process_is_refused_too() -> None:
    async def pack(ctx: Context[Order]) -> str:
        return ctx.event.data.id

    app = App("shop")
    app.function("pack", trigger=placed)(pack)
    bad: dict[str, Any] = {"id": "o1", "total": "5"}

    async def story() -> None:
        settings = msgspec.structs.replace(config(), refuses_misfits=True)
        async with running(app, settings=settings) as node:
            expected = "event shop/order.placed: data.total: expected int, got str .type shop/order.placed in test_"
            for events in (Event(name=placed.name, data=bad), [go(), Event(name=placed.name, data=bad)]):
                with pytest.raises(EventInvalid, match=expected):
                    await node.send(events)
            with pytest.raises(EventInvalid, match=expected):
                await node.run(Event(name=placed.name, data=bad))
            with pytest.raises(EventInvalid, match=r"data.total: expected int, got str .type Order of shop-pack"):
                await node.invoke("shop-pack", bad)
            (ended,) = await node.run(placed(Order("o1", 5)))
            assert ended.output == (await node.invoke("shop-pack", Order("o1", 5))).output == "o1"
        async with running(app) as node:  # as it is unless one says otherwise
            (ended,) = await node.run(Event(name=placed.name, data=bad))
            assert ended.status == "failed"

    on_users_loop(story())
