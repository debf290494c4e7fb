"""Live runs that are closed and replayed: parked, drained, crashed, changed. Recorded steps never run again."""

import asyncio
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from steplog import App, Context, Event, StepError, current_step
from steplog.drivers import live_run
from steplog.drivers.config import LocalConfig
from steplog.drivers.local import LocalDriver
from steplog.drivers.loop import UsersLoop
from steplog.engine import effects, records
from steplog.engine.functions import EngineConfig
from steplog.engine.messages import Message, OpReported
from steplog.engine.processor import Turn
from steplog.engine.retry import RetryPolicy
from steplog.errors import LogUnavailable
from steplog.log.memory import MemoryLog
from steplog.log.sqlite import JournalReader

from .running import (
    FAST,
    HOUR_MS,
    Body,
    Heard,
    config,
    crashing,
    declare,
    go,
    of,
    on_users_loop,
    run_once,
    running,
    steps,
    until,
    value,
)

PARKED_AT_ONCE = config(evict_after_ms=-HOUR_MS)  # whatever a run waits for


def reasons(log: MemoryLog) -> list[str]:
    """Why runs were dispatched again."""
    return [r.reason for r in of(log, records.RunStarted)]


# --- parking


@pytest.mark.spec("STEP-05", "DUR-08", "DUR-16", "PY-36", "STEP-06")
def test_a_run_that_waits_long_is_closed_by_interrupt_and_replayed() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        seen.append("opened")
        try:
            yield
        finally:
            seen.append("released")

    async def body(ctx: Context) -> list[Any]:
        seen.append("prologue")
        outside: list[Any] = []
        async with resource():
            outside.append(await ctx.step.run("a", value, "a"))
            try:
                await ctx.step.sleep("nap", 20)
            except Exception:  # noqa: BLE001 - the point of the test
                seen.append("Exception saw it")
            except BaseException as error:
                seen.append(type(error).__name__)
                raise
            finally:
                seen.append("finally")
            return [*outside, await ctx.step.run("b", value, "b")]

    ended, log = on_users_loop(run_once(declare(body), go(), PARKED_AT_ONCE))
    assert ended.output == ["a", "b"]
    assert (steps(log), reasons(log)) == (["a", "nap", "b"], ["wake"])
    closed = ["prologue", "opened", "Interrupt", "finally", "released"]
    assert seen == [*closed, "prologue", "opened", "finally", "released"]


@pytest.mark.spec("DUR-08")
def test_bodies_of_recorded_steps_do_not_run_again_and_results_come_in_their_order() -> None:
    bodies: list[str] = []
    orders: list[list[str]] = []

    async def body(ctx: Context) -> str:
        order: list[str] = []
        orders.append(order)

        async def slow(name: str, passes: int) -> str:
            bodies.append(name)
            await asyncio.sleep(passes / 1000)
            return name

        async def branch(name: str, passes: int) -> None:
            order.append(await ctx.step.run(name, slow, name, passes))
            order.append(await ctx.step.run(name + "2", value, name + "2"))

        async with asyncio.TaskGroup() as tasks:
            for name, passes in (("x", 15), ("y", 0), ("z", 6)):
                tasks.create_task(branch(name, passes))
        for nap in range(3):
            await ctx.step.sleep("nap", 10 + nap)
        return " ".join(order)

    ended, log = on_users_loop(run_once(declare(body), go(), PARKED_AT_ONCE))
    assert ended.output == "y y2 z z2 x x2"
    assert sorted(bodies) == ["x", "y", "z"]
    assert len(orders) == 4
    assert all(order == orders[0] for order in orders)
    assert reasons(log) == ["wake"] * 3


