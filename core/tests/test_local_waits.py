"""Waits, signals and calls of functions on a real node: live, parked at once, and replayed after a crash."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from steplog import App, Context, ContextSync, Event, EventType, Signal, StepError
from steplog.engine import records
from steplog.log.memory import MemoryLog
from steplog.node import NodeConfig

from .running import (
    Heard,
    config,
    crashing,
    fail,
    go,
    of,
    on_users_loop,
    perform,
    plus_one,
    running,
    steps,
    until,
    value,
)

DAY = timedelta(days=1)
LIVE, PARKED = config(), config(evict_after_ms=0)
HOW = pytest.mark.parametrize("settings", [LIVE, PARKED], ids=["live", "parked"])


@dataclass
class Paid:
    order: str


paid, voided = EventType("paid", Paid), EventType("voided")


async def waiting(log: MemoryLog, count: int = 1) -> None:
    await until(lambda: len(of(log, records.StepWaiting)) >= count, "the wait")


async def after(app: App, settings: NodeConfig, *events: Event[Any], first: Event[Any] | None = None) -> Any:
    """Start the app's run, and send each event when the run waits again; what the run returns."""
    log = MemoryLog()
    async with running(app, log, settings) as node:
        ended = asyncio.create_task(node.run(first or go(id="o1")))
        for count, event in enumerate(events, 1):
            await waiting(log, count)
            await node.send(event)
        (end,) = await ended
    assert end.status == "completed", end.error
    return end.output


@HOW
@pytest.mark.spec("STEP-08", "PY-28", "EVT-23")
def test_a_function_waits_for_a_typed_event(settings: NodeConfig) -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        await ctx.step.run("charge", plus_one, 1)
        first = await ctx.step.wait_for_event(
            "paid", event=paid, timeout=DAY, if_exp="async.data.order == event.data.id"
        )
        assert first is not None
        nothing = await ctx.step.wait_for_event("never", event="never", timeout=1)
        return [first.data.order, type(first.data).__name__, nothing, await ctx.step.run("ship", plus_one, 2)]

    events = paid(Paid("o2")), paid(Paid("o1"))

    async def run() -> Any:
        log = MemoryLog()
        async with running(app, log, settings) as node:
            ended = asyncio.create_task(node.run(go(id="o1")))
            await waiting(log)
            for event in events:
                await node.send(event)
            (end,) = await ended
            return end.output

    assert on_users_loop(run()) == ["o1", "Paid", None, 3]


@HOW
@pytest.mark.spec("FAULT-G1", "STEP-11")
def test_an_event_that_came_before_the_wait_counts_where_it_says_so(settings: NodeConfig) -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        await ctx.step.send_event("tell", [paid(Paid("o2")), paid(Paid("o1"))])
        missed = await ctx.step.wait_for_event("missed", event=paid, timeout=1)
        found = await ctx.step.wait_for_event(
            "found", event=paid, timeout=DAY, since="trigger", if_exp="async.data.order == event.data.id"
        )
        assert found is not None
        return [missed, found.data.order]

    async def run() -> Any:
        async with running(app, MemoryLog(), settings) as node:
            await node.send(paid(Paid("o1")))
            (end,) = await node.run(go(id="o1"))
            return end.output

    assert on_users_loop(run()) == [None, "o1"]


@HOW
def test_either_or_both_of_two_events(settings: NodeConfig) -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        either = await ctx.step.wait_for_event("either", any_of=(paid, voided), timeout=DAY)
        both = await ctx.step.wait_for_event("both", all_of=(paid, voided), timeout=DAY)
        assert either is not None
        assert both is not None
        return [voided.matches(either), both[0].data.order, both[1].data]

    async def run() -> Any:
        log = MemoryLog()
        async with running(app, log, settings) as node:
            ended = asyncio.create_task(node.run(go()))
            await waiting(log)
            await node.send(voided({"n": 1}))
            await waiting(log, 2)
            await node.send(voided({"n": 2}))
            await node.send(paid(Paid("o1")))
            (end,) = await ended
            return end.output

    assert on_users_loop(run()) == [True, "o1", {"n": 2}]


@HOW
def test_a_signal_between_two_functions(settings: NodeConfig) -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        heard = await ctx.step.wait_for_signal("manager", signal="approve/o1", timeout=DAY)
        assert isinstance(heard, Signal)
        late = await ctx.step.wait_for_signal("late", signal="approve/o1", timeout=1)
        return [heard.signal, heard.data, late]

    @app.function("approve", trigger="approve")
    async def approve(ctx: Context) -> list[bool]:
        told = await ctx.step.send_signal("tell", "approve/o1", {"by": "ann"})
        return [told is not None, await ctx.step.send_signal("again", "nobody") is None]

    assert on_users_loop(after(app, settings, Event(name="approve", data={}))) == ["approve/o1", {"by": "ann"}, None]


