"""The local driver's promises, each as a small function that runs durably on a real node."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from typing import Any

import msgspec
import pytest

from steplog import App, Context, Event, NonRetriableError, Step, StepError, current_step
from steplog.engine import records
from steplog.log.memory import MemoryLog

from .running import (
    config,
    declare,
    fail,
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

YEAR = timedelta(days=366)


# --- steps


@pytest.mark.spec("STEP-01", "STEP-03", "STEP-21", "DUR-14", "PY-22", "PY-25", "CONV-06", "ARCH-04")
def test_steps_run_one_after_the_other_and_only_those_that_are_called() -> None:
    async def body(ctx: Context) -> str:
        count = await ctx.step.run("count", plus_one, ctx.event.data["n"])
        if count > 10:
            return await ctx.step.run("many", value, "many")
        await ctx.step.run("few", value, None)
        return f"few: {count}"

    output, log = perform(body, n=2)
    assert (output, steps(log)) == ("few: 3", ["count", "few"])
    assert [(r.attempt, bytes(r.output)) for r in of(log, records.StepCompleted)] == [(0, b"3"), (0, b"null")]
    output, log = perform(body, n=20)
    assert (output, steps(log)) == ("many", ["count", "many"])


@pytest.mark.spec("PY-22", "PY-23")
def test_a_function_takes_ctx_or_ctx_and_step() -> None:
    seen: list[Context] = []

    async def body(ctx: Context, step: Step) -> int:
        seen.append(ctx)
        return await step.run("one", plus_one, 0)

    app = App("a")
    app.function("f", trigger="go")(body)
    ended, _ = on_users_loop(run_once(app, Event(name="go", data={"x": 1}, id="e1", v="2", user={"id": 7})))
    (ctx,) = seen
    assert (ended.output, ended.run_id) == (1, ctx.run_id)
    event = ctx.event
    assert (event.name, event.data, event.id, event.v, event.user) == ("go", {"x": 1}, "e1", "2", {"id": 7})
    assert event.ts is not None
    assert ctx.events == [event]


@pytest.mark.spec("STEP-02", "DUR-04", "PY-26", "PAR-03", "PAR-09", "FAULT-D5")
def test_the_same_id_again_is_another_step() -> None:
    async def body(ctx: Context) -> list[int]:
        found = [await ctx.step.run("page", plus_one, n) for n in range(3)]
        return found + await asyncio.gather(*(ctx.step.run("page", plus_one, n) for n in range(3, 6)))

    output, log = perform(body)
    assert output == [1, 2, 3, 4, 5, 6]
    assert len({r.id for r in of(log, records.StepCompleted)}) == 6


@pytest.mark.spec("PAR-01", "PAR-02", "FAULT-D6")
@pytest.mark.parametrize("is_race", [False, True])
def test_five_hundred_parallel_steps_that_end_at_once_continue_the_function_once(is_race: bool) -> None:
    continued: list[int] = []

    async def body(ctx: Context) -> int:
        barrier = asyncio.Barrier(500)

        async def meet(number: int) -> int:
            await barrier.wait()
            return number

        branches = [asyncio.ensure_future(ctx.step.run("meet", meet, n)) for n in range(500)]
        if is_race:
            await asyncio.wait(branches, return_when=asyncio.FIRST_COMPLETED)
            continued.append(sum(branch.done() for branch in branches))
        total = sum(await asyncio.gather(*branches))
        continued.append(total)
        return await ctx.step.run("after", plus_one, total)

    output, log = perform(body)
    assert output == 124_751
    assert continued == ([1, 124_750] if is_race else [124_750])
    assert len({r.id for r in of(log, records.StepCompleted)}) == len(steps(log)) == 501
    assert steps(log)[-1] == "after"


@pytest.mark.spec("PAR-05", "PAR-01")
@pytest.mark.parametrize("evict_after_ms", [30_000, -1])
@pytest.mark.parametrize(
    ("when", "is_done"),
    [
        (asyncio.FIRST_COMPLETED, [True, False, False]),
        (asyncio.FIRST_EXCEPTION, [True, True, False]),
        (asyncio.ALL_COMPLETED, [True, True, True]),
    ],
)
def test_asyncio_waits_for_steps_as_for_anything_else(when: str, is_done: list[bool], evict_after_ms: int) -> None:
    async def body(ctx: Context) -> Any:
        async def after(name: str) -> str:
            await ctx.step.sleep(f"before {name}", 20 * (1 + "abc".index(name)))
            return await (ctx.step.run(name, wrong) if name == "b" else ctx.step.run(name, value, name))

        branches = [asyncio.ensure_future(after(name)) for name in "abc"]
        done, _ = await asyncio.wait(branches, return_when=when)
        seen = [branch in done for branch in branches]
        gathered = await asyncio.gather(*branches, return_exceptions=True)
        return [seen, await ctx.step.run("after", value, [str(each) for each in gathered])]

    def wrong() -> str:
        raise NonRetriableError("b!")

    ended, log = on_users_loop(run_once(declare(body), go(), config(evict_after_ms=evict_after_ms)))
    assert ended.output == [is_done, ["a", "b!", "c"]]
    assert sorted(steps(log)) == ["a", "after", "b", "before a", "before b", "before c", "c"]


@pytest.mark.spec("STEP-22")
def test_a_step_that_is_not_awaited_does_not_happen() -> None:
    async def body(ctx: Context) -> str:
        ctx.step.sleep("nap", timedelta(days=1))  # type: ignore[unused-coroutine] # the point of the test
        ctx.step.run("lost", value, 1)  # type: ignore[unused-coroutine]
        return await ctx.step.run("kept", value, "at once")

    def performed() -> tuple[Any, MemoryLog]:
        done = perform(body)
        gc.collect()
        return done

    with pytest.warns(RuntimeWarning, match="was never awaited") as warned:
        output, log = performed()
    assert (output, steps(log), len(warned)) == ("at once", ["kept"], 2)
    assert not of(log, records.StepWaiting)


@pytest.mark.spec("PAR-01", "DUR-20")
def test_task_groups_run_steps_side_by_side() -> None:
    met: list[str] = []

    async def body(ctx: Context) -> list[str]:
        both = asyncio.Barrier(2)

        async def meet(name: str) -> str:
            await both.wait()
            met.append(name)
            return name

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step.run(name, meet, name)) for name in "ab"]
        return [task.result() for task in tasks]

    output, _ = perform(body)
    assert output == ["a", "b"]
    assert sorted(met) == ["a", "b"]


@pytest.mark.spec("PY-24", "STEP-03")
def test_plain_functions_run_in_threads_side_by_side_and_know_their_step() -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(name: str, *, suffix: str) -> list[str]:
        both.wait()
        return [name + suffix, threading.current_thread().name.split("_")[0], current_step().step_id]

    async def body(ctx: Context) -> list[list[str]]:
        return await asyncio.gather(*(ctx.step.run(name, meet, name, suffix="!") for name in "ab"))

    output, _ = perform(body)
    assert output == [["a!", "steplog-step", "a"], ["b!", "steplog-step", "b"]]


@pytest.mark.spec("PY-25")
def test_every_kind_of_callable_is_a_step() -> None:
    class Adder:
        def __init__(self, by: int) -> None:
            self.by = by

        async def __call__(self, number: int) -> tuple[int, ...]:
            return (number + self.by,)

        def method(self, number: int) -> set[int]:
            return {number + self.by}

    async def body(ctx: Context) -> str:
        run = ctx.step.run
        found = [
            await run("lambda", lambda: 1),
            await run("lambda of a coroutine", lambda: plus_one(1)),
            await run("partial", partial(plus_one, number=2)),
            await run("keywords", plus_one, number=3),
            await run("object", Adder(4), 1),
            await run("method", Adder(4).method, 2),
            await run("builtin", len, "seven__"),
        ]
        return repr(found)

    assert perform(body)[0] == "[1, 2, 3, 4, (5,), {6}, 7]"


def test_functions_that_share_their_code_are_read_by_their_own_annotation() -> None:
    def logged(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(handler)
        async def wrapper(*args: Any) -> Any:
            return await handler(*args)

        return wrapper

    @logged
    async def as_set() -> set[int]:
        return {1}

    @logged
    async def as_tuple() -> tuple[int, ...]:
        return (1,)

    def make(kind: Any) -> Callable[[], Awaitable[Any]]:
        async def made() -> kind:
            return kind([1])

        return made

    async def body(ctx: Context) -> str:
        handlers = [as_set, as_tuple, make(set), make(tuple), make(frozenset)]
        return repr([await ctx.step.run("one", handler) for handler in handlers])

    assert perform(body)[0] == "[{1}, (1,), {1}, (1,), frozenset({1})]"


@pytest.mark.spec("PY-35")
@pytest.mark.parametrize("is_async", [True, False])
def test_a_step_in_a_step_fails_the_outer_one_and_no_code_can_catch_it(is_async: bool) -> None:
    caught: list[str] = []

    async def body(ctx: Context) -> str:
        async def inside() -> str:
            try:
                await ctx.step.run("inner", value, 1)
            except Exception:  # noqa: BLE001 - the point of the test
                caught.append("Exception")
            except BaseException:  # noqa: BLE001 - even this does not help
                pass
            return "as if nothing had happened"

        def inside_thread() -> str:
            return asyncio.run(inside())

        try:
            await ctx.step.run("outer", inside if is_async else inside_thread)
        except StepError as error:
            return f"{error.name}: {error.message}"
        return "not reached"

    output, log = perform(body)
    assert output == "StepNested: Nested steps are not supported."
    assert (steps(log), caught) == (["outer"], [])
    assert of(log, records.StepErrored) == [], "it is not tried again"


def test_sleeps_and_sends_in_a_step_are_nested_steps_too() -> None:
    async def body(ctx: Context) -> list[str]:
        found = []
        for inner in (lambda: ctx.step.sleep("s", 1), lambda: ctx.step.send_event("e", go())):
            try:
                await ctx.step.run("outer", inner)
            except StepError as error:
                found.append(error.name)
        return found

    assert perform(body)[0] == ["StepNested", "StepNested"]


def test_a_steps_id_is_text() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.run(5, plus_one, 1)  # type: ignore[call-overload] # the point of the test

    failed, _ = fail(body, retries=0)
    assert failed.error.name == "TypeError"
    assert "5" in failed.error.message


# --- sleeping


@pytest.mark.spec("STEP-06", "STEP-07", "PY-27", "CONV-02", "PAR-10")
def test_sleeps_last_as_long_as_they_say_and_those_that_are_over_do_not_last() -> None:
    async def body(ctx: Context) -> list[int]:
        began = time.monotonic()
        await ctx.step.sleep("delta", timedelta(milliseconds=40))
        await ctx.step.sleep("number", 40)
        await ctx.step.sleep_until("moment", datetime.now(UTC) + timedelta(milliseconds=40))
        took = time.monotonic() - began
        await ctx.step.sleep("nothing", 0)
        await ctx.step.sleep("negative", -5)
        await ctx.step.sleep_until("past", datetime(1999, 1, 1, tzinfo=UTC))
        return [round(took * 1000), round((time.monotonic() - began - took) * 1000)]

    (took, rest), log = perform(body)
    assert 115 <= took < 2_000
    assert rest < 1_000
    assert [(r.step, r.op) for r in of(log, records.StepWaiting)] == [
        (name, "Sleep") for name in ("delta", "number", "moment", "nothing", "negative", "past")
    ]


@pytest.mark.spec("STEP-06", "STEP-07")
def test_more_than_a_year_is_refused() -> None:
    async def body(ctx: Context) -> list[str]:
        found = []
        for sleep in (
            ctx.step.sleep("long", YEAR + timedelta(seconds=1)),
            ctx.step.sleep_until("far", datetime.now(UTC) + YEAR + timedelta(seconds=5)),
            ctx.step.sleep_until("farthest", datetime.max.replace(tzinfo=UTC)),
        ):
            try:
                await sleep
            except StepError as error:
                found.append(error.name)
        return found

    output, log = perform(body)
    assert output == ["InngestErrTimeoutTooLong"] * 3
    assert of(log, records.StepWaiting) == []


@pytest.mark.spec("CONV-02")
@pytest.mark.parametrize("duration", [1.5, True, "5m", None])
def test_a_duration_is_a_timedelta_or_milliseconds(duration: Any) -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.sleep("s", duration)

    failed, _ = fail(body, retries=0)
    assert failed.error.name == "TypeError"


def test_a_moment_needs_a_zone() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.sleep_until("s", datetime(2030, 1, 1))

    failed, _ = fail(body, retries=0)
    assert failed.error.name == "ValueError"
    assert "no zone" in failed.error.message


# --- sending


@pytest.mark.spec("STEP-17", "EVT-20", "PY-31", "EVT-13")
def test_events_that_a_step_sends_start_functions_and_are_one_commit_with_the_step() -> None:
    app = App("a")
    came: list[tuple[str, int]] = []

    @app.function("parent", trigger="go")
    async def parent(ctx: Context) -> list[list[str]]:
        one = await ctx.step.send_event("one", Event(name="child", data={"n": 1}))
        two = await ctx.step.send_event("two", [Event(name="child", data={"n": n}, id=f"c{n}") for n in (2, 3)])
        again = await ctx.step.send_event("again", Event(name="child", data={"n": 3}, id="c3"))
        nothing = await ctx.step.send_event("nothing", [])
        return [one, two, again, nothing]

    @app.function("child", trigger="child")
    async def child(ctx: Context) -> None:
        came.append((ctx.event.id or "", ctx.event.data["n"]))

    @app.function("other", trigger="child")
    async def other(ctx: Context) -> None:
        came.append(("other", ctx.event.data["n"]))

    async def test() -> tuple[Any, MemoryLog]:
        log = MemoryLog()
        async with running(app, log) as node:
            (ended,) = await node.run(go())
            await until(lambda: len(came) == 6, "the children")
        return ended.output, log

    (one, two, again, nothing), log = on_users_loop(test())
    assert len({*one, *two, *again}) == 4, "each send has an id of its own"
    assert nothing == []
    assert set(came) == {("c2", 2), ("c3", 3), (one[0], 1), ("other", 1), ("other", 2), ("other", 3)}
    routed = {r.event: [run.function for run in r.runs] for r in of(log, records.EventRouted)}
    assert [routed[i] for i in (*one, *two, *again)] == [["a-child", "a-other"]] * 3 + [[]]
    turn = next(turn for _, turn in log.journal if any(b'"step":"two"' in record for record in turn))
    written = [msgspec.json.decode(record) for record in turn]
    assert {w["event"] for w in written if w["kind"] == "event.routed"} >= set(two), "in the commit of the step"


@pytest.mark.spec("STEP-17", "EVT-08", "EVT-17")
@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(name="", data={}), "name is empty"),
        (Event(name="x" * 257, data={}), "257 characters"),
        (Event(name="inngest/forged", data={}), "reserved"),
        (Event(name="\ud800", data={}), "not Unicode"),
        (Event(name=7, data={}), "must be text"),  # type: ignore[arg-type] # the point of the test
        (Event(name="e", data={}, id=7), "must be text"),  # type: ignore[arg-type] # the point of the test
        (Event(name="e", data={}, v=7), "must be text"),  # type: ignore[arg-type] # the point of the test
        (Event(name="e", data={}, ts=1), "between 1980"),
        (Event(name="e", data={}, ts=1.5), "must be milliseconds"),  # type: ignore[arg-type] # the point of the test
        (Event(name="e", data=[1]), "not an object"),
        (Event(name="e", data={"x": [1, float("nan")]}), r"$.x[1] is not a finite number"),
        (Event(name="e", data={"x": object()}), "cannot be written as JSON"),
        (Event(name="e", data={"x": "\ud800"}), "cannot be written as JSON"),
        (Event(name="e", data={"x": "y" * 300_000}), "over the max size"),
        ({"name": "e", "data": {}}, "not dict"),
        ([Event(name="e", data={})] * 5_001, "the limit is 5000"),
    ],
)
def test_an_event_that_breaks_a_rule_fails_its_step_and_nothing_is_sent(event: Any, text: str) -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.step.send_event(
                "send", event if isinstance(event, list) else [Event(name="fine", data={}), event]
            )
        except StepError as error:
            return error.message
        return "sent"

    output, log = perform(body)
    assert text in output
    assert [r.name for r in of(log, records.EventRouted)] == ["go"]
    assert steps(log) == ["send"]
