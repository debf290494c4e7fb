"""The app of the golden logs. A function that a log here has open runs of is never changed; new ones are added."""

import asyncio
from datetime import timedelta

from steplog import App, Context, ContextSync, Event, FunctionFailed, NonRetriableError, StepError

app = App("golden", version="1")


async def double(number: int) -> int:
    return 2 * number


async def refuse() -> None:
    raise ValueError("it is refused")


async def note(ctx: Context[FunctionFailed]) -> str:
    return f"noted: {ctx.event.data.error.message}"


@app.function("complete", trigger="golden/placed")
async def complete(ctx: Context) -> dict[str, object]:
    one, two = await asyncio.gather(ctx.step.run("one", double, 1), ctx.step.run("two", double, 2))
    await ctx.step.sleep("nap", timedelta(milliseconds=1))
    ids = await ctx.step.send_event("tell", [Event(name="golden/told", data={"n": one}, id="told-1")])
    called = await ctx.step.invoke("call", function=called_back, data={"n": two})
    return {"sum": one + two, "told": len(ids), "called": called, "text": "é🦆"}


@app.function("called-back")
async def called_back(ctx: Context) -> int:
    number: int = await ctx.step.run("double", double, ctx.event.data["n"])
    return number


@app.function("plain", trigger="golden/told", retries=0)
def plain(ctx: ContextSync) -> int:
    return len(str(ctx.event.data))


@app.function("fail", trigger="golden/placed", retries=0, on_failure=note)
async def fail(ctx: Context) -> None:
    try:
        await ctx.step.options(retries=0).run("refused", refuse)
    except StepError as error:
        raise NonRetriableError(f"after all: {error}") from error


@app.function("wait-for-event", trigger="golden/placed")
async def wait_for_event(ctx: Context) -> object:
    before = await ctx.step.run("before", double, 21)
    paid = await ctx.step.wait_for_event(
        "paid", event="golden/paid", timeout=timedelta(days=300), if_exp="async.data.order == event.data.order"
    )
    return [before, None if paid is None else paid.data]


@app.function("wait-for-signal", trigger="golden/placed")
async def wait_for_signal(ctx: Context) -> object:
    heard = await ctx.step.wait_for_signal("go", signal="golden/go", timeout=timedelta(days=300))
    return None if heard is None else heard.data


@app.function("sleep", trigger="golden/placed")
async def sleep(ctx: Context) -> str:
    await ctx.step.sleep("long", timedelta(days=300))
    return "awake"
