"""Wrong uses: each line that is to be ignored must be an error, of that kind, and no other line may be one.

mypy holds the first half itself: it warns of what is ignored needlessly.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from steplog import (
    App,
    Context,
    ContextSync,
    Event,
    EventType,
    FunctionFailed,
    RetryAfterError,
    Step,
    TriggerCron,
    TriggerEvent,
)

DAY = timedelta(days=1)
app = App("shop")


@dataclass
class Order:
    id: str
    total: int


class Paid(msgspec.Struct):
    order: str


placed, paid = EventType("shop/order.placed", Order), EventType("shop/order.paid", Paid)
noted = EventType("shop/noted")


async def charge(order: str, amount: int, *, currency: str = "EUR") -> str:
    return order


@app.function(trigger="go")
async def uses(ctx: Context) -> None:
    step = ctx.step
    await step.run("charge", charge, "o1", "five")  # type: ignore[call-overload]
    await step.run("charge", charge, "o1")  # type: ignore[call-overload]
    await step.run("charge", charge, "o1", 5, currenzy="USD")  # type: ignore[call-arg]
    receipt: int = await step.run("charge", charge, "o1", 5)  # type: ignore[call-overload]
    await step.run(5, charge, "o1", 5)  # type: ignore[call-overload]
    await step.options(retry=1).run("charge", charge, "o1", 5)  # type: ignore[call-arg]
    await step.options(timeout="1m").run("charge", charge, "o1", 5)  # type: ignore[arg-type]
    await step.sleep("s", "5m")  # type: ignore[arg-type]
    await step.sleep("s", 1.5)  # type: ignore[arg-type]
    await step.sleep_until("s", timedelta(days=1))  # type: ignore[arg-type]
    await step.send_event("e", {"name": "e", "data": {}})  # type: ignore[arg-type]
    await step.produce("p", topic="ledger", key=5, value={})  # type: ignore[arg-type]
    await step.produce("p", value={})  # type: ignore[call-arg]
    await step.wait("w")  # type: ignore[attr-defined]
    ctx.run_id = "other"  # type: ignore[misc]
    print(receipt, Event("e", {}))  # type: ignore[call-arg]
    raise RetryAfterError("no time")  # type: ignore[call-arg]


@app.function(trigger=placed)
async def waits(ctx: Context[Order]) -> int:
    step, order = ctx.step, ctx.event.data
    print(order.price)  # type: ignore[attr-defined]
    print(order["id"])  # type: ignore[index]
    await step.wait_for_event("e", event=paid)  # type: ignore[call-overload]
    await step.wait_for_event("e", event=5, timeout=DAY)  # type: ignore[call-overload]
    await step.wait_for_event("e", event=paid, timeout=DAY, since="start")  # type: ignore[call-overload]
    await step.wait_for_event("e", event=paid, any_of=(paid, placed), timeout=DAY)  # type: ignore[call-overload]
    await step.wait_for_event("e", any_of=[paid, placed], timeout=DAY)  # type: ignore[call-overload]
    found = await step.wait_for_event("e", event=paid, timeout=DAY)
    print(found.data)  # type: ignore[union-attr]
    if found is not None:
        print(found.data.total)  # type: ignore[attr-defined]
    first = await step.wait_for_event("f", any_of=(paid, placed), timeout=DAY)
    if first is not None and paid.matches(first):
        print(first.data.total)  # type: ignore[attr-defined]
    signal = await step.wait_for_signal("s", signal="s", timeout=DAY, conflict="join")  # type: ignore[arg-type]
    print(signal.data)  # type: ignore[union-attr]
    await step.send_signal("s")  # type: ignore[call-arg]
    count: str = await step.invoke("i", function=waits, data=order)  # type: ignore[arg-type]
    await step.invoke("i", function=waits, data=Paid("o1"))  # type: ignore[misc]
    await step.invoke("i", function=charge, data=order)  # type: ignore[call-overload]
    await step.invoke_by_id("i", function=waits)  # type: ignore[call-arg]
    await step.invoke_by_id("i", function_id=waits)  # type: ignore[arg-type]
    await ctx.group.parallel([lambda: step.sleep("s", 5)])  # type: ignore[call-overload]
    await ctx.group.parallel((step.sleep("s", 5), step.sleep("s", 5)))  # type: ignore[arg-type]
    await ctx.group.parallel((lambda: step.sleep("s", 5),), mode="some")  # type: ignore[call-overload]
    return len(count)


EventType(5)  # type: ignore[call-overload]
EventType("e", {})  # type: ignore[call-overload]
placed(Paid("o1"))  # type: ignore[arg-type]
placed({"id": "o1", "total": 5})  # type: ignore[arg-type]
placed(Order("o1", 5), key="o1")  # type: ignore[call-arg]
noted(Order("o1", 5))  # type: ignore[arg-type]
TriggerEvent(5)  # type: ignore[call-overload]
TriggerCron("0 3 * * *", catch_up="first")  # type: ignore[arg-type]
TriggerCron("0 3 * * *", timedelta(minutes=1))  # type: ignore[call-arg]

app.function("f", trigger="go", concurrency=5)(uses.handler)  # type: ignore[call-overload]
app.function("f", trigger=5)(uses.handler)  # type: ignore[call-overload]
app.function("f", trigger=[5])(uses.handler)  # type: ignore[list-item]
App()  # type: ignore[call-arg]


@app.function(trigger="go")  # type: ignore[arg-type]
def plain(ctx: Context) -> None: ...


@app.function(trigger="go")  # type: ignore[arg-type]
async def three(ctx: Context, step: int, more: int) -> None: ...


@app.function(trigger=placed)  # type: ignore[arg-type]
async def other_data(ctx: Context[Paid]) -> None: ...


@app.function(trigger="shop/order.placed")  # type: ignore[arg-type]
async def name_has_no_type(ctx: Context[Order]) -> None: ...


@app.function(trigger=(placed, paid))  # type: ignore[arg-type]
async def one_of_two(ctx: Context[Order]) -> None: ...


@app.function(trigger=(TriggerCron("0 3 * * *"), placed))  # type: ignore[arg-type]
async def no_cron(ctx: Context[Order]) -> None: ...


@app.function(trigger=placed)  # type: ignore[arg-type]
async def plain_step(ctx: ContextSync[Order], step: Step) -> None: ...


async def handles_order(ctx: Context[Order]) -> None: ...
async def handles_failure(ctx: Context[FunctionFailed]) -> Any: ...


app.function(trigger=placed, on_failure=handles_order)  # type: ignore[arg-type]
app.function(trigger=placed, on_failure=handles_failure, retries=None)  # type: ignore[call-overload]
