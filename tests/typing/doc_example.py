"""The part of the documentation's example whose features exist: strict type checkers accept it as it stands."""

import asyncio
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, assert_type

import msgspec
import pydantic

from steplog import (
    App,
    Context,
    ContextSync,
    Event,
    EventType,
    FunctionFailed,
    NonRetriableError,
    ProducedRecord,
    RetryAfterError,
    Signal,
    Step,
    StepError,
    StepSync,
    TriggerCron,
    TriggerEvent,
    current_step,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@dataclass
class Order:
    id: str
    user: str
    total: int


class Paid(msgspec.Struct):
    order: str


class Review(pydantic.BaseModel):
    stars: int


placed = EventType("shop/order.placed", Order)
paid, voided = EventType("shop/order.paid", Paid), EventType("shop/order.voided", Paid)
reviewed, noted = EventType("shop/reviewed", Review), EventType("shop/noted")
app = App("shop", version="2026.11.1")
assert_type(placed, EventType[Order])
assert_type(noted, EventType[dict[str, Any]])
assert_type(placed(Order("o1", "u1", 5), id="o1", ts=5, v="2"), Event[Order])
assert_type(noted({"text": "…"}), Event[dict[str, Any]])


async def charge(order: str, amount: int, *, currency: str = "EUR") -> str:
    if amount > 10_000:
        raise RetryAfterError("bank closed", retry_after=timedelta(hours=8))
    return f"{current_step().key}-{currency}"  # the same key on every attempt: send it as Idempotency-Key


def pack(order: str) -> int:  # plain functions are steps too
    return len(order)


async def refund(ctx: Context[FunctionFailed]) -> None:
    failed = ctx.event.data
    assert_type(failed.events, list[Event[Any]])
    ctx.logger.error("%s of %s: %s %s", failed.function_id, failed.run_id, failed.error.message, failed.event.name)


@app.function("check-stock", trigger=placed)
async def check_stock(ctx: Context[Order]) -> int:
    return await ctx.step.run("count", pack, ctx.event.data.id)


@app.function("ship-order", trigger=TriggerEvent(placed, "event.data.total > 0"), retries=4, on_failure=refund)
async def ship_order(ctx: Context[Order]) -> str:
    order, step = ctx.event.data, ctx.step
    assert_type(order, Order)
    assert_type(ctx.events, list[Event[Order]])
    receipt = await step.run("charge", charge, order.id, order.total, currency="USD")
    assert_type(receipt, str)
    try:
        boxes = await step.options(retries=1, timeout=MINUTE).run("pack", pack, order.id)
    except StepError:  # all its attempts failed
        boxes = await step.invoke("stock", function=check_stock, data=order, timeout=DAY)
    assert_type(boxes, int)
    assert_type(await step.invoke("elsewhere", function="stock-count", data={"id": order.id}), Any)
    assert_type(await step.invoke("for-user", function=check_stock, data=order, user={"id": order.user}, v="2"), int)
    assert_type(await step.invoke_by_id("here", function_id="count", data={"id": order.id}, timeout=DAY), Any)
    assert_type(await step.invoke_by_id("there", app_id="stock", function_id="count", user={"id": "u1"}, v="2"), Any)
    first = await step.wait_for_event(
        "paid", any_of=(paid, placed), timeout=3 * DAY, since="trigger", if_exp="async.data.order == event.data.id"
    )
    assert_type(first, Event[Paid] | Event[Order] | None)
    assert_type(await step.wait_for_event("same", event=paid, timeout=DAY, match="data.order"), Event[Paid] | None)
    assert_type(Event(name="shop/bare"), Event[dict[str, Any]])
    if first is None or placed.matches(first):
        raise NonRetriableError("not paid")
    assert_type(first.data, Paid)
    assert_type(await step.wait_for_event("one", event=voided, timeout=DAY), Event[Paid] | None)
    name = await step.wait_for_event("name", event="shop/x", timeout=DAY, since="trigger")
    assert_type(name, Event[dict[str, Any]] | None)
    both = await step.wait_for_event("both", all_of=(paid, placed), timeout=DAY)
    assert_type(both, tuple[Event[Paid], Event[Order]] | None)
    three = await step.wait_for_event("three", all_of=(paid, placed, reviewed), timeout=DAY)
    assert_type(three, tuple[Event[Paid], Event[Order], Event[Review]] | None)
    four = await step.wait_for_event("four", any_of=(paid, placed, reviewed, noted), timeout=DAY)
    assert_type(four, Event[Paid] | Event[Order] | Event[Review] | Event[dict[str, Any]] | None)
    named = await step.wait_for_event("named", any_of=("shop/a", "shop/b"), timeout=DAY)
    assert_type(named, Event[dict[str, Any]] | None)
    five = await step.wait_for_event("five", all_of=(paid, voided, paid, voided, paid), timeout=DAY, since=None)
    assert_type(five, tuple[Event[Paid], ...] | None)
    await step.produce("ledger", topic="ledger", key=order.id, value={"receipt": receipt})
    written = await step.produce("raw", topic="raw", key=b"k", value=b"v", headers={"a": "b", "c": b"d"}, partition=0)
    assert_type(written, ProducedRecord)
    await step.sleep("cool-off", 5 * MINUTE)
    await step.sleep("breath", 250)
    await step.sleep_until("opening", datetime(2026, 12, 1, 8, tzinfo=UTC))
    signal = await step.wait_for_signal("manager", signal=f"approve/{order.id}", timeout=DAY, conflict="replace")
    assert_type(signal, Signal | None)
    assert_type(await step.send_signal("done", f"done/{order.id}", {"boxes": boxes}), str | None)
    label, note = await asyncio.gather(step.run("label", pack, "label"), step.run("note", charge, "note", 0))
    assert_type(label, int)
    assert_type(note, str)
    pair = await ctx.group.parallel(
        (lambda: step.run("label", pack, "label"), lambda: step.run("note", charge, "note", 0)), mode="race"
    )
    assert_type(pair, tuple[int, str])

    async def pack_one(box: str) -> int:
        return await step.run("each", pack, box)

    many = await ctx.group.parallel(tuple(partial(pack_one, box) for box in ("a", "b")))
    assert_type(many, tuple[int, ...])
    assert_type(await step.run("first", lambda: boxes + 1), int)
    ids = await step.send_event("tell", [paid(Paid(order.id), id=f"paid-{order.id}"), Event(name="x", data={"a": 1})])
    assert_type(ids, list[str])
    assert_type(ctx.attempt, int)
    assert_type(ctx.run_id, str)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid(), uuid.UUID)
    return f"{label} {note} {boxes} {receipt} {first}"


