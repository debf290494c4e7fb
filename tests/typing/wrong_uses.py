"""Wrong uses: each line that is to be ignored must be an error, of that kind, and no other line may be one.

mypy holds the first half itself: it warns of what is ignored needlessly.
"""

from datetime import timedelta

from steplog import App, Context, Event, RetryAfterError

app = App("shop")


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
    await step.sleep("s", "5m")  # type: ignore[arg-type]
    await step.sleep("s", 1.5)  # type: ignore[arg-type]
    await step.sleep_until("s", timedelta(days=1))  # type: ignore[arg-type]
    await step.send_event("e", {"name": "e", "data": {}})  # type: ignore[arg-type]
    await step.wait("w")  # type: ignore[attr-defined]
    ctx.run_id = "other"  # type: ignore[misc]
    print(receipt, Event("e", {}))  # type: ignore[call-arg]
    raise RetryAfterError("no time")  # type: ignore[call-arg]


app.function("f", trigger="go", concurrency=5)(uses.handler)  # type: ignore[call-arg]
app.function("f", trigger=5)(uses.handler)  # type: ignore[arg-type]
app.function("f")(uses.handler)  # type: ignore[call-arg]
App()  # type: ignore[call-arg]


@app.function(trigger="go")  # type: ignore[arg-type]
def plain(ctx: Context) -> None: ...


@app.function(trigger="go")  # type: ignore[arg-type]
async def three(ctx: Context, step: int, more: int) -> None: ...
