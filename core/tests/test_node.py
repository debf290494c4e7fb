"""A node, as a program in its process uses it."""

from typing import Any

import pytest

from steplog import App, Context, NotFound
from steplog.engine import records
from steplog.errors import EventInvalid
from steplog.log.memory import MemoryLog

from .running import of, on_users_loop, running


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