def test_a_run_that_waits_for_a_long_back_off_is_parked_too() -> None:
    settings = config(engine=EngineConfig(retry=RetryPolicy(interval_ms=30)), evict_after_ms=5)
    attempts: list[tuple[int, str]] = []

    async def body(ctx: Context) -> str:
        async def flaky() -> int:
            attempts.append((current_step().attempt, current_step().key))
            if len(attempts) < 3:
                raise ConnectionError
            return 1

        await ctx.step.run("flaky", flaky)
        return ctx.run_id

    ended, log = on_users_loop(run_once(declare(body), go(), settings))
    assert ended.status == "completed"
    assert [attempt for attempt, _ in attempts] == [0, 1, 2]
    assert len({key for _, key in attempts}) == 1, "one key for all attempts, on every replay"
    assert reasons(log) == ["wake", "wake"]


def test_a_run_whose_call_was_turned_away_from_in_a_replay_is_parked_all_the_same() -> None:
    async def body(ctx: Context) -> str:
        async def lose() -> None:
            await asyncio.Event().wait()

        loser = asyncio.create_task(ctx.step.run("loser", lose))
        won: str = await ctx.step.run("winner", value, "won")
        loser.cancel()
        for _ in range(3):
            await ctx.step.sleep("nap", 20)
        return won

    ended, log = on_users_loop(run_once(declare(body), go(), PARKED_AT_ONCE))
    assert ended.output == "won"
    assert reasons(log) == ["wake"] * 3


def test_more_sleeping_runs_than_places() -> None:
    settings = config(engine=EngineConfig(live_runs=3, retry=RetryPolicy(interval_ms=1)))

    async def body(ctx: Context) -> int:
        number: int = await ctx.step.run("a", value, ctx.event.data["n"])
        await ctx.step.sleep("nap", 300)
        return number

    async def test() -> tuple[list[Any], MemoryLog]:
        log = MemoryLog()
        async with running(declare(body), log, settings) as node:
            ends = await asyncio.gather(*(node.run(go(n=n)) for n in range(40)))
            return [ended.output for (ended,) in ends], log

    outputs, log = on_users_loop(test())
    assert outputs == list(range(40))
    waiting = [r.at for r in of(log, records.StepWaiting)]
    woken = [r.at for r in of(log, records.StepCompleted) if r.step == "nap"]
    assert (len(waiting), len(woken)) == (40, 40)
    assert max(waiting) < min(woken), "all slept at once, though three had a place"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nothing ends such a coroutine well
def test_code_that_swallows_the_interrupt_is_named_and_abandoned(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_run, "CLOSE_S", 0.02)
    calls: list[int] = []

    async def body(ctx: Context) -> str:
        calls.append(0)
        while True:
            try:
                found: str = await ctx.step.run("a", value, "a")
                await ctx.step.sleep("nap", 60)
                return found
            except BaseException:  # noqa: BLE001 - the point of the test
                calls[-1] += 1

    async def test() -> tuple[str, MemoryLog]:
        log = MemoryLog()
        async with running(declare(body), log, config(evict_after_ms=5)) as node:
            (ended,) = await node.run(go())
            await until(lambda: heard.fields("does not end"), "the warning")
            return ended.output, log

    output, log = on_users_loop(test())
    assert (output, steps(log)) == ("a", ["a", "nap"])
    assert len(calls) == 2
    assert calls[0] <= live_run.MOST_INTERRUPTS + 2, "it does not spin"
    (fields,) = heard.fields("does not end")
    assert fields["function"] == "a-f"
    gc.collect()


# --- stops and crashes


@pytest.mark.spec("DUR-01", "DUR-08", "STEP-06")
def test_a_stop_hands_runs_back_and_waits_for_the_bodies_that_run() -> None:
    prologues, bodies = [], []
    log = MemoryLog()
    begun = asyncio.Event()

    async def body(ctx: Context) -> list[str]:
        prologues.append(ctx.run_id)

        async def slow(name: str) -> str:
            bodies.append(name)
            begun.set()
            await asyncio.sleep(0.05)
            return name

        async def after_it() -> str:
            first = await ctx.step.run("first", slow, "first")
            return first + await ctx.step.run("second", slow, "second")

        async def outside() -> str:
            await asyncio.sleep(0.02)  # comes to its step while the node drains
            return await ctx.step.run("third", slow, "third")

        return list(await asyncio.gather(after_it(), outside()))

    async def test() -> Any:
        async with running(declare(body), log) as node:
            await node.send(go())
            await begun.wait()
        assert bodies == ["first"], "a drain begins nothing"
        assert steps(log) == ["first"], "a body that runs is waited for, and recorded"
        async with running(declare(body), log):
            await until(lambda: of(log, records.RunCompleted))
        return msgspec.json.decode(of(log, records.RunCompleted)[0].output)

    assert on_users_loop(test()) == ["firstsecond", "third"]
    assert sorted(bodies) == ["first", "second", "third"]
    assert len(prologues) == 2
    assert reasons(log) == ["handed-back"]


