"""A node, as a program in its process uses it."""

import asyncio
from typing import Any

import pytest

from steplog import App, Context, Event, NotFound
from steplog.engine import records
from steplog.engine.processor import Turn
from steplog.errors import EventInvalid, LogUnavailable
from steplog.log.memory import MemoryLog

from .running import crashing, of, on_users_loop, running, until


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
