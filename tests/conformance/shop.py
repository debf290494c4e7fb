"""The app that runs on every log: one small function for each thing that users see."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from steplog import App, Context, ContextSync, Event, FunctionFailed, NonRetriableError, StepError, TriggerEvent

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PARKED_AFTER_MS = 7_200_000  # between the two: so it is known which runs stay in memory
SOON = timedelta(milliseconds=30)


async def value(of: Any) -> Any:
    return of


class Shop:
    """The app, what its bodies have done, and where they wait to be told to go on."""

    def __init__(self, *, topic: str) -> None:
        self.bodies: Counter[str] = Counter()
        self.may_look_back, self.is_parked = asyncio.Event(), asyncio.Event()
        self.app = App("shop", version="7")
        self._declare_steps()
        self._declare_errors()
        self._declare_waits()
        self._declare_calls()
        self._declare_starts(topic)

    def _declare_steps(self) -> None:
        app = self.app

        @app.function("order", trigger="order/placed")
        async def order(ctx: Context) -> dict[str, Any]:
            charged = await ctx.step.run("charge", value, [1, 2.5, None, "é🦆"])
            again = await ctx.step.run("charge", value, ctx.event.data["n"])
            await ctx.step.sleep("nap", SOON)
            return {"charged": charged, "again": again}

        @app.function("branches", trigger="branches/placed")
        async def branches(ctx: Context) -> list[str]:
            ended = {name: asyncio.Event() for name in "ab"}

            async def after(name: str) -> str:
                await ended[name].wait()
                return name

            async def first() -> str:
                ended["a"].set()
                return "first"

            async def branch(step: str, before: str, name: str) -> str:
                got: str = await ctx.step.run(step, after, before)
                ended[name].set()
                return got

            return list(
                await asyncio.gather(
                    ctx.step.run("last", after, "b"), branch("second", "a", "b"), ctx.step.run("first", first)
                )
            )

        @app.function("plain", trigger="plain/placed")
        def plain(ctx: ContextSync) -> int:
            one: int = ctx.step.run("one", lambda: 1)
            return one + ctx.step.run("two", lambda: 2)

    def _declare_errors(self) -> None:
        app, bodies = self.app, self.bodies

        async def flaky() -> int:
            bodies["flaky"] += 1
            if bodies["flaky"] < 3:
                raise ValueError(f"not the {bodies['flaky']}. time")
            return bodies["flaky"]

        @app.function("flaky", trigger="flaky/placed", retries=3)
        async def flaky_steps(ctx: Context) -> int:
            result: int = await ctx.step.run("charge", flaky)
            bodies["own code"] += 1
            if bodies["own code"] == 1:
                raise KeyError("own code")
            return result

        async def refuse() -> None:
            bodies["refused"] += 1
            raise NonRetriableError("never")

        async def broken() -> None:
            raise ValueError("again")

        async def note(ctx: Context[FunctionFailed]) -> list[Any]:
            failed = ctx.event.data
            return [failed.error.message, failed.function_id, failed.event.data]

        @app.function("broken", trigger="broken/placed", retries=1, on_failure=note)
        async def broken_steps(ctx: Context) -> None:
            try:
                await ctx.step.run("refused", refuse)
            except StepError as error:
                await ctx.step.run("made good", value, error.message)
            await ctx.step.run("broken", broken)

    def _declare_waits(self) -> None:
        app = self.app

        @app.function("paid", trigger="paid/placed")
        async def paid(ctx: Context) -> Any:
            event = await ctx.step.wait_for_event("wait", event="paid/paid", match="data.order", timeout=HOUR)
            return None if event is None else event.data

        @app.function("both", trigger="both/placed")
        async def both(ctx: Context) -> Any:
            events = await ctx.step.wait_for_event("wait", all_of=("both/one", "both/two"), timeout=HOUR)
            return None if events is None else [event.data for event in events]

        @app.function("silence", trigger="silence/placed")
        async def silence(ctx: Context) -> Any:
            event = await ctx.step.wait_for_event("event", event="silence/never", timeout=SOON)
            signal = await ctx.step.wait_for_signal("signal", signal="silence", timeout=SOON)
            return [event, signal]

        @app.function("earlier", trigger="earlier/placed")
        async def earlier(ctx: Context) -> Any:
            await self.may_look_back.wait()
            event = await ctx.step.wait_for_event("wait", event="earlier/came", since="trigger", timeout=HOUR)
            return None if event is None else event.data

        @app.function("approved", trigger="approved/placed")
        async def approved(ctx: Context) -> Any:
            heard = await ctx.step.wait_for_signal("wait", signal="approve/7", timeout=HOUR)
            return None if heard is None else heard.data

        @app.function("approver", trigger="approved/given")
        async def approver(ctx: Context) -> Any:
            nobody = await ctx.step.send_signal("nobody", "approve/8", 1)
            return [nobody, await ctx.step.send_signal("send", "approve/7", {"by": "ann"})]

        @app.function("parked", trigger="parked/placed")
        async def parked(ctx: Context) -> Any:
            before = await ctx.step.run("before", value, "before")
            try:
                event = await ctx.step.wait_for_event("wait", event="parked/go-on", timeout=DAY)
            finally:
                self.is_parked.set()  # its coroutine is closed
            return [before, None if event is None else event.data]

        app.function("killed", trigger="killed/placed")(self._interrupted("killed"))
        app.function("stopped", trigger="stopped/placed")(self._interrupted("stopped"))

    def _interrupted(self, name: str) -> Callable[[Context], Coroutine[Any, Any, Any]]:
        async def before() -> str:
            self.bodies[name] += 1
            return "before"

        async def interrupted(ctx: Context) -> Any:
            first = await ctx.step.run("before", before)
            event = await ctx.step.wait_for_event("wait", event=f"{name}/go-on", timeout=HOUR)
            return [first, None if event is None else event.data, await ctx.step.run("after", value, "after")]

        return interrupted

    def _declare_calls(self) -> None:
        app = self.app

        @app.function("callee")
        async def callee(ctx: Context) -> int:
            number: int = await ctx.step.run("double", value, 2 * ctx.event.data["n"])
            return number

        @app.function("callee-that-fails", retries=0)
        async def callee_that_fails(ctx: Context) -> None:
            raise ValueError("not today")

        @app.function("caller", trigger="caller/placed")
        async def caller(ctx: Context) -> list[Any]:
            doubled = await ctx.step.invoke("call", function=callee, data={"n": 21}, timeout=HOUR)
            try:
                await ctx.step.invoke("call in vain", function=callee_that_fails, data={}, timeout=HOUR)
            except StepError as error:
                return [doubled, error.message]
            return [doubled]

        @app.function("sender", trigger="sender/placed")
        async def sender(ctx: Context) -> int:
            sent = [Event(name="sender/sent", data={"n": 1}, id="sent-1"), Event(name="sender/nobody", data={})]
            return len(await ctx.step.send_event("send", sent))

        @app.function("receiver", trigger="sender/sent")
        async def receiver(ctx: Context) -> Any:
            return [ctx.event.id, ctx.event.data]

    def _declare_starts(self, topic: str) -> None:
        app = self.app

        @app.function("once", trigger="once/placed")
        async def once(ctx: Context) -> Any:
            return ctx.event.data["n"]

        @app.function("filtered", trigger=TriggerEvent("filtered/placed", "event.data.n > 1"))
        async def filtered(ctx: Context) -> Any:
            return ctx.event.data["n"]

        @app.function("any", trigger="any/*")
        async def any_of_them(ctx: Context) -> str:
            return ctx.event.name

        @app.function("later", trigger="later/placed")
        async def later(ctx: Context) -> str:
            return "later"

        @app.function("ledger", trigger="ledger/placed", retries=0)
        async def ledger(ctx: Context) -> str:
            return (await ctx.step.produce("write", topic=topic, key="k", value={"n": 1}, headers={"to": "ann"})).topic
