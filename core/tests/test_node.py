"""A node, as a program in its process uses it."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steplog import App, Context, ContextSync, Event, NotFound
from steplog.engine import records
from steplog.engine.processor import Turn
from steplog.errors import EventInvalid, LogUnavailable
from steplog.log.memory import MemoryLog

from .running import config, crashing, go, of, on_users_loop, running, until


def shop() -> App:
    app = App("shop")

    @app.function("pack", trigger="shop/order.placed")
    async def pack(ctx: Context) -> Any:
        return [ctx.event.name, ctx.event.data]

    @app.function("watch", trigger="inngest/function.invoked")
    async def watch(ctx: Context) -> None: ...

    return app


@pytest.mark.spec("FN-03", "SYS-05")
def test_a_function_is_invoked_whatever_triggers_it() -> None:
    log = MemoryLog()

    async def body() -> None:
        async with running(shop(), log) as node:
            ended = await node.invoke("shop-pack", {"n": 1})
            assert (ended.status, ended.output) == ("completed", ["inngest/function.invoked", {"n": 1}])

    on_users_loop(body())
    (routed,) = of(log, records.EventRouted)
    assert {ref.function for ref in routed.runs} == {"shop-pack", "shop-watch"}


def test_what_cannot_be_invoked_starts_nothing() -> None:
    log = MemoryLog()

    async def body() -> None:
        async with running(shop(), log) as node:
            with pytest.raises(NotFound, match="'shop-nobody'"):
                await node.invoke("shop-nobody", {})
            with pytest.raises(EventInvalid, match="a call of shop-pack is not an object"):
                await node.invoke("shop-pack", [1])

    on_users_loop(body())
    assert log.events == []


@pytest.mark.spec("PY-09")
def test_an_event_needs_a_name_alone() -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        return [ctx.event.data, ctx.event.id, ctx.event.ts]

    async def body() -> list[Any]:
        async with running(app) as node:
            bare, empty = await node.run(Event(name="go")), await node.run(Event(name="go", data={}, id="", ts=0))
            named = await node.run(Event(name="go", data={"n": 1}, id="once", ts=1_700_000_000_000))
            assert await node.run(Event(name="go", data={"n": 2}, id="once")) == []
            return [ended.output for (ended,) in (bare, empty, named)]

    before_ms = int(time.time() * 1000)
    (first, second, named) = on_users_loop(body())
    for data, event_id, ts in (first, second):
        assert (data, len(event_id)) == ({}, 26)
        assert ts >= before_ms
    assert first[1] != second[1], "an empty id is none"
    assert named == [{"n": 1}, "once", 1_700_000_000_000]


@pytest.mark.spec("PY-12")
@pytest.mark.parametrize("fn_id", ["plain", "a/b", "../x", " ", "é🦆", "a-b-c", "x" * 500, "'; DROP", "a\nb"])
def test_a_functions_id_may_be_any_text(fn_id: str) -> None:
    app, log = App("shop"), MemoryLog()

    @app.function(fn_id, trigger="go")
    async def one(ctx: Context) -> str:
        return "async"

    @app.function(f"{fn_id} too", trigger="too", name="Two")
    def two(ctx: ContextSync) -> str:
        return "plain"

    assert (one.id, one.name, two.id, two.name) == (f"shop-{fn_id}", fn_id, f"shop-{fn_id} too", "Two")

    async def body() -> list[Any]:
        async with running(app, log) as node:
            (ended,), (other,) = await node.run(Event(name="go")), await node.run(Event(name="too"))
            return [ended.output, other.output, (await node.invoke(one.id, {})).output]

    assert on_users_loop(body()) == ["async", "plain", "async"]
    assert [r.function for r in of(log, records.RunScheduled)] == [one.id, two.id, one.id]


@pytest.mark.spec("FAULT-F4")
@pytest.mark.parametrize("moved_s", [-86_400, 86_400], ids=["a day back", "a day ahead"])
def test_a_wall_clock_that_is_moved_neither_holds_runs_up_nor_hurries_them(
    moved_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, log, moved = App("a"), MemoryLog(), [0]
    wall_s, wall_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: wall_s() + moved[0])
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + moved[0] * 1_000_000_000)

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("before", timedelta(milliseconds=20))
        moved[0] = moved_s
        await ctx.step.sleep("after", timedelta(milliseconds=20))
        await ctx.step.sleep_until("soon", datetime.fromtimestamp(time.time() + 0.02, UTC))
        await ctx.step.sleep_until("long", datetime.fromtimestamp(time.time() + 3_600, UTC))
        return "an hour later"

    @app.function("other", trigger="other")
    async def other(ctx: Context) -> str:
        return "at once"

    async def body() -> None:
        async with running(app, log, config(drain_s=0)) as node:
            await node.send(go())
            await until(lambda: len(of(log, records.StepWaiting)) == 4, "the last sleep")
            (ended,) = await node.run(Event(name="other", data={}))
            assert ended.output == "at once"

    on_users_loop(body())
    before, after, soon, long = [r.until - r.at for r in of(log, records.StepWaiting)]
    assert (before, after) == (20, 20)
    assert soon <= 25
    assert 3_000_000 < long <= 3_600_005


class AwayAtFirst(MemoryLog):
    """A log that cannot be written where a process begins."""

    is_away = False

    async def commit(self, turn: Turn) -> None:
        if self.is_away:
            self.is_away = False
            raise LogUnavailable("not yet")
        await super().commit(turn)


@pytest.mark.spec("FAULT-A2")
def test_a_loss_counts_where_the_log_is_away_when_it_is_found() -> None:
    log, app = AwayAtFirst(), App("shop")
    begun: list[int] = []

    @app.function("pack", trigger="shop/order.placed")
    async def pack(ctx: Context) -> None:
        async def body() -> None:
            begun.append(1)
            await asyncio.sleep(60 if len(begun) == 1 else 0)

        await ctx.step.run("pack", body)

    async def crash() -> None:
        async with crashing(app, log) as (node, _):
            await node.send([Event(name="shop/order.placed", data={})])
            await until(lambda: begun)

    async def go_on() -> None:
        async with running(app, log):
            await until(lambda: of(log, records.RunCompleted))

    on_users_loop(crash())
    log.is_away = True
    on_users_loop(go_on())
    assert [record.reason for record in of(log, records.RunStarted)] == ["lost"]