def test_a_step_that_was_told_to_begin_when_its_run_is_closed_does_not_begin() -> None:
    bodies: list[int] = []
    posted: list[Message] = []

    async def body(ctx: Context) -> None:
        async def fails() -> None:
            bodies.append(current_step().attempt)
            raise ConnectionError

        await ctx.step.run("fails", fails)

    async def test() -> None:
        app = declare(body)
        driver = LocalDriver(cast("UsersLoop", asyncio.get_running_loop()), app.functions, posted.append, LocalConfig())
        run = effects.Dispatch(
            run=b"r", run_id="R", generation=1, function="a-f", events=(), recorded=(), pending=()
        )  # fmt: skip
        driver.handle([run])
        await until(lambda: posted)
        (reported,) = posted
        assert isinstance(reported, OpReported)
        driver.handle([effects.Backoff(b"r", 1, reported.step, 1, 0), effects.Retry(b"r", 1, reported.step, 1)])
        driver.abandon()
        await driver.drain(0)

    on_users_loop(test())
    assert bodies == [0]


def test_a_drain_that_takes_too_long_cuts_bodies_off_and_they_run_again() -> None:
    bodies: list[int] = []
    log = MemoryLog()

    async def body(ctx: Context) -> str:
        async def slow() -> str:
            bodies.append(current_step().attempt)
            if len(bodies) == 1:
                await asyncio.Event().wait()
            return "done"

        return await ctx.step.run("slow", slow)

    async def test() -> None:
        async with running(declare(body), log, config(drain_s=0.01)) as node:
            await node.send(go())
            await until(lambda: bodies)
        async with running(declare(body), log):
            await until(lambda: of(log, records.RunCompleted))

    on_users_loop(test())
    assert bodies == [0, 0]
    assert reasons(log) == ["handed-back"]


@pytest.mark.spec("DUR-01", "DUR-13", "STEP-06")
def test_a_crash_loses_nothing_that_was_recorded() -> None:
    bodies: list[tuple[str, str]] = []
    log = MemoryLog()

    async def body(ctx: Context) -> list[str]:
        async def effect(name: str) -> str:
            bodies.append((name, current_step().key))
            if name == "b" and len(bodies) == 2:
                await asyncio.Event().wait()  # the process dies while it runs
            return name

        a = await ctx.step.run("a", effect, "a")
        b = await ctx.step.run("b", effect, "b")
        await ctx.step.sleep("nap", 10)
        return [a, b]

    async def test() -> Any:
        async with crashing(declare(body), log) as (node, _):
            await node.send(go())
            await until(lambda: len(bodies) == 2)
        async with running(declare(body), log):
            await until(lambda: of(log, records.RunCompleted))
        return msgspec.json.decode(of(log, records.RunCompleted)[0].output)

    assert on_users_loop(test()) == ["a", "b"]
    assert [name for name, _ in bodies] == ["a", "b", "b"]
    assert bodies[1][1] == bodies[2][1], "the key is the same after a restart"
    assert (steps(log), reasons(log)) == (["a", "b", "nap"], ["lost"])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("dies_at", range(1, 7))