@app.function("digest", trigger=(placed, paid))
async def digest(ctx: Context[Order | Paid]) -> None:
    if placed.matches(ctx.event):
        assert_type(ctx.event.data, Order)


@app.function("three", trigger=(placed, TriggerEvent(paid, "event.data.order != ''"), reviewed))
async def three(ctx: Context[Order | Paid | Review], step: Step) -> int:
    return len(ctx.events)


@app.function("both-paid", trigger=[paid, voided])
async def both_paid(ctx: Context[Paid]) -> str:
    return ctx.event.data.order


@app.function("nightly", trigger=TriggerCron("TZ=Europe/Paris 0 3 * * *", jitter=MINUTE, catch_up="skip"))
async def nightly(ctx: Context) -> int:
    return await ctx.step.run("sum", pack, "all")


@app.function("either", trigger=(placed, TriggerCron("0 3 * * *")))
async def either(ctx: Context[Order | dict[str, Any]]) -> None: ...


@app.function("cron-first", trigger=(TriggerCron("0 3 * * *"), placed, paid))
async def cron_first(ctx: Context[dict[str, Any] | Order | Paid]) -> None: ...


@app.function("by-name", trigger=["shop/*", "shop/order.*"])
async def by_name(ctx: Context) -> None:
    assert_type(ctx.event.data, dict[str, Any])


@app.function("crons", trigger=[TriggerCron("0 3 * * *"), TriggerCron("0 4 * * *")])
async def crons(ctx: Context) -> None: ...


@app.function("mixed", trigger=["shop/*", placed, TriggerCron("0 5 * * *")])  # any data is accepted for it
async def mixed(ctx: Context[Order | dict[str, Any]]) -> None: ...


@app.function()
async def only_invoked(ctx: Context[Review]) -> int:
    return await ctx.step.invoke("again", function=only_invoked, data=ctx.event.data)


@app.function(trigger=TriggerEvent("shop/order.paid"), name="Count", retries=0)
async def count(ctx: Context, step: Step) -> int:
    async with asyncio.TaskGroup() as tasks:
        packed = tasks.create_task(step.run("pack", pack, "one"))
    assert_type(packed.result(), int)
    return len(ctx.events)


async def called() -> None:
    context: Context = Context.__new__(Context)
    assert_type(await ship_order(context), str)
    assert_type(await count(context, context.step), int)


def declare_plain_functions() -> None:
    """Plain ``def`` functions are typed; nothing runs them yet."""

    @app.function("plain", trigger=placed, on_failure=tell)
    def plain(ctx: ContextSync[Order]) -> int:
        step = ctx.step
        boxes = step.run("sum", pack, ctx.event.data.id)
        assert_type(boxes, int)
        assert_type(step.run("charge", charge, "o1", 5), str)
        step.sleep("cool-off", MINUTE)
        step.sleep_until("opening", ctx.now())
        assert_type(step.wait_for_event("paid", event=paid, timeout=DAY), Event[Paid] | None)
        both = step.wait_for_event("both", all_of=(paid, placed), timeout=DAY, since="trigger")
        assert_type(both, tuple[Event[Paid], Event[Order]] | None)
        assert_type(step.wait_for_signal("go", signal="go", timeout=DAY), Signal | None)
        assert_type(step.options(retries=0).invoke("stock", function=check_stock, data=ctx.event.data), int)
        assert_type(step.invoke("mine", function=check_stock, data=ctx.event.data, user={"id": "u1"}, v="2"), int)
        assert_type(step.invoke_by_id("there", app_id="stock", function_id="count", data={}, timeout=DAY), Any)
        assert_type(step.send_event("tell", paid(Paid("o1"))), list[str])
        assert_type(step.produce("ledger", topic="ledger", value=None), ProducedRecord)
        return boxes

    @app.function("plain-two", trigger=(placed, paid))
    def plain_two(ctx: ContextSync[Order | Paid], step: StepSync) -> str:
        return step.run("charge", charge, "o1", 5)

    def called(context: ContextSync[Order]) -> None:
        assert_type(plain(context), int)


def tell(ctx: ContextSync[FunctionFailed]) -> None:
    print(ctx.event.data.error.name)


def awaits(step: Step) -> Awaitable[int]:
    return step.invoke("plain", function=check_stock, data=Order("o1", "u1", 5))
