"""Limits at their edges: what is just within one passes, what is just beyond it is a typed error that names it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steplog import App, Context, Event, StepError
from steplog.drivers.bodiless import MOST_WAIT_MS
from steplog.drivers.config import LocalConfig
from steplog.engine import records
from steplog.engine.functions import MOST_STEP_MS, EngineConfig
from steplog.errors import ConfigInvalid
from steplog.log.memory import MemoryLog
from steplog.node import NodeConfig
from steplog.server.config import DEV_EVENT_BYTES, START_EVENT_BYTES, ServerConfig
from steplog.step import Step

from .command_line import steplog as command
from .running import (
    FAST,
    Body,
    Heard,
    config,
    crashing,
    declare,
    go,
    of,
    on_users_loop,
    perform,
    plus_one,
    run_once,
    running,
    steps,
    until,
    value,
)
from .serving import served


@pytest.mark.spec("LIM-03", "LIM-04", "LIM-06", "LIM-08", "LIMW-03", "LIMW-04")
def test_the_limits_unless_they_are_changed() -> None:
    local, engine = LocalConfig(), EngineConfig()
    assert (local.output_bytes, local.run_bytes, local.steps) == (4_000_000, 32_000_000, 1_000)
    assert (engine.run_state_bytes, engine.steps_per_run) == (local.run_bytes, local.steps)
    assert local.event_bytes == START_EVENT_BYTES == 262_144
    assert DEV_EVENT_BYTES == 3 << 20


# --- time


Wait = Callable[[Step, int], Awaitable[Any]]
WAITS: dict[str, Wait] = {
    "sleep": lambda step, ms: step.sleep("w", ms),
    "event": lambda step, ms: step.wait_for_event("w", event="e", timeout=ms),
    "signal": lambda step, ms: step.wait_for_signal("w", signal="s", timeout=ms),
    "invoke": lambda step, ms: step.invoke("w", function="a-called", timeout=ms),
}


@pytest.mark.spec("LIM-01")
@pytest.mark.parametrize("kind", WAITS)
def test_a_year_is_waited_for_and_no_millisecond_more(kind: str) -> None:
    async def body(ctx: Context) -> str:
        for wait_ms in (MOST_WAIT_MS + 1, 10**30):
            with pytest.raises(StepError) as caught:
                await WAITS[kind](ctx.step, wait_ms)
            assert caught.value.name == "InngestErrTimeoutTooLong"
            assert f"for longer than a year: {wait_ms} ms, the limit is {MOST_WAIT_MS} ms" in caught.value.message
        await WAITS[kind](ctx.step, MOST_WAIT_MS)
        return "not reached"

    app = declare(body, retries=0)

    @app.function("called")
    async def called(ctx: Context) -> None:
        await ctx.step.sleep("nap", MOST_WAIT_MS)

    log = MemoryLog()

    async def story() -> None:
        async with running(app, log) as node:
            await node.send(go())
            await until(lambda: of(log, records.StepWaiting) or of(log, records.RunFailed))

    on_users_loop(story())
    assert of(log, records.RunFailed) == []
    waiting = of(log, records.StepWaiting)[0]
    assert waiting.until - waiting.at == MOST_WAIT_MS


@pytest.mark.spec("LIM-01", "STEP-07")
def test_a_sleep_until_a_time_in_more_than_a_year_is_refused() -> None:
    async def body(ctx: Context) -> str:
        with pytest.raises(StepError, match="sleeps for longer than a year"):
            await ctx.step.sleep_until("w", datetime.now(UTC) + timedelta(days=367))
        return "refused"

    assert perform(body)[0] == "refused"


@pytest.mark.spec("LIM-02", "TMO-06")
@pytest.mark.parametrize("kind", ["async", "def", "swallows"])
def test_an_attempt_that_takes_too_long_fails_and_the_step_is_tried_again(kind: str) -> None:
    begun: list[int] = []

    async def slow(ctx: Context) -> str:
        begun.append(1)
        if len(begun) == 2:
            return "in time"
        if kind == "swallows":  # what it swallows, nobody can take from it: its result counts
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "in its own time"
        await asyncio.Event().wait()
        return "never"

    released = asyncio.Event()

    def in_thread(ctx: Context) -> str:
        begun.append(1)
        if len(begun) == 1:
            asyncio.run(_wait(lambda: released.is_set()))
        return "in time"

    async def body(ctx: Context) -> list[str]:
        first = await ctx.step.run("slow", in_thread if kind == "def" else slow, ctx)
        released.set()
        return [first, await ctx.step.run("after", value, "after")]

    ended, log = on_users_loop(run_once(declare(body), go(), config(step_ms=60)))
    if kind == "swallows":
        assert ended.output == ["in its own time", "after"]
        assert of(log, records.StepErrored) == []
        return
    assert ended.output == ["in time", "after"]
    (errored,) = of(log, records.StepErrored)
    assert errored.error.name == "TimeoutError"
    assert errored.error.message == "the step ran for longer than 0.06 s, the limit of an attempt"


async def _wait(condition: Callable[[], object]) -> None:
    await until(condition)


@pytest.mark.spec("LIM-02")
def test_of_parallel_attempts_each_has_its_own_time() -> None:
    async def body(ctx: Context) -> list[str]:
        async def stuck() -> str:
            await asyncio.Event().wait()
            return "never"

        async def one(name: str) -> str:
            try:
                return await ctx.step.options(retries=0).run(name, stuck)
            except StepError as error:
                return error.name

        async def later() -> str:
            await ctx.step.sleep("nap", 40)
            return await one("second")

        return [*await asyncio.gather(one("first"), later()), await ctx.step.run("quick", value, "quick")]

    ended, log = on_users_loop(run_once(declare(body), go(), config(step_ms=80)))
    assert ended.output == ["TimeoutError", "TimeoutError", "quick"]
    assert steps(log) == ["nap", "first", "second", "quick"]


@pytest.mark.spec("LIM-02", "LIMW-02", "FAULT-D4")
def test_what_a_step_is_given_of_its_own_has_the_same_limits() -> None:
    step = Step(None)  # type: ignore[arg-type] # it is not called
    for retries in (0, 20, None):
        step.options(retries=retries, timeout=MOST_STEP_MS)
    for wrong in (-1, 21, 10**30, True, "3", 1.5):
        with pytest.raises(ConfigInvalid, match=r"retries is .*; it must be a number from 0 to 20"):
            step.options(retries=wrong)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigInvalid) as caught:
        step.options(retries=21, timeout=MOST_STEP_MS + 1)
    assert caught.value.problems == [
        "retries is 21; it must be a number from 0 to 20",
        "timeout is 7200001 ms; the limit of a step's attempt is 7200000 ms, 2 hours",
    ]


@pytest.mark.spec("LIMW-02")
def test_a_function_is_tried_again_at_most_twenty_times() -> None:
    for retries in (0, 20):
        assert declare(_returns_none, retries=retries).functions["a-f"].spec.retries == retries
    for wrong in (-1, 21):
        with pytest.raises(ConfigInvalid, match=f"retries is {wrong}; it must be a number from 0 to 20"):
            declare(_returns_none, retries=wrong)
    assert App("b").function(trigger="go")(_returns_none).spec.retries == 4


async def _returns_none(ctx: Context) -> None: ...


# --- sizes


@pytest.mark.spec("LIM-03", "LIMW-03", "STEP-19")
@pytest.mark.parametrize("where", ["step", "function"])
@pytest.mark.parametrize("size", [1_000, 1_001])
def test_an_output_of_the_limit_passes_and_a_byte_more_fails(size: int, where: str) -> None:
    text = "x" * (size - 2)

    async def body(ctx: Context) -> Any:
        return await ctx.step.run("s", value, text) and None if where == "step" else text

    ended, log = on_users_loop(run_once(declare(body), go(), config(output_bytes=1_000)))
    assert ended.status == ("completed" if size == 1_000 else "failed")
    if size > 1_000:
        (failed,) = of(log, records.RunFailed)
        assert failed.error.name == "OutputTooLarge"
        assert "returned 1001 bytes, the limit is 1000" in failed.error.message


def _recording(count: int) -> Body:
    async def body(ctx: Context) -> None:
        for number in range(count):
            await ctx.step.run(f"s{number}", value, "x" * 98)

    return body


@pytest.mark.spec("LIM-04", "LIMW-03")
def test_a_run_of_the_limits_size_completes_and_a_byte_less_of_a_limit_fails_it() -> None:
    event: Event[Any] = Event(name="go", data={}, id="o1")  # with an id its record has always the same size
    _, log = on_users_loop(run_once(declare(_recording(10)), event))
    size = len(log.events[0][1][-1]) + 10 * 100 + len("null")
    ended, _ = on_users_loop(run_once(declare(_recording(10)), event, _of_size(size)))
    assert ended.status == "completed"
    ended, log = on_users_loop(run_once(declare(_recording(10)), event, _of_size(size - 1)))
    (failed,) = of(log, records.RunFailed)
    assert failed.error.name == "StateSizeExceeded"
    assert f"The run's state is {size} bytes, the limit is {size - 1}" in failed.error.message
    assert not of(log, records.RunErrored), "trying again cannot help"


def _of_size(limit: int) -> NodeConfig:
    return config(engine=msgspec.structs.replace(FAST, run_state_bytes=limit), run_bytes=limit)


@pytest.mark.spec("LIM-04", "LIM-08", "DUR-17")
@pytest.mark.parametrize("parks", [False, True])
def test_four_fifths_of_a_limit_are_warned_of_once(parks: bool, heard: Heard) -> None:
    """Of a run that is replayed too: what was said live is not said again."""

    async def body(ctx: Context) -> None:
        for _ in range(10):
            await ctx.step.run("s", value, "x" * 98)
            if parks:
                await ctx.step.sleep("nap", 1)

    evict_after_ms = -1 if parks else 30_000
    limits: dict[str, Any] = {"steps": 20 if parks else 10, "run_bytes": 1_300}
    on_users_loop(run_once(declare(body), go(), config(evict_after_ms=evict_after_ms, **limits)))
    size, count = sorted(heard.fields("a run is close to a limit"), key=lambda fields: "steps" in fields)
    assert (count["steps"], count["limit"], count["function"]) == ((16, 20, "a-f") if parks else (8, 10, "a-f"))
    assert 1_040 <= size["size_bytes"] < 1_140
    assert size["limit"] == 1_300


@pytest.mark.spec("LIM-04", "LIM-08")
def test_less_than_four_fifths_are_not_warned_of(heard: Heard) -> None:
    on_users_loop(run_once(declare(_recording(7)), go(), config(steps=10, run_bytes=10_000)))
    assert heard.heard == []


@pytest.mark.spec("LIM-06", "LIMW-04", "EVT-17")
def test_an_event_that_a_step_sends_has_the_limit_of_the_edge() -> None:
    async def body(ctx: Context) -> list[Any]:
        found: list[Any] = []
        for event in (_event(1_000), _event(1_001), _event(900, user={"x": "y" * 100}), _event(900, id="i" * 101)):
            try:
                found.append(len(await ctx.step.send_event("tell", event)))
            except StepError as error:
                found.append(f"{error.name}: {error.message}")
        return found

    ended, log = on_users_loop(run_once(declare(body), go(), config(event_bytes=1_000)))
    too_large = "EventTooLarge: Event is over the max size: it is {} bytes, the limit is 1000; "
    first, *others = ended.output
    assert first == 1
    for text, size in zip(others, (1_001, 1_008, 1_001), strict=True):
        assert text.startswith(too_large.format(size))
    assert [r.name for r in of(log, records.EventRouted)] == ["go", "told"]


def _event(data_bytes: int, **fields: Any) -> Event[Any]:
    return Event(name="told", data={"x": "x" * (data_bytes - len('{"x":""}'))}, **fields)


@pytest.mark.spec("LIM-06", "LIMW-04")
def test_many_events_of_nearly_the_limit_are_one_request() -> None:
    """What one page calls the limit of a request is that of an event: 512 KB of several pass."""
    near = {"name": "a", "data": {"x": "x" * (START_EVENT_BYTES - 40)}}
    with served(ServerConfig(is_dev=False, event_keys=("k",))) as (server, _):
        reply = server.request("POST", "/e/k", [near] * 8)
        assert (reply.status, len(reply.json["ids"])) == (200, 8)
        exact = json.dumps(near).encode()
        exact = exact.replace(b"xx", b"x" * (2 + START_EVENT_BYTES - len(exact)), 1)
        assert server.request("POST", "/e/k", exact).status == 200
        reply = server.request("POST", "/e/k", exact.replace(b"xx", b"xxx", 1))
        assert (reply.status, reply.json["ids"]) == (413, [])
        assert "it is 262145 bytes, the limit is 262144" in reply.json["error"]


# --- counts


@pytest.mark.spec("LIM-07", "EVT-17")
def test_a_step_sends_at_most_five_thousand_events_at_once() -> None:
    async def body(ctx: Context) -> Any:
        try:
            return len(await ctx.step.send_event("tell", [_event(10)] * ctx.event.data["count"]))
        except StepError as error:
            return error.message

    assert perform(body, count=5_000)[0] == 5_000
    assert perform(body, count=5_001)[0] == "5001 events are sent at once, the limit is 5000; send them in parts"


@pytest.mark.spec("LIM-05", "EVT-08")
def test_the_name_of_an_event_has_at_most_256_characters_wherever_it_is_written() -> None:
    within, beyond = "ä" * 256, "ä" * 257

    async def body(ctx: Context) -> Any:
        sent = len(await ctx.step.send_event("tell", Event(name=within, data={})))
        with pytest.raises(StepError, match="event name has 257 characters, the limit is 256"):
            await ctx.step.send_event("tell", Event(name=beyond, data={}))
        with pytest.raises(ConfigInvalid, match="has 257 characters, the limit is 256"):
            await ctx.step.wait_for_event("wait", event=beyond, timeout=1)
        return [sent, await ctx.step.wait_for_event("wait", event=within, timeout=1)]

    assert perform(body)[0] == [1, None]
    declare(body, trigger=within)
    with pytest.raises(ConfigInvalid, match="has 257 characters, the limit is 256"):
        declare(body, trigger=beyond)


def _stepping(count: int, begun: list[int], *, is_parallel: bool = False) -> Body:
    async def step(number: int) -> int:
        begun.append(number)
        if is_parallel:
            await asyncio.sleep(0)
        return number

    async def body(ctx: Context) -> int:
        if is_parallel:
            return len(await asyncio.gather(*(ctx.step.run("s", step, n) for n in range(count))))
        for number in range(count):
            await ctx.step.run("s", step, number)
        return count

    return body


@pytest.mark.spec("LIM-08", "LIMW-03", "FAULT-I6")
@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize("count", [10, 11, 2_000])
def test_a_run_makes_as_many_steps_as_it_may_and_begins_no_further_body(count: int, is_parallel: bool) -> None:
    begun: list[int] = []
    engine = EngineConfig(steps_per_run=10)
    app = declare(_stepping(count, begun, is_parallel=is_parallel))
    ended, log = on_users_loop(run_once(app, go(), config(engine=engine, steps=10)))
    assert begun == list(range(10))
    if count == 10:
        assert (ended.status, ended.output) == ("completed", 10)
        return
    (failed,) = of(log, records.RunFailed)
    assert failed.error.name == "StepLimitExceeded"
    assert failed.error.message == (
        "The function run exceeded the step limit of 10 steps. Split it: let it send events that start others, "
        "or do more in one step."
    )
    assert not of(log, records.RunErrored), "trying again cannot help"


@pytest.mark.spec("FAULT-I6", "LIM-08")
def test_a_hundred_thousand_steps_end_at_the_thousandth() -> None:
    begun: list[int] = []
    ended, log = on_users_loop(run_once(declare(_stepping(100_000, begun)), go()))
    assert (ended.status, len(begun), len(steps(log))) == ("failed", 1_000, 1_000)
    assert ended.error is not None
    assert "the step limit of 1000 steps. Split it" in ended.error


@pytest.mark.spec("LIM-08")
def test_steps_that_wait_and_send_count_as_well() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.sleep("nap", 1)
        await ctx.step.send_event("tell", _event(10))
        await ctx.step.wait_for_event("wait", event="e", timeout=1)
        await ctx.step.run("one too many", plus_one, 1)

    ended, log = on_users_loop(run_once(declare(body), go(), config(steps=3)))
    assert (ended.status, steps(log)) == ("failed", ["nap", "tell", "wait"])


@pytest.mark.spec("FAULT-I6")
def test_a_run_at_the_limit_goes_on_after_a_crash_from_its_records() -> None:
    log, begun = MemoryLog(), list[int]()

    async def body(ctx: Context) -> int:
        await _stepping(999, begun)(ctx)
        return await ctx.step.run("last", _hold, ctx.event.data)

    hold = asyncio.Event()

    async def _hold(data: Any) -> int:
        await hold.wait()
        return 999

    async def story() -> Any:
        async with crashing(declare(body), log) as (node, _):
            await node.send(go())
            await until(lambda: len(steps(log)) == 999 and node.executing)
        hold.set()
        async with running(declare(body), log):
            await until(lambda: of(log, records.RunCompleted))

    on_users_loop(story())
    assert begun == list(range(999)), "no body ran again"
    assert of(log, records.RunFailed) == []


@pytest.mark.spec("LIMW-03", "LIM-08")
def test_the_steps_of_a_run_are_configured_up_to_ten_thousand(tmp_path: Path) -> None:
    for steps_ in (1, 10_000):
        assert command("config", "check", "--set", f"limits.steps={steps_}", cwd=tmp_path).code == 0
    for wrong in (0, 10_001):
        refused = command("config", "check", "--set", f"limits.steps={wrong}", cwd=tmp_path)
        assert refused.code == 2
        assert "limits.steps" in refused.stderr + refused.stdout
