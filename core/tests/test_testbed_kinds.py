"""Every kind of step and function in a testbed: waits wait, and go on by what the test sends."""

from dataclasses import dataclass
from datetime import timedelta

import msgspec
import pytest

from steplog import (
    App,
    Context,
    ContextSync,
    Event,
    EventType,
    FunctionFailed,
    NonRetriableError,
    StepError,
    TriggerEvent,
)
from steplog.testing import Status, Testbed, Timeout, UnstubbedStepError, trigger

from .running import on_users_loop

DAY = timedelta(days=1)


@dataclass
class Order:
    id: str
    total: int


class Paid(msgspec.Struct):
    order: str


placed = EventType("shop/order.placed", Order)
paid, voided = EventType("shop/order.paid", Paid), EventType("shop/order.voided", Paid)
app = App("shop")
refunds: list[str] = []


async def charge(order: str, amount: int) -> str:
    return f"{order} {amount}"


def pack(order: str) -> int:
    return 2


async def refund(ctx: Context[FunctionFailed]) -> None:
    refunds.append(ctx.event.data.error.message)


@app.function("check-stock", trigger=placed)
async def check_stock(ctx: Context[Order]) -> int:
    return await ctx.step.run("count", pack, ctx.event.data.id)


@app.function("ship-order", trigger=TriggerEvent(placed, "event.data.total > 0"), on_failure=refund)
async def ship_order(ctx: Context[Order]) -> str:
    order, step = ctx.event.data, ctx.step
    receipt = await step.run("charge", charge, order.id, order.total)
    try:
        boxes = await step.options(retries=1).run("pack", pack, order.id)
    except StepError:
        boxes = await step.invoke("stock", function=check_stock, data=order)
    first = await step.wait_for_event(
        "paid", any_of=(paid, voided), timeout=3 * DAY, if_exp="async.data.order == event.data.id"
    )
    if first is None or voided.matches(first):
        raise NonRetriableError("not paid")
    both = await step.wait_for_event("both", all_of=(paid, voided), timeout=DAY)
    signal = await step.wait_for_signal("manager", signal="approve", timeout=DAY)
    await step.send_event("tell", paid(Paid("another")))
    return f"{receipt}, {boxes}, {first.data.order}, {both and both[1].data.order}, {signal}"


@app.function("settle", trigger="shop/order.packed")
async def settle(ctx: Context) -> str | None:
    await ctx.step.sleep("breath", timedelta(minutes=ctx.event.data["minutes"]))
    found = await ctx.step.wait_for_event(
        "paid", event=paid, timeout=DAY, since="trigger", if_exp="async.data.order == event.data.order"
    )
    return None if found is None else found.data.order


@app.function("nightly", trigger="shop/night")
def nightly(ctx: ContextSync) -> int:
    first = ctx.step.run("first", pack, "o1")
    ctx.step.sleep("nap", DAY)
    return first + ctx.step.run("second", pack, "o1")


@pytest.fixture(params=[False, True], ids=["live", "reentered"])
def testbed(request: pytest.FixtureRequest) -> Testbed:
    refunds.clear()
    return Testbed(force_reentry=request.param)


@pytest.mark.spec("STEP-08", "STEP-11", "STEP-13", "TEST-07", "SDK-01", "SDK-06")
def test_waits_end_by_what_is_sent_or_as_time_passes(testbed: Testbed) -> None:
    async def story() -> None:
        async with testbed:
            stubs = {"charge": "ch_1", "pack": StepError("jam")}
            run = await testbed.trigger(ship_order, placed(Order("o1", 5)), step_stubs=stubs)
            assert run.waiting_for == "paid"
            assert run.steps["pack"].attempts == 2
            assert testbed.sent(paid) == []
            assert run.events[0].data == Order("o1", 5)
            await testbed.advance(2 * DAY)
            await testbed.crash()
            await testbed.send(paid(Paid("o2")))
            assert run.waiting_for == "paid", "of another order"
            await testbed.send(paid(Paid("o1")))
            assert run.waiting_for == "both"
            await testbed.send([paid(Paid("o3")), voided(Paid("o4"))])
            assert run.waiting_for == "manager"
            await testbed.advance(DAY)
            assert await run.result() == "ch_1, 2, o1, o4, None"
            assert testbed.sent(paid) == [Paid("another")]
            assert [each.output for each in testbed.runs(check_stock)] == [2, 2], "the event's, and the invoked one"

    on_users_loop(story())


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_wait_looks_back_in_virtual_time(testbed: Testbed, is_killed: bool) -> None:
    async def story() -> None:
        async with testbed:
            soon = await testbed.trigger(settle, Event(name="shop/order.packed", data={"order": "o1", "minutes": 9}))
            late = await testbed.trigger(settle, Event(name="shop/order.packed", data={"order": "o2", "minutes": 11}))
            await testbed.send([paid(Paid("o3")), paid(Paid("o1")), paid(Paid("o2"))])
            if is_killed:
                await testbed.crash()
            await testbed.advance(timedelta(minutes=9))
            assert await soon.result() == "o1"
            await testbed.advance(timedelta(minutes=2))
            assert late.waiting_for == "paid", "of ten minutes ago nothing is known"
            await testbed.send(paid(Paid("o2")))
            assert await late.result() == "o2"

    on_users_loop(story())


def test_waits_can_be_stubbed(testbed: Testbed) -> None:
    async def story() -> None:
        async with testbed:
            stubs = {"paid": paid(Paid("o1")), "both": (paid(Paid("x")), voided(Paid("y"))), "manager": None}
            run = await testbed.trigger(ship_order, placed(Order("o1", 5)), step_stubs=stubs)
            assert await run.result() == "o1 5, 2, o1, y, None"
            run = await testbed.trigger(ship_order, placed(Order("o2", 5)), step_stubs={"paid": Timeout})
            assert (run.status, refunds) == ("failed", ["not paid"])
            stubs = {"pack": StepError("jam"), "stock": 7, "paid": lambda: voided(Paid("o3"))}
            run = await testbed.trigger(ship_order, placed(Order("o3", 5)), step_stubs=stubs)
            assert (run.steps["stock"].output, refunds) == (7, ["not paid", "not paid"])

    on_users_loop(story())


def test_plain_functions_sleep_and_are_stubbed_too(testbed: Testbed) -> None:
    async def story() -> None:
        async with testbed:
            run = await testbed.trigger(nightly, {})
            assert run.waiting_for == "nap"
            await testbed.advance(DAY)
            assert await run.result() == 4
            run = await testbed.trigger(nightly, {}, step_stubs={"first": 40, "nap": None})
            assert await run.result() == 42

    on_users_loop(story())


@pytest.mark.spec("PY-56")
def test_without_an_engine() -> None:
    event = placed(Order("o1", 5))
    with pytest.raises(UnstubbedStepError, match="step paid is not stubbed"):
        trigger(ship_order, event)
    stubs = {"paid": paid(Paid("o1")), "both": Timeout, "manager": None}
    assert trigger(ship_order, event, step_stubs=stubs).output == "o1 5, 2, o1, None, None"
    stubs = {"paid": Timeout}
    assert trigger(ship_order, event, step_stubs=stubs).status == Status.FAILED
    assert trigger(nightly, EventType("shop/night")({})).output == 4
