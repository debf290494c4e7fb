"""Typed events in functions that run on a real node."""

from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from steplog import App, Context, Event, EventType, TriggerEvent
from steplog.engine import records

from .running import config, of, on_users_loop, plus_one, run_once


@dataclass
class Order:
    id: str
    total: int


class Review(pydantic.BaseModel):
    stars: int


placed, reviewed = EventType("shop/order.placed", Order), EventType("shop/reviewed", Review)


@pytest.mark.spec("EVT-23", "FN-09", "PY-54")
@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (placed(Order("o1", 5)), "Order o1 6"),
        (reviewed(Review(stars=4)), "Review 5"),
        (placed(Order("", 0)), "Order  1"),
    ],
)
def test_a_function_gets_its_events_as_their_types(event: Event[Any], expected: str) -> None:
    app = App("a")

    @app.function("f", trigger=(TriggerEvent(placed), reviewed))
    async def body(ctx: Context[Order | Review]) -> str:
        if placed.matches(ctx.event):
            order = ctx.event.data
            return f"Order {order.id} {await ctx.step.run('plus', plus_one, order.total)}"
        assert reviewed.matches(ctx.event)
        return f"Review {await ctx.step.run('plus', plus_one, ctx.event.data.stars)}"

    ended, _ = on_users_loop(run_once(app, event))
    assert (ended.status, ended.output) == ("completed", expected)


@pytest.mark.spec("EVT-23")
@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(name=placed.name, data={"id": "o1", "total": "5"}), "Order: data.total: expected int, got str"),
        (Event(name=reviewed.name, data={}), "Review: data.stars: field required"),
    ],
)
def test_data_that_does_not_fit_fails_the_run_at_once(event: Event[Any], message: str) -> None:
    app = App("a")

    @app.function("f", trigger=(placed, reviewed))
    async def body(ctx: Context[Order | Review]) -> str:
        return await ctx.step.run("name", lambda: ctx.event.name)

    ended, log = on_users_loop(run_once(app, event, config()))
    assert ended.status == "failed"
    assert ended.error == f"the data of event {event.name} does not fit {message}"
    (failed,) = of(log, records.RunFailed)
    assert failed.error.name == "EventDataInvalid"
    assert not of(log, records.RunErrored)