@HOW
@pytest.mark.spec("STEP-13", "STEP-15", "STEP-16", "PY-30", "FN-03", "SDK-07")
def test_functions_invoke_functions(settings: NodeConfig) -> None:
    app = App("a")

    @app.function("double", trigger=paid)
    async def double(ctx: Context[Paid]) -> Paid:
        return Paid(await ctx.step.run("twice", value, ctx.event.data.order * 2))

    @app.function("broken", retries=0)
    async def broken(ctx: Context) -> None:
        raise ValueError(f"no {ctx.event.data['what']}")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        typed = await ctx.step.invoke("typed", function=double, data=Paid("x"))
        by_id = await ctx.step.invoke("by-id", function="a-double", data={"order": "y"})
        said = []
        for callee in (broken, "b-nobody"):
            try:
                await ctx.step.invoke("call", function=callee, data={"what": "luck"})
            except StepError as error:
                said.append(error.message)
        return [typed.order, by_id, said]

    assert on_users_loop(after(app, settings)) == [
        "xx",
        {"order": "yy"},
        ["no luck", "could not find function with ID: b-nobody"],
    ]


@HOW
@pytest.mark.spec("PY-29", "PY-30", "STEP-13", "FN-20")
def test_functions_of_other_apps_are_invoked_by_object_and_by_id(settings: NodeConfig) -> None:
    shop, stock = App("shop"), App("stock")

    @stock.function("count")
    async def count(ctx: Context) -> list[Any]:
        return ["stock", ctx.event.data, ctx.event.user, ctx.event.v]

    @stock.function("broken", retries=0)
    async def broken(ctx: Context) -> None:
        raise ZeroDivisionError("no boxes")

    @shop.function("count")
    async def own_count(ctx: Context) -> str:
        return "shop"

    @shop.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        failed = ["", "", ""]
        try:
            await ctx.step.invoke_by_id("broken", app_id="stock", function_id="broken")
        except StepError as error:
            failed = [error.name, error.message, (error.stack or "").splitlines()[-1]]
        return [
            await ctx.step.invoke_by_id("own", function_id="count"),
            await ctx.step.invoke_by_id(
                "other", app_id="stock", function_id="count", data={"n": 1}, user={"id": "u1"}, v="2"
            ),
            await ctx.step.invoke("object", function=count, data={}, user={"id": "u2"}),
            failed,
        ]

    @shop.function("plain", trigger="plain")
    def plain(ctx: ContextSync) -> list[Any]:
        return ctx.step.invoke_by_id("other", app_id="stock", function_id="count", v="3")  # type: ignore[no-any-return]

    async def body() -> list[Any]:
        async with running([shop, stock], settings=settings) as node:
            (ended,), (other,) = await node.run(go()), await node.run(Event(name="plain", data={}))
        return [ended.output, other.output]

    by_event, by_plain = on_users_loop(body())
    assert by_event == [
        "shop",
        ["stock", {"n": 1}, {"id": "u1"}, "2"],
        ["stock", {}, {"id": "u2"}, None],
        ["ZeroDivisionError", "no boxes", "ZeroDivisionError: no boxes"],
    ]
    assert by_plain == ["stock", {}, None, "3"]


def test_a_call_with_a_version_that_is_no_text_is_refused() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.invoke_by_id("call", function_id="f", v=2)  # type: ignore[arg-type]

    failed, _ = fail(body)
    assert failed.error.name == "TypeError"
    assert "v=2; it is text" in failed.error.message


@pytest.mark.spec("STEP-06")
def test_nothing_waits_longer_than_a_year() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.wait_for_event("long", event="never", timeout=timedelta(days=400))

    failed, _ = fail(body)
    assert failed.error.name == "InngestErrTimeoutTooLong"
    assert "waits for longer than a year" in failed.error.message


