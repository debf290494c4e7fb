"""The engine on the users' loop: what a node finds in every shell, with a clock that somebody moves."""

import pytest

from steplog import App, Context
from steplog.engine import records
from steplog.engine.functions import EngineConfig, Registry
from steplog.errors import LogUnavailable
from steplog.log.memory import MemoryLog
from steplog.node import Engine, Node, functions_of
from steplog.shells.inline import InlineEngine, VirtualClock
from steplog.turns import Log

from .running import MortalLog, config, declare, go, of, on_users_loop, plus_one, until

NOON_MS = 1_800_014_400_000


def inline(app: App, log: Log, clock: VirtualClock) -> InlineEngine:
    registry = Registry(function.spec for function in functions_of([app]).values())
    return InlineEngine(lambda: log, registry, EngineConfig(), clock)


def a_node(app: App, engine: Engine, clock: VirtualClock) -> Node:
    return Node([app], engine, config(), clock=clock.now_ms)


async def body(ctx: Context) -> int:
    return await ctx.step.run("plus", plus_one, ctx.event.data["n"])


def test_a_node_runs_on_it_in_its_time() -> None:
    async def story() -> None:
        app, log, clock = declare(body), MemoryLog(), VirtualClock(NOON_MS)
        async with a_node(app, inline(app, log, clock), clock) as node:
            (ended,) = await node.run(go(n=1))
            assert (ended.status, ended.output, node.busy) == ("completed", 2, [])
        assert {record.at for record in of(log, records.RunCompleted)} == {NOON_MS}
        assert {record.started for record in of(log, records.StepCompleted)} == {NOON_MS}

    on_users_loop(story())


def test_time_goes_on_where_the_log_was_written_last() -> None:
    async def story() -> None:
        app, log = declare(body), MemoryLog()
        for start_ms in (NOON_MS, 0):
            clock = VirtualClock(start_ms)
            async with a_node(app, inline(app, log, clock), clock) as node:
                await node.run(go(n=1))
                assert clock.now_ms() == NOON_MS
        clock.move_to(5)
        assert clock.now_ms() == NOON_MS, "it never goes back"

    on_users_loop(story())


def test_an_end_in_order_hands_back_and_a_kill_loses() -> None:
    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("nap", 1_000)

    async def story(is_killed: bool) -> list[str]:
        app, log, clock = declare(nap), MemoryLog(), VirtualClock(NOON_MS)
        for is_second in (False, True):
            engine = inline(app, log, clock)
            async with a_node(app, engine, clock) as node:
                if is_second:
                    await until(lambda: of(log, records.RunStarted))
                else:
                    await node.send(go())
                if is_killed:
                    engine.kill()
                    assert not engine.is_available
        return [record.reason for record in of(log, records.RunStarted)]

    assert on_users_loop(story(False)) == ["handed-back"]
    assert on_users_loop(story(True)) == ["lost"]


def test_a_log_that_fails_ends_it_and_who_waits_is_told() -> None:
    async def story() -> None:
        app, clock = declare(body), VirtualClock(NOON_MS)
        engine = inline(app, MortalLog(MemoryLog(), dies_at=1, before=True), clock)
        node = a_node(app, engine, clock)
        await node.__aenter__()
        with pytest.raises(LogUnavailable, match="dead"):
            await node.send(go(n=1))
        with pytest.raises(LogUnavailable, match="dead"):
            _ = engine.has_work
        with pytest.raises(LogUnavailable, match="dead"):
            await node.__aexit__(None, None, None)

    on_users_loop(story())