def test_a_process_that_dies_at_any_commit(dies_at: int, before: bool) -> None:
    log, bodies = MemoryLog(), []

    async def body(ctx: Context) -> list[str]:
        async def effect(name: str) -> str:
            bodies.append(name)
            if name == "a" and current_step().attempt == 0:
                raise ConnectionError
            return name

        return [
            await ctx.step.run("a", effect, "a"),
            *await asyncio.gather(*(ctx.step.run(name, effect, name) for name in "bc")),
            *await ctx.step.send_event("send", Event(name="nobody", data={})),
        ]

    async def test() -> Any:
        async with crashing(declare(body), log, dies_at=dies_at, before=before) as (node, mortal):
            sending = asyncio.ensure_future(node.send(go()))
            await until(lambda: mortal.is_dead)
            await asyncio.wait({sending})
            accepted = sending.exception() is None
        async with running(declare(body), log) as node:
            if of(log, records.EventRouted):
                await until(lambda: of(log, records.RunCompleted))
            else:
                assert not accepted
                await node.run(go())
        return msgspec.json.decode(of(log, records.RunCompleted)[0].output)

    output = on_users_loop(test())
    assert output[:3] == ["a", "b", "c"]
    assert len(steps(log)) == 4
    assert len([r for r in of(log, records.EventRouted) if r.name == "nobody"]) == 1
    assert all(bodies.count(name) <= limit for name, limit in (("a", 3), ("b", 2), ("c", 2)))


def test_a_log_that_is_away_for_a_moment_ends_in_the_same_result() -> None:
    class Flaky(MemoryLog):
        has_failed = False

        async def commit(self, turn: Turn) -> None:
            if not self.has_failed and any(b'"step":"a"' in record for record in turn.records):
                self.has_failed = True
                raise LogUnavailable("away")
            await super().commit(turn)

    log, bodies = Flaky(), []

    async def body(ctx: Context) -> str:
        async def effect() -> str:
            bodies.append(current_step().key)
            return "a"

        return await ctx.step.run("a", effect)

    async def test() -> None:
        async with running(declare(body), log) as node:
            await node.send(go())
            await until(lambda: of(log, records.RunCompleted))

    on_users_loop(test())
    assert (len(bodies), len(set(bodies)), steps(log)) == (2, 1, ["a"])


# --- functions that have changed


def changed(first: Body, then: Body) -> tuple[Any, MemoryLog]:
    """Run a function until it sleeps, and go on with another version of it."""
    log = MemoryLog()

    async def test() -> Any:
        async with running(declare(first), log) as node:
            await node.send(go())
            await until(lambda: of(log, records.StepWaiting))
        async with running(declare(then), log):
            await until(lambda: of(log, records.RunCompleted) or of(log, records.RunFailed))
        assert not of(log, records.RunFailed), of(log, records.RunFailed)
        return msgspec.json.decode(of(log, records.RunCompleted)[0].output)

    return on_users_loop(test()), log


def sequence(*names: str) -> Body:
    """A function that makes steps in this order; ``nap`` sleeps. It returns what each step gave."""

    async def body(ctx: Context) -> dict[str, Any]:
        found = {}
        for name in names:
            if name == "nap":
                await ctx.step.sleep("nap", 300)
            else:
                found[name] = await ctx.step.run(name, value, f"{name}!")
        return found

    return body


CHANGED = "steps of a function have changed"


@pytest.mark.spec("DUR-09", "DUR-10", "DUR-11", "FAULT-D5", "FAULT-H1", "DUR-19", "TRP-13")
@pytest.mark.parametrize(
    ("then", "ran"),
    [
        pytest.param("a z b nap c", "a b z nap c", id="inserted"),
        pytest.param("z a b nap c", "a b z nap c", id="inserted first"),
        pytest.param("a nap c", "a b nap c", id="removed"),
        pytest.param("nap c", "a b nap c", id="all removed"),
        pytest.param("a b2 nap c", "a b b2 nap c", id="renamed"),
        pytest.param("b a nap c", "a b nap c", id="reordered"),
        pytest.param("a", "a b", id="ends earlier"),
    ],
)
def test_a_changed_function_goes_on_with_a_warning_and_no_step_gets_another_ones_result(
    then: str, ran: str, heard: Heard
) -> None:
    output, log = changed(sequence("a", "b", "nap", "c"), sequence(*then.split()))
    assert output == {name: f"{name}!" for name in then.split() if name != "nap"}
    assert sorted(steps(log)) == sorted(ran.split())
    assert len({r.id for r in of(log, records.StepCompleted)}) == len(ran.split())
    (fields,) = heard.fields(CHANGED)
    assert fields["function"] == "a-f"


