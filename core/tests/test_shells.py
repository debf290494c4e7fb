"""One suite for both places where the engine can live, and what is special about a process."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steplog import App, Context, Event, RetryAfterError
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.errors import EngineEnded, LogCorrupt, LogLocked, LogUnavailable
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.node import Engine, Node, NodeConfig, functions_of
from steplog.shells.process import ProcessEngine
from steplog.turns import Log

DEADLINE_S = 20.0
Where = Callable[[App, Path], "Engine | Callable[[], Log]"]


def in_process(app: App, path: Path) -> ProcessEngine:
    specs = [function.spec for function in functions_of([app]).values()]
    return ProcessEngine(specs, EngineConfig(), log_path=path)


def in_thread(_: App, path: Path) -> Callable[[], Log]:
    return lambda: SqliteLog(path)


@pytest.fixture(params=[in_thread, in_process])
def where(request: pytest.FixtureRequest) -> Where:
    found: Where = request.param
    return found


def on_users_loop(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story(), DEADLINE_S)

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(bounded())


def shop() -> App:
    app = App("shop")

    @app.function("double", trigger="shop/number")
    async def double(ctx: Context) -> int:
        async def twice(number: int) -> int:
            return 2 * number

        return await ctx.step.run("twice", twice, ctx.event.data["n"])

    return app


@pytest.mark.spec("ARCH-13")
def test_a_run_from_its_event_to_its_end(where: Where, tmp_path: Path) -> None:
    app = shop()

    async def story() -> None:
        async with Node([app], where(app, tmp_path / "log.db")) as node:
            (ended,) = await node.run(Event(name="shop/number", data={"n": 21}))
            assert (ended.status, ended.output) == ("completed", 42)
            assert await node.run(Event(name="shop/nobody", data={})) == []

    on_users_loop(story)


@pytest.mark.spec("EVT-14")
def test_a_duplicate_starts_nothing_and_nobody_waits_for_it(where: Where, tmp_path: Path) -> None:
    app = shop()

    async def story() -> None:
        async with Node([app], where(app, tmp_path / "log.db")) as node:
            event = Event(name="shop/number", data={"n": 1}, id="order-1")
            assert len(await node.run(event)) == 1
            assert await node.run(event) == []

    on_users_loop(story)


def test_what_is_open_goes_on_after_a_restart(where: Where, tmp_path: Path) -> None:
    app, waiting, go_on = App("shop"), asyncio.Event(), asyncio.Event()
    began: list[str] = []

    @app.function("two", trigger="shop/two")
    async def two(ctx: Context) -> str:
        async def note(name: str) -> str:
            began.append(name)
            if name == "second" and not go_on.is_set():
                waiting.set()
                await asyncio.Event().wait()
            return name

        return await ctx.step.run("first", note, "first") + await ctx.step.run("second", note, "second")

    async def story() -> None:
        impatient = NodeConfig(drain_s=0.01)
        async with Node([app], where(app, tmp_path / "log.db"), impatient) as node:
            await node.send(Event(name="shop/two", data={}))
            await waiting.wait()
        go_on.set()
        async with Node([app], where(app, tmp_path / "log.db")) as node:
            while began.count("second") < 2:
                await asyncio.sleep(0.01)
        assert began == ["first", "second", "second"]

    on_users_loop(story)


def test_a_log_that_another_process_writes_is_refused_by_its_own_error(where: Where, tmp_path: Path) -> None:
    app, held = shop(), SqliteLog(tmp_path / "log.db")

    async def story() -> None:
        with pytest.raises(LogLocked, match=str(os.getpid())):
            async with Node([app], where(app, tmp_path / "log.db")):
                raise AssertionError("two writers")

    try:
        on_users_loop(story)
    finally:
        held.close()


def test_a_file_that_is_no_log_is_refused_by_its_own_error(where: Where, tmp_path: Path) -> None:
    app, path = shop(), tmp_path / "log.db"
    path.write_bytes(b"this is no database, and never was one; " * 100)

    async def story() -> None:
        with pytest.raises(LogCorrupt):
            async with Node([app], where(app, path)):
                raise AssertionError("opened")

    on_users_loop(story)


def test_the_end_of_the_engines_process_is_told_to_who_waits(tmp_path: Path) -> None:
    app, started = App("shop"), asyncio.Event()

    @app.function("hang", trigger="shop/hang")
    async def hang(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async def story() -> None:
        engine = in_process(app, tmp_path / "log.db")
        node = Node([app], engine)
        await node.__aenter__()
        run = asyncio.create_task(node.run(Event(name="shop/hang", data={})))
        await started.wait()
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(LogUnavailable):
            await run
        with pytest.raises(LogUnavailable):
            await node.send(Event(name="shop/hang", data={}))
        with pytest.raises(EngineEnded):
            await node.__aexit__(None, None, None)

    on_users_loop(story)


PROGRAM = """
    import asyncio, sys
    from pathlib import Path
    from steplog import App, Context, Event
    from steplog.drivers.loop import UsersLoop
    from steplog.engine.functions import EngineConfig
    from steplog.node import Node, functions_of
    from steplog.shells.process import ProcessEngine

    app = App("shop")

    @app.function("hang", trigger="shop/hang")
    async def hang(ctx: Context) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        specs = [function.spec for function in functions_of([app]).values()]
        engine = ProcessEngine(specs, EngineConfig(), log_path=Path(sys.argv[1]))
        async with Node([app], engine) as node:
            await node.send(Event(name="shop/hang", data={}))
            print(engine.pid, flush=True)
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(main())
"""


def test_the_engine_ends_at_once_when_its_functions_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        engine_pid = int(program.stdout.readline())
        program.kill()
    app = shop()

    async def story() -> None:  # the lock is free within the time that a start waits for it
        async with Node([app], in_process(app, path)) as node:
            (ended,) = await node.run(Event(name="shop/number", data={"n": 1}))
            assert ended.status == "completed"

    on_users_loop(story)
    with JournalReader(path) as reader:
        assert len(reader.events(0, 10)) == 2
    assert not _is_running(engine_pid)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # its new parent has not asked for it yet


def test_events_are_refused_while_the_log_cannot_be_written(where: Where, tmp_path: Path) -> None:
    app, path = shop(), tmp_path / "log.db"
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.function("open", trigger="shop/open")
    async def stays_open(ctx: Context) -> None:
        async def wait() -> None:
            began.set()
            await go_on.wait()

        await ctx.step.run("wait", wait)

    async def story() -> None:
        async with Node([app], where(app, path)) as node:
            await node.run(Event(name="shop/number", data={"n": 1}))
            await node.send(Event(name="shop/open", data={}))
            await began.wait()
            thief = sqlite3.connect(path, isolation_level=None)
            thief.execute("DROP TABLE journal")  # the next commit fails, and so does every one after it
            with pytest.raises(LogUnavailable):
                await node.send(Event(name="shop/number", data={"n": 2}))
            thief.execute(
                "CREATE TABLE journal (position INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)"
            )
            thief.close()
            while True:
                try:
                    (ended,) = await node.run(Event(name="shop/number", data={"n": 3}))
                except LogUnavailable:
                    await asyncio.sleep(0.02)
                else:
                    break
            assert ended.output == 6
            go_on.set()
        with JournalReader(path) as reader:  # no process has died, so no loss is counted
            reasons = {r["reason"] for row in reader.journal(0, 100) for r in json.loads(row.data) if "reason" in r}
        assert reasons == {"handed-back"}

    on_users_loop(story)


def broken_raw() -> Any:
    return msgspec.Raw(b'"\xff"')


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.spec("FAULT-D4", "FAULT-D8", "FAULT-D9", "FAULT-I1")
def test_nothing_that_a_function_does_ends_the_engine_or_holds_other_runs(where: Where, tmp_path: Path) -> None:
    """What could not be written to the engine, or by it, is an error in the run that asks for it."""
    app = shop()

    async def later() -> None:
        raise RetryAfterError("later", 10**30)

    asks: dict[str, Callable[[Context], Awaitable[Any]]] = {
        "signal": lambda ctx: ctx.step.wait_for_signal("w", signal="\ud800", timeout=1),
        "number": lambda ctx: ctx.step.send_signal("w", 7),  # type: ignore[arg-type] # the point of the test
        "condition": lambda ctx: ctx.step.wait_for_event("w", event="e", timeout=1, if_exp=7),  # type: ignore[call-overload]
        "function": lambda ctx: ctx.step.invoke("w", function="\ud800"),
        "raw": lambda ctx: ctx.step.run("w", broken_raw),
        "deep": lambda ctx: ctx.step.run("w", nested, 950),
        "event": lambda ctx: ctx.step.send_event("w", Event(name="shop/number", data={"n": nested(950)})),
        "retry": lambda ctx: ctx.step.options(retries=0).run("w", later),
        "retries": lambda ctx: ctx.step.options(retries="x").run("w", later),  # type: ignore[arg-type] # the same
    }

    @app.function("ask", trigger="shop/ask", retries=0)
    async def ask(ctx: Context) -> Any:
        return await asks[ctx.event.data["what"]](ctx)

    @app.function("give", trigger="shop/give", retries=0)
    async def give(ctx: Context) -> Any:
        return broken_raw()

    async def story() -> None:
        async with Node([app], where(app, tmp_path / "log.db")) as node:
            calls = [node.run(Event(name="shop/ask", data={"what": what})) for what in asks]
            calls += [node.run(Event(name="shop/give", data={})), node.run(Event(name="shop/number", data={"n": 21}))]
            ended = [each for (each,) in await asyncio.gather(*calls)]
            assert [each.status for each in ended] == ["failed"] * (len(asks) + 1) + ["completed"]
            assert all(each.error for each in ended[:-1])

    on_users_loop(story)
    with JournalReader(tmp_path / "log.db") as reader:
        for row in reader.journal(0, 10_000):
            json.loads(row.data)
