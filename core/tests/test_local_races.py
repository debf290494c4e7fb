"""A function that turns away from its steps, or blocks the loop under them."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from steplog import App, Context, Event
from steplog.drivers import watchdog
from steplog.engine import keys, records
from steplog.errors import SteplogError
from steplog.log.memory import MemoryLog

from .running import (
    Heard,
    declare,
    go,
    of,
    on_users_loop,
    perform,
    running,
    steps,
    until,
    value,
)

# --- turning away from a step


@pytest.mark.spec("PAR-01")
def test_the_losers_of_a_race_are_cancelled_with_their_bodies() -> None:
    ends: list[str] = []

    async def body(ctx: Context) -> str:
        async def lose() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ends.append("cancelled")

        winner = asyncio.create_task(ctx.step.run("winner", value, "won"))
        losers = [asyncio.create_task(ctx.step.run("loser", lose)), asyncio.create_task(ctx.step.sleep("nap", 60_000))]
        done, pending = await asyncio.wait({winner, *losers}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return str(await ctx.step.run("after", value, await done.pop()))

    output, log = perform(body)
    assert (output, steps(log), ends) == ("won", ["winner", "after"], ["cancelled"])


@pytest.mark.parametrize("is_async", [True, False])
def test_a_timeout_around_a_step_ends_the_wait_for_it(is_async: bool) -> None:
    release = threading.Event()

    async def body(ctx: Context) -> str:
        async def slow() -> None:
            await asyncio.Event().wait()

        def slow_thread() -> None:
            release.wait(10)

        try:
            async with asyncio.timeout(0.02):
                await ctx.step.run("slow", slow if is_async else slow_thread)
        except TimeoutError:
            return await ctx.step.run("instead", value, "instead")
        finally:
            release.set()
        return "not reached"

    output, log = perform(body)
    assert (output, steps(log)) == ("instead", ["instead"])


def test_what_a_race_cancelled_at_the_end_is_not_waited_for() -> None:
    async def body(ctx: Context) -> str:
        async def lose() -> None:
            await asyncio.Event().wait()

        loser = asyncio.create_task(ctx.step.run("loser", lose))
        won: str = await ctx.step.run("winner", value, "won")
        loser.cancel()
        return won

    app = declare(body)

    async def test() -> list[str]:
        log = MemoryLog()
        async with running(app, log) as node:
            (ended,) = await node.run(go())
            assert ended.output == "won"
        table = (await log.load()).table
        return [keys.printed(key) for key, _ in table.scan(b"\0", bytes([keys.FUNCTION]), 100) if key != keys.DRAINED]

    assert on_users_loop(test()) == [], "the run holds nothing in the state"


@pytest.mark.spec("PAR-01")
def test_a_function_that_ends_while_branches_execute_ends_the_run_and_they_are_late(heard: Heard) -> None:
    release = asyncio.Event()
    unwound: list[str] = []

    async def body(ctx: Context) -> str:
        async def slow() -> str:
            await release.wait()
            return "late"

        async def branch() -> None:
            try:
                await ctx.step.run("slow", slow)
                await ctx.step.run("never", value, 1)
            finally:
                unwound.append("executing")

        async def asleep() -> None:
            try:
                await ctx.step.sleep("nap", 20_000)
            finally:
                unwound.append("asleep")

        asyncio.create_task(branch())  # noqa: RUF006 - held by the driver while its step's body runs
        asyncio.create_task(asleep())  # noqa: RUF006 - held by the call
        return await ctx.step.run("quick", value, "done")

    complaints: list[Any] = []

    async def test() -> MemoryLog:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        log = MemoryLog()
        async with running(declare(body), log) as node:
            (ended,) = await node.run(go())
            assert ended.output == "done"
            await until(lambda: unwound == ["asleep"], "the end of the branch that slept")
            gc.collect()
            release.set()
            await until(lambda: of(log, records.StepLate), "the late result")
            await until(lambda: unwound == ["asleep", "executing"])
            gc.collect()
        return log

    log = on_users_loop(test())
    assert steps(log) == ["quick"]
    (late,) = of(log, records.StepLate)
    assert (late.step, bytes(late.output)) == ("slow", b'"late"')  # type: ignore[arg-type] # it has one
    assert complaints == [], "a branch that ends by being closed is no news"


# --- a blocked loop


def test_a_function_that_blocks_the_loop_is_named_while_the_node_goes_on(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.02)
    commits: list[int] = []

    async def body(ctx: Context) -> None:
        async def blocks() -> None:
            await until(lambda: of(log, records.StepWaiting), "the timer")
            before = len(log.journal)
            deadline = time.monotonic() + 5
            while not heard.heard or len(log.journal) == before:
                assert time.monotonic() < deadline, "no warning, or no commit"
                time.sleep(0.005)
            commits.append(len(log.journal) - before)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.step.sleep("timer", 60))
            tasks.create_task(ctx.step.run("blocks", blocks))

    log = MemoryLog()

    async def test() -> None:
        async with running(declare(body, retries=0), log) as node:
            (ended,) = await node.run(go())
            assert ended.status == "completed"

    on_users_loop(test())
    (warning,) = [record for record in heard.heard if "blocks the event loop" in record.getMessage()]
    assert "a-f" in warning.getMessage()
    assert __file__ in warning.getMessage()
    assert commits[0] >= 1, "the timer fired and was committed meanwhile"


def test_events_that_are_sent_to_the_node_keep_the_rules() -> None:
    async def test() -> None:
        async with running(App("a")) as node:
            for event in (Event(name="", data={}), Event(name="e", data={"x": float("nan")}), {"name": "e"}):
                with pytest.raises(SteplogError):
                    await node.send(event)  # type: ignore[arg-type] # the point of the test
            assert await node.send([]) == []

    on_users_loop(test())