@pytest.mark.spec("ATV-11", "DUR-10", "DUR-11", "TRP-13")
def test_a_deployment_between_two_steps(heard: Heard) -> None:
    output, log = changed(sequence("a", "b", "nap", "c"), sequence("a", "z", "b", "nap", "c"))
    assert (output, steps(log)) == ({name: f"{name}!" for name in "azbc"}, ["a", "b", "z", "nap", "c"])
    assert len(heard.fields(CHANGED)) == 1
    output, log = changed(sequence("a", "b", "nap", "c"), sequence("a", "b", "nap", "e"))
    assert (output, steps(log)) == ({name: f"{name}!" for name in "abe"}, ["a", "b", "nap", "e"])


@pytest.mark.spec("DUR-09")
@pytest.mark.parametrize("then", ["a z b nap c", "a nap c", "b a nap c", "a"])
def test_a_strict_function_that_has_changed_fails_and_repeats_nothing(then: str) -> None:
    log, app = MemoryLog(), App("a")
    app.function("f", trigger="go", strict=True)(sequence(*then.split()))

    async def test() -> None:
        async with running(declare(sequence("a", "b", "nap", "c")), log) as node:
            await node.send(go())
            await until(lambda: of(log, records.StepWaiting))
        async with running(app, log):
            await until(lambda: of(log, records.RunFailed))

    on_users_loop(test())
    (failed,) = of(log, records.RunFailed)
    assert failed.error.name == "StepsChanged"
    assert set(steps(log)) <= {"a", "b", "nap"}
    assert not of(log, records.RunErrored)


def test_a_function_that_has_not_changed_is_not_warned_of(heard: Heard) -> None:
    changed(sequence("a", "b", "nap", "c"), sequence("a", "b", "nap", "c"))
    changed(sequence("a", "b", "nap", "c"), sequence("a", "b", "nap", "c", "d", "c"))
    assert heard.fields(CHANGED) == []


@pytest.mark.spec("DUR-09", "FAULT-D5")
def test_steps_that_were_sequential_and_became_parallel_keep_their_results() -> None:
    async def parallel(ctx: Context) -> list[str]:
        b, a, c = await asyncio.gather(*(ctx.step.run(name, value, f"{name}?") for name in "bac"))
        return [a, b, c]

    output, _ = changed(sequence("a", "b", "nap"), parallel)
    assert output == ["a!", "b!", "c?"]


@pytest.mark.spec("FAULT-D5", "STEP-02")
def test_one_id_twice_in_parallel_follows_the_order_of_its_calls() -> None:
    """Nothing else tells two calls apart: the first call has the first one's result, whatever it would run now."""

    def both(first: str, second: str) -> Body:
        async def body(ctx: Context) -> list[Any]:
            found = await asyncio.gather(ctx.step.run("p", value, first), ctx.step.run("p", value, second))
            await ctx.step.sleep("nap", 300)
            return [*found, await ctx.step.run("p", value, "third")]

        return body

    output, log = changed(both("x", "y"), both("y", "x"))
    assert output == ["x", "y", "third"]
    assert sorted(steps(log)) == ["nap", "p", "p", "p"]
    assert len({r.id for r in of(log, records.StepCompleted)}) == 4


@pytest.mark.spec("FAULT-D5")
def test_a_step_that_becomes_another_kind_of_step_keeps_what_its_id_has() -> None:
    async def runs(ctx: Context) -> Any:
        return [await ctx.step.run("a", value, "other"), await ctx.step.run("nap", value, "ran")]

    output, _ = changed(sequence("a", "nap"), runs)
    assert output == ["a!", None]