def test_waits_go_on_after_a_crash() -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        one, two = await asyncio.gather(
            ctx.step.wait_for_event("one", event="one", timeout=DAY),
            ctx.step.wait_for_signal("two", signal="two", timeout=DAY),
        )
        return [one.data if one else None, two.data if two else None]

    async def run() -> Any:
        log = MemoryLog()
        async with crashing(app, log) as (node, _):
            await node.send(go())
            await waiting(log, 2)
        async with crashing(app, log) as (node, _):
            await node.send(Event(name="one", data={"n": 1}))
            await until(lambda: steps(log) == ["one"])
        ended = App("b")

        @ended.function("tell", trigger="tell")
        async def tell(ctx: Context) -> None:
            await ctx.step.send_signal("tell", "two", 2)

        async with running([app, ended], log) as node:
            await node.run(Event(name="tell", data={}))
            await until(lambda: of(log, records.RunCompleted)[-1:] and len(of(log, records.RunCompleted)) == 2)
        return [bytes(r.output) for r in of(log, records.RunCompleted)]

    assert b'[{"n":1},2]' in on_users_loop(run())


@pytest.mark.spec("ERR-03", "PY-32")
def test_a_step_may_have_retries_and_a_time_limit_of_its_own() -> None:
    tries: list[str] = []

    async def failing(name: str) -> None:
        tries.append(name)
        raise ValueError(name)

    async def hanging() -> None:
        tries.append("hang")
        await asyncio.sleep(60)

    async def body(ctx: Context) -> list[str]:
        said = []
        for step in (
            ctx.step.options(retries=0).run("none", failing, "none"),
            ctx.step.options(retries=3).run("three", failing, "three"),
            ctx.step.run("functions", failing, "functions"),
            ctx.step.options(retries=1, timeout=20).run("hang", hanging),
        ):
            try:
                await step
            except StepError as error:
                said.append(f"{error.name}: {error.message}")
        return said

    output, _ = perform(body, retries=1)
    assert [tries.count(name) for name in ("none", "three", "functions", "hang")] == [1, 4, 2, 2]
    assert output[-1] == "TimeoutError: the step ran for longer than 0.02 s"


def test_an_output_type_of_its_own() -> None:
    async def body(ctx: Context) -> str:
        (found,) = await ctx.step.options(output_type=list[Paid]).run("read", value, [{"order": "o1"}])
        assert isinstance(found, Paid)
        return found.order

    assert perform(body)[0] == "o1"


@pytest.mark.spec("ERR-13", "ATV-31", "PY-21")
def test_a_failure_is_handled_once() -> None:
    handled: list[Any] = []
    app = App("a")

    async def refund(ctx: Context[Any]) -> None:
        failed = ctx.event.data
        handled.append((failed.function_id, failed.error.name, failed.error.message, failed.event.data))

    @app.function("f", trigger="go", retries=1, on_failure=refund)
    async def f(ctx: Context) -> None:
        raise ValueError("no luck")

    async def run() -> MemoryLog:
        log = MemoryLog()
        async with running(app, log) as node:
            (end,) = await node.run(go(id="o1"))
            assert end.status == "failed"
            await until(lambda: handled)
        return log

    log = on_users_loop(run())
    assert handled == [("a-f", "ValueError", "no luck", {"id": "o1"})]
    assert [r.function for r in of(log, records.RunScheduled)] == ["a-f", "a-f-failure"]


# --- the same on every replay


@pytest.mark.spec("PY-50", "PY-23")
def test_times_and_ids_are_the_same_on_every_replay_and_log_lines_come_once() -> None:
    seen: list[list[str]] = []
    heard = Heard()
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[str]:
        facts = [str(ctx.now()), str(ctx.uuid()), str(ctx.uuid())]
        ctx.logger.info("began")
        for number in range(3):
            await ctx.step.run("step", plus_one, number)
            await ctx.step.sleep("nap", 1)
            facts += [str(ctx.now()), str(ctx.uuid())]
            ctx.logger.info("round %d", number)
        seen.append(facts)
        return facts

    async def run() -> MemoryLog:
        log = MemoryLog()
        async with running(app, log, PARKED) as node:
            await node.run(go())
        return log

    logger = logging.getLogger(__name__)
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    try:
        log = on_users_loop(run())
    finally:
        logger.removeHandler(heard)
        logger.setLevel(logging.NOTSET)
    (facts,) = seen
    assert len(set(facts[1::2] + facts[2:3])) == len(facts[1::2] + facts[2:3])
    naps = [r.at for r in of(log, records.StepCompleted) if r.step == "nap"]
    assert [round(datetime.fromisoformat(text).timestamp() * 1000) for text in facts[3::2]] == naps
    assert [record.getMessage() for record in heard.heard] == ["began", "round 0", "round 1", "round 2"]
    assert {vars(record)["run_id"] for record in heard.heard} == {of(log, records.RunScheduled)[0].run}
