"""The part of the documentation's example whose features exist: strict type checkers accept it as it stands."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from steplog import (
    App,
    Context,
    Event,
    NonRetriableError,
    RetryAfterError,
    Step,
    StepError,
    TriggerEvent,
    current_step,
)

MINUTE = timedelta(minutes=1)
app = App("shop", version="2026.11.1")


async def charge(order: str, amount: int, *, currency: str = "EUR") -> str:
    if amount > 10_000:
        raise RetryAfterError("bank closed", retry_after=timedelta(hours=8))
    return f"{current_step().key}-{currency}"  # the same key on every attempt: send it as Idempotency-Key


def pack(order: str) -> int:  # plain functions are steps too
    return len(order)


@app.function("ship-order", trigger="shop/order.placed", retries=4)
async def ship_order(ctx: Context) -> str:
    order, step = ctx.event.data, ctx.step
    assert_type(order, dict[str, Any])
    receipt = await step.run("charge", charge, order["id"], order["total"], currency="USD")
    assert_type(receipt, str)
    try:
        boxes = await step.run("pack", pack, order["id"])
        assert_type(boxes, int)
    except StepError as error:  # all its attempts failed
        raise NonRetriableError(error.message) from error
    await step.sleep("cool-off", 5 * MINUTE)
    await step.sleep("breath", 250)
    await step.sleep_until("opening", datetime(2026, 12, 1, 8, tzinfo=UTC))
    label, note = await asyncio.gather(step.run("label", pack, "label"), step.run("note", charge, "note", 0))
    assert_type(label, int)
    assert_type(note, str)
    first = await step.run("first", lambda: boxes + 1)
    assert_type(first, int)
    ids = await step.send_event("tell", [Event(name="shop/order.paid", data={"order": order["id"]}, id="paid")])
    assert_type(ids, list[str])
    assert_type(ctx.attempt, int)
    assert_type(ctx.run_id, str)
    return f"{label} {note} {boxes} {receipt} {first}"


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