def test_a_run_whose_function_is_gone_waits_until_it_is_back() -> None:
    log = MemoryLog()
    other = App("a")

    @other.function("other", trigger="other")
    async def its_body(ctx: Context) -> str:
        return "other"

    async def test() -> Any:
        async with running(declare(sequence("a", "nap", "b")), log) as node:
            await node.send(go())
            await until(lambda: of(log, records.StepWaiting))
        async with running(other, log) as node:
            assert (await node.run(Event(name="other", data={})))[0].output == "other"
            await until(lambda: "nap" in steps(log))
        async with running(declare(sequence("a", "nap", "b")), log):
            await until(lambda: len(of(log, records.RunCompleted)) == 2)
        return msgspec.json.decode(of(log, records.RunCompleted)[1].output)

    assert on_users_loop(test()) == {"a": "a!", "b": "b!"}


# --- bodies that kill their process


KILLER = Path(__file__).with_name("killer.py")


@pytest.mark.spec("FAULT-A2")
def test_a_body_that_kills_its_process_ends_in_worker_lost_and_other_runs_complete(tmp_path: Path) -> None:
    ends: list[int] = []
    while len(ends) < 6 and (not ends or ends[-1] == -signal.SIGKILL):
        done = subprocess.run([sys.executable, KILLER, tmp_path / "log.db"], timeout=30, check=False)
        ends.append(done.returncode)
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    with JournalReader(tmp_path / "log.db") as reader:
        decode = msgspec.json.Decoder(list[records.Record]).decode
        found = [record for row in reader.journal(0, 10_000) for record in decode(row.data)]
    failed = [r for r in found if isinstance(r, records.RunFailed)]
    assert [r.error.name for r in failed] == ["WorkerLost"]
    completed = [bytes(r.output) for r in found if isinstance(r, records.RunCompleted)]
    assert sorted(completed) == [b'"fallback after WorkerLost"', *[b'"fine"'] * 5]
    assert (tmp_path / "bodies").read_text().split() == ["killer"] * 2, "begun twice, then no more"


# --- calls that wait for recorded results before they begin


@pytest.mark.spec("STEP-06", "STEP-17", "FAULT-D5")
def test_a_sleep_and_a_send_that_begin_behind_recorded_results_are_carried_out() -> None:
    async def then(ctx: Context) -> list[Any]:
        began = asyncio.get_running_loop().time()
        await ctx.step.sleep("new nap", 80)
        slept = asyncio.get_running_loop().time() - began
        ids = await ctx.step.send_event("new send", go())
        return [slept > 0.07, len(ids), await ctx.step.run("a", value, "other")]

    output, log = changed(sequence("a", "nap"), then)
    assert output == [True, 1, "a!"]
    assert len([r for r in of(log, records.EventRouted) if r.name == "go"]) >= 2


def test_a_lost_step_that_is_reached_behind_recorded_results_fails_and_those_after_it_run() -> None:
    log = MemoryLog()
    lethal = config(engine=msgspec.structs.replace(FAST, lost_allowance=1))

    async def body(ctx: Context) -> list[str]:
        found: list[str] = []
        first = asyncio.ensure_future(ctx.step.run("first", value, "first"))
        try:
            await ctx.step.run("lethal", asyncio.Event().wait)
        except StepError as error:
            found.append(error.name)
        found.append(await first)
        found.append(await ctx.step.run("after", value, "after"))
        return found

    async def test() -> Any:
        async with crashing(declare(body, retries=0), log, lethal) as (node, _):
            await node.send(go())
            await until(lambda: "first" in steps(log))
            await until(lambda: node.executing)
        for _ in range(3):
            async with crashing(declare(body, retries=0), log, lethal) as (node, _):
                await until(lambda: node.executing or of(log, records.RunCompleted))
        return msgspec.json.decode(of(log, records.RunCompleted)[0].output)

    assert on_users_loop(test()) == ["WorkerLost", "first", "after"]
