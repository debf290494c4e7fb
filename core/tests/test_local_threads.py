"""Plain ``def`` functions: in a thread of their own, with the same promises."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from steplog import App, ContextSync, Event, FunctionFailed, NonRetriableError, StepError, StepSync, current_step
from steplog.engine import records
from steplog.log.memory import MemoryLog
from steplog.node import NodeConfig

from .running import config, crashing, go, of, on_users_loop, plus_one, run_once, running, steps, until

HOW = pytest.mark.parametrize("settings", [config(), config(evict_after_ms=0)], ids=["live", "parked"])


def add(a: int, b: int) -> int:
    return a + b


@HOW
@pytest.mark.spec("SDK-06", "PY-22", "PY-24", "STEP-03", "CONV-02")
def test_a_plain_function_runs_in_a_thread_and_its_steps_are_durable(settings: NodeConfig) -> None:
    threads: set[str] = set()
    app = App("a")

    @app.function("f", trigger="go")
    def f(ctx: ContextSync, step: StepSync) -> list[Any]:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        total = step.run("add", add, 1, 2)
        total = step.run("plus", plus_one, total)
        step.sleep("nap", timedelta(milliseconds=1))
        (sent,) = step.send_event("tell", Event(name="other", data={}))
        key = step.run("key", lambda: current_step().key)
        return [total, len(sent), key.startswith(ctx.run_id), ctx.event.data["n"], ctx.attempt]

    ended, log = on_users_loop(run_once(app, go(n=7), settings))
    assert (ended.status, ended.output) == ("completed", [4, 26, True, 7, 0])
    assert threads == {"steplog-function"}
    assert steps(log) == ["add", "plus", "nap", "tell", "key"]


@pytest.mark.spec("ERR-06", "ERR-09", "ERR-11", "PY-35")
def test_errors_of_steps_and_of_the_function() -> None:
    tries: list[int] = []
    app = App("a")

    def fails() -> None:
        tries.append(1)
        raise ValueError("no")

    def handler(ctx: ContextSync[FunctionFailed]) -> None:
        tries.append(100)

    @app.function("f", trigger="go", retries=1, on_failure=handler)
    def f(ctx: ContextSync) -> None:
        try:
            ctx.step.run("fails", fails)
        except StepError as error:
            raise NonRetriableError(f"gave up: {error.message}") from error

    async def run() -> MemoryLog:
        log = MemoryLog()
        async with running(app, log) as node:
            (end,) = await node.run(go())
            assert (end.status, end.error) == ("failed", "gave up: no")
            await until(lambda: 100 in tries)
        return log

    log = on_users_loop(run())
    assert tries == [1, 1, 100]
    assert len(of(log, records.StepErrored)) == 1


def test_waits_signals_and_calls() -> None:
    app = App("a")

    @app.function("double")
    def double(ctx: ContextSync) -> int:
        return int(ctx.event.data["n"]) * 2

    @app.function("f", trigger="go")
    def f(ctx: ContextSync) -> list[Any]:
        paid = ctx.step.wait_for_event("paid", event="paid", timeout=timedelta(days=1))
        heard = ctx.step.wait_for_signal("never", signal="never", timeout=1)
        told = ctx.step.send_signal("tell", "nobody")
        return [paid and paid.data, heard, told, ctx.step.invoke("double", function=double, data={"n": 4})]

    async def run() -> Any:
        log = MemoryLog()
        async with running(app, log) as node:
            await node.send(go())
            await until(lambda: of(log, records.StepWaiting))
            await node.send(Event(name="paid", data={"by": "ann"}))
            await until(lambda: len(of(log, records.RunCompleted)) == 2)
        return [bytes(r.output) for r in of(log, records.RunCompleted)]

    assert on_users_loop(run()) == [b"8", b'[{"by":"ann"},null,null,8]']


@pytest.mark.spec("FAULT-A1")
def test_a_plain_function_goes_on_after_a_crash() -> None:
    begun: list[str] = []
    app = App("a")

    def work(name: str) -> str:
        begun.append(name)
        return name

    @app.function("f", trigger="go")
    def f(ctx: ContextSync) -> list[str]:
        return [ctx.step.run(name, work, name) for name in "abc"]

    async def run() -> MemoryLog:
        log = MemoryLog()
        async with crashing(app, log, dies_at=2) as (node, mortal):
            await node.send(go())
            await until(lambda: mortal.is_dead)
        async with running(app, log):
            await until(lambda: of(log, records.RunCompleted))
        return log

    log = on_users_loop(run())
    assert steps(log) == ["a", "b", "c"]
    assert begun.count("a") == 1


def test_a_waiting_function_gives_its_thread_back_and_unwinds() -> None:
    unwound: list[str] = []
    app = App("a")

    @app.function("f", trigger="go")
    def f(ctx: ContextSync) -> str:
        try:
            ctx.step.wait_for_event("one", event="one", timeout=timedelta(days=1))
        finally:
            unwound.append("finally")
        return "done"

    async def run() -> list[bytes]:
        log = MemoryLog()
        settings = config(function_threads=1)
        async with running(app, log, settings) as node:
            for _ in range(3):
                await node.send(go())
            await until(lambda: len(of(log, records.StepWaiting)) == 3, "three runs on one thread")
            await node.send(Event(name="one", data={}))
            await until(lambda: len(of(log, records.RunCompleted)) == 3)
        return [bytes(r.output) for r in of(log, records.RunCompleted)]

    assert on_users_loop(run()) == [b'"done"'] * 3
    assert len(unwound) == 6, "closed once and ended once, each"


def test_many_plain_functions_with_plain_steps_do_not_wait_for_each_other_for_ever() -> None:
    app = App("a")

    def slow(number: int) -> int:
        time.sleep(0.001)
        return number

    @app.function("f", trigger="go")
    def f(ctx: ContextSync) -> int:
        return sum(ctx.step.run("slow", slow, number) for number in range(3))

    async def run() -> int:
        log = MemoryLog()
        async with running(app, log, config(threads=2, function_threads=3)) as node:
            for _ in range(40):
                await node.send(go())
            await until(lambda: len(of(log, records.RunCompleted)) == 40)
        return len(of(log, records.StepCompleted))

    assert on_users_loop(run()) == 120
