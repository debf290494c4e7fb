"""Errors of steps and functions: tried again, caught, final, hostile; each is recorded, and the worker survives."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steplog import App, Context, ContextSync, Event, NonRetriableError, RetryAfterError, StepError, current_step
from steplog.engine import records
from steplog.errors import ConfigInvalid, StepOutsideRun
from steplog.log.memory import MemoryLog
from steplog.step import Step

from .running import (
    config,
    declare,
    fail,
    go,
    of,
    on_users_loop,
    perform,
    running,
    steps,
    until,
    value,
)

# --- errors


@pytest.mark.spec("ERR-01", "ERR-02", "ERR-03", "ERR-04", "ERR-06", "DUR-07", "STEP-04", "PY-23")
def test_a_step_is_tried_again_until_it_succeeds_and_the_next_one_counts_anew() -> None:
    attempts: list[tuple[str, int, int]] = []

    async def body(ctx: Context) -> list[int]:
        async def flaky(name: str, fails: int) -> int:
            attempts.append((name, ctx.attempt, current_step().attempt))
            if ctx.attempt < fails:
                raise ConnectionError(f"no {ctx.attempt}")
            return ctx.attempt

        outside = [ctx.attempt]
        outside.append(await ctx.step.run("a", flaky, "a", 2))
        outside.append(ctx.attempt)
        outside.append(await ctx.step.run("b", flaky, "b", 1))
        outside.append(ctx.attempt)
        return outside

    output, log = perform(body, retries=2)
    assert output == [0, 2, 0, 1, 0]
    assert attempts == [("a", 0, 0), ("a", 1, 1), ("a", 2, 2), ("b", 0, 0), ("b", 1, 1)]
    assert [(r.step, r.attempt, r.error.message) for r in of(log, records.StepErrored)] == [
        ("a", 0, "no 0"), ("a", 1, "no 1"), ("b", 0, "no 0"),
    ]  # fmt: skip


@pytest.mark.spec("ERR-04", "ERR-06")
def test_an_attempt_of_the_function_counts_until_a_step_is_recorded() -> None:
    seen: list[list[int]] = []

    async def body(ctx: Context) -> list[int]:
        mine: list[int] = []
        seen.append(mine)
        mine.append(ctx.attempt)
        await ctx.step.run("a", value, 1)
        mine.append(ctx.attempt)
        if len(seen) < 3:
            raise ConnectionError("between")
        await ctx.step.run("b", value, 1)
        mine.append(ctx.attempt)
        return mine

    output, log = perform(body, retries=2)
    assert seen == [[0, 0], [1, 1], [2, 2, 0]]
    assert output == [2, 2, 0]
    assert steps(log) == ["a", "b"]
    assert [r.attempt for r in of(log, records.RunErrored)] == [0, 1]


@pytest.mark.spec("ERR-02", "ERR-09", "ERR-10", "PY-38", "ERR-18")
def test_a_step_that_has_no_attempt_left_fails_the_run() -> None:
    class PaymentDeclined(Exception):
        pass

    def declined() -> None:
        raise PaymentDeclined("card 42") from KeyError("why")

    async def body(ctx: Context) -> None:
        await ctx.step.run("pay", declined)

    failed, log = fail(body, retries=2)
    assert (failed.error.name, failed.error.message) == ("PaymentDeclined", "card 42")
    assert len(of(log, records.StepErrored)) == 2
    (step,) = of(log, records.StepFailed)
    assert step.attempt == 2
    assert step.error.cause is not None
    assert (step.error.cause.name, step.error.cause.message) == ("KeyError", "'why'")
    stack = step.error.stack or ""
    assert stack.startswith(f'  File "{__file__}"'), "from the user's own code on"
    assert "in declined" in stack
    assert of(log, records.RunErrored) == [], "the function is not tried again"


@pytest.mark.spec("ERR-20", "ERR-18")
@pytest.mark.parametrize("is_plain", [True, False])
def test_a_stack_leads_from_the_steps_body_to_where_it_broke(is_plain: bool) -> None:
    def broken() -> None:
        raise ValueError("here")

    def outer() -> None:
        broken()

    async def awaits() -> None:
        await asyncio.sleep(0)
        outer()

    async def body(ctx: Context) -> None:
        await ctx.step.run("fails", outer if is_plain else awaits)

    failed, _ = fail(body, retries=0)
    frames = re.findall(r", in (\w+)$", failed.error.stack or "", re.MULTILINE)
    assert frames == (["outer", "broken"] if is_plain else ["awaits", "outer", "broken"])


@pytest.mark.spec("ERR-09", "ERR-11", "ERR-12", "PY-38")
def test_a_caught_step_error_lets_the_run_go_on() -> None:
    async def body(ctx: Context) -> list[str | None]:
        async def no() -> None:
            raise ValueError("no")

        try:
            await ctx.step.run("first", no)
        except StepError as error:
            undone = await ctx.step.run("undo", value, "undone")
            return [undone, error.name, error.message, "in no" if "in no" in (error.stack or "") else None]
        return []

    output, log = perform(body, retries=1)
    assert output == ["undone", "ValueError", "no", "in no"]
    assert steps(log) == ["first", "undo"]


@pytest.mark.spec("ERR-07", "PY-37")
def test_a_non_retriable_error_in_a_step_fails_the_step_now() -> None:
    async def no() -> None:
        raise NonRetriableError("never") from ValueError("because")

    async def body(ctx: Context) -> str:
        try:
            await ctx.step.run("pay", no)
        except StepError as error:
            return f"{error.name}: {error.message}"
        return "not reached"

    output, log = perform(body, retries=5)
    assert output == "NonRetriableError: never"
    assert of(log, records.StepErrored) == []
    (failed,) = of(log, records.StepFailed)
    assert failed.error.cause is not None
    assert failed.error.cause.message == "because"


@pytest.mark.spec("ERR-07", "PY-37")
def test_a_non_retriable_error_in_the_function_fails_the_run_now() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.run("a", value, 1)
        raise NonRetriableError("enough")

    failed, log = fail(body, retries=5)
    assert (failed.error.name, failed.error.message) == ("NonRetriableError", "enough")
    assert of(log, records.RunErrored) == []


@pytest.mark.spec("ERR-08", "PY-37", "FAULT-D4")
@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [
        (1_200, 1.2, 1.2),
        (timedelta(hours=1), 3_600, 3_600),
        (datetime.now(UTC) + timedelta(hours=3), 10_000, 10_800),
        (timedelta(days=3_650), 86_400, 86_400),
        (-1, 1, 1),
        (datetime(1999, 1, 1, tzinfo=UTC), 1, 1),
        (10**30, 86_400, 86_400),  # beyond what a message to the engine can hold
        (-(10**30), 1, 1),
        (timedelta.max, 86_400, 86_400),
        (datetime.max.replace(tzinfo=UTC), 86_400, 86_400),
        (float("nan"), 0.001, 0.001),  # not a time: the policy's own
        (float("inf"), 0.001, 0.001),
        (1.5, 0.001, 0.001),
        (None, 0.001, 0.001),
    ],
)
@pytest.mark.parametrize("is_step", [True, False])
def test_an_error_sets_the_time_of_the_next_attempt_within_bounds(
    asked: Any, least_s: float, most_s: float, is_step: bool
) -> None:
    async def later() -> None:
        raise RetryAfterError("later", asked)

    async def body(ctx: Context) -> None:
        await (ctx.step.run("a", later) if is_step else later())

    async def test() -> list[Any]:
        log = MemoryLog()
        kind = records.StepErrored if is_step else records.RunErrored
        async with running(declare(body), log, config(drain_s=0)) as node:
            await node.send(go())
            await until(lambda: of(log, kind))
        return of(log, kind)

    first = on_users_loop(test())[0]
    assert least_s * 1000 - 1 <= first.retry_at - first.at <= most_s * 1000 + 1
    assert first.error.name == "RetryAfterError"


@pytest.mark.spec("PAR-06", "ERR-06")
def test_a_group_of_errors_is_told_by_its_first_and_is_final_where_one_is() -> None:
    async def body(ctx: Context) -> None:
        async def no(name: str) -> None:
            raise NonRetriableError(name)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.step.run("a", no, "a"))
            tasks.create_task(ctx.step.run("b", value, 1))

    failed, log = fail(body)
    assert (failed.error.name, failed.error.message) == ("NonRetriableError", "a")
    assert of(log, records.RunErrored) == []

    async def fails(ctx: Context) -> None:
        raise ExceptionGroup("two", [ExceptionGroup("inner", [ValueError("first")]), KeyError("second")])

    failed, log = fail(fails, retries=1)
    assert (failed.error.name, failed.error.message) == ("ValueError", "first")
    assert len(of(log, records.RunErrored)) == 1


@pytest.mark.spec("PAR-06")
def test_a_parallel_step_that_fails_is_an_error_at_the_join() -> None:
    async def body(ctx: Context) -> list[str]:
        async def no() -> None:
            raise NonRetriableError("no")

        found = await asyncio.gather(
            ctx.step.run("a", value, "a"), ctx.step.run("b", no), ctx.step.run("c", value, "c"), return_exceptions=True
        )
        return [str(each) for each in found]

    assert perform(body)[0] == ["a", "no", "c"]


def test_current_step_is_known_in_steps_alone() -> None:
    found: list[tuple[str, str, int]] = []

    async def body(ctx: Context) -> str:
        async def third_party() -> None:
            await asyncio.sleep(0)
            step = current_step()
            found.append((step.step_id, step.key, step.attempt))
            if step.attempt < 2:
                raise ConnectionError

        with pytest.raises(StepOutsideRun):
            current_step()
        await asyncio.gather(ctx.step.run("a", third_party), ctx.step.run("b", third_party))
        with pytest.raises(StepOutsideRun):
            current_step()
        return ctx.run_id

    run_id, _ = perform(body)
    assert sorted((step, attempt) for step, _, attempt in found) == [(s, n) for s in "ab" for n in range(3)]
    of_a, of_b = ({key for step, key, _ in found if step == name} for name in "ab")
    assert (len(of_a), len(of_b), len(of_a | of_b)) == (1, 1, 2), "one key for all attempts of a step"
    assert all(key.startswith(run_id) for key in of_a | of_b)


# --- hostile errors (D9)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Fatal(BaseException):
    pass


def half_made() -> None:
    class HalfMade(RetryAfterError):
        def __init__(self) -> None:
            pass

    raise HalfMade


class Faceless(Exception):
    """Even its cause cannot be read."""

    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]
        raise KeyError("no cause")


def in_groups(error: Exception, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def raising(error: BaseException) -> Callable[[], None]:
    def handler() -> None:
        raise error

    return handler


@pytest.mark.spec("FAULT-D9")
@pytest.mark.parametrize(
    ("handler", "name", "text"),
    [
        (raising(Unprintable()), "Unprintable", "cannot be read"),
        (raising(Fatal("fatal")), "Fatal", "fatal"),
        (raising(SystemExit(3)), "SystemExit", "3"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt", ""),
        (raising(asyncio.CancelledError("mine")), "CancelledError", ""),
        (raising(GeneratorExit()), "GeneratorExit", ""),
        (raising(ValueError("lone \ud800")), "ValueError", "lone ?"),
        (raising(ValueError(object(), {1: {2}})), "ValueError", "object"),
        (raising(StepError(7, 8, 9)), "8", "7"),  # type: ignore[arg-type] # the point of the test
        (raising(ValueError("x" * 1_000_000)), "ValueError", "x" * 1000),
        (raising(Faceless("faceless")), "Faceless", "faceless"),
        (raising(in_groups(ValueError("innermost"), 3_000)), "ValueError", "innermost"),
        (half_made, "HalfMade", ""),
    ],
)
@pytest.mark.parametrize("where", ["function", "async step", "step in a thread"])
def test_whatever_is_raised_is_recorded_as_a_failure_and_the_worker_survives(
    handler: Callable[[], None], name: str, text: str, where: str
) -> None:
    async def in_loop() -> None:
        handler()

    async def body(ctx: Context) -> None:
        if where == "function":
            handler()
        await ctx.step.run("hostile", in_loop if where == "async step" else handler)

    app = declare(body, retries=1)

    @app.function("after", trigger="after")
    async def after(ctx: Context) -> str:
        return await ctx.step.run("alive", value, "alive")

    async def test() -> tuple[Any, Any, MemoryLog]:
        log = MemoryLog()
        async with running(app, log) as node:
            return await node.run(go()), await node.run(Event(name="after", data={})), log

    (ended,), (alive,), log = on_users_loop(test())
    assert (ended.status, alive.output) == ("failed", "alive")
    (failed,) = of(log, records.RunFailed)
    assert failed.error.name == name
    assert text in failed.error.message
    assert len(failed.error.message) <= 40_000


@pytest.mark.spec("FAULT-D9", "SDK-06")
@pytest.mark.parametrize("is_step", [True, False])
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), StopIteration(), Fatal()]
)
def test_whatever_a_plain_function_raises_in_its_thread_fails_its_run_alone(
    error: BaseException, is_step: bool
) -> None:
    app = App("a")

    @app.function("f", trigger="go", retries=0)
    def f(ctx: ContextSync) -> None:
        if is_step:
            ctx.step.run("hostile", raising(error))
        raising(error)()

    @app.function("after", trigger="after")
    def after(ctx: ContextSync) -> str:
        return ctx.step.run("alive", lambda: "alive")

    async def test() -> tuple[Any, Any]:
        async with running(app) as node:
            return await node.run(go()), await node.run(Event(name="after", data={}))

    (ended,), (alive,) = on_users_loop(test())
    assert (ended.status, alive.output) == ("failed", "alive")


@pytest.mark.spec("FAULT-D9")
def test_stop_iteration_from_a_thread_does_not_leave_the_step_open() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.run("next", lambda: next(iter([])))

    failed, log = fail(body, retries=1)
    assert (failed.error.name, failed.error.message) == ("RuntimeError", "the step raised StopIteration")
    (step,) = of(log, records.StepFailed)
    assert step.error.cause is not None
    assert step.error.cause.name == "StopIteration"


@pytest.mark.spec("FAULT-I1")
@pytest.mark.parametrize("step_id", ["", " ", "a" * 10_000, "nul\0", "../x", "‮rtl", "🦆", "Step", "step"])
def test_a_steps_id_may_be_any_text(step_id: str) -> None:
    async def body(ctx: Context) -> int:
        return await ctx.step.run(step_id, value, 7)

    output, log = perform(body)
    assert output == 7
    assert steps(log) == [step_id]


@pytest.mark.spec("FAULT-I1")
def test_half_of_a_surrogate_pair_is_no_text() -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.step.run("half \ud800", value, 1)
        except ValueError as error:
            return str(error)
        return "accepted"

    output, log = perform(body)
    assert "half of a surrogate pair" in str(output)
    assert steps(log) == []


NAMES: dict[str, Callable[[Step, Any], Awaitable[Any]]] = {
    "a signal that is waited for": lambda step, name: step.wait_for_signal("w", signal=name, timeout=1),
    "a signal that is sent": lambda step, name: step.send_signal("w", name),
    "an event that is waited for": lambda step, name: step.wait_for_event("w", event=name, timeout=1),
    "an event that is sent": lambda step, name: step.send_event("w", Event(name=name, data={})),
    "an event's id": lambda step, name: step.send_event("w", Event(name="told", data={}, id=name)),
    "a condition": lambda step, name: step.wait_for_event("w", event="e", timeout=1, if_exp=name),
    "a function": lambda step, name: step.invoke("w", function=name),
    "a step": lambda step, name: step.run(name, value, 1),
}


@pytest.mark.spec("FAULT-I1", "FAULT-D8")
@pytest.mark.parametrize("name", ["half \ud800", 5, 10**30, b"bytes", ["list"]])
@pytest.mark.parametrize("what", NAMES)
def test_what_no_message_could_hold_is_refused_where_it_is_called(what: str, name: Any) -> None:
    async def body(ctx: Context) -> str:
        try:
            await NAMES[what](ctx.step, name)
        except (ValueError, TypeError, AttributeError, ConfigInvalid, StepError) as error:
            return f"refused: {error!a}"
        return "accepted"

    output, log = perform(body)
    assert output.startswith("refused: ")
    assert not of(log, records.StepWaiting)


@pytest.mark.spec("FAULT-I1")
@pytest.mark.parametrize("name", ["", "x" * 257, None])
def test_a_signal_has_a_name_of_its_own(name: Any) -> None:
    async def body(ctx: Context) -> list[str]:
        found = []
        for call in (ctx.step.wait_for_signal("w", signal=name, timeout=1), ctx.step.send_signal("s", name)):
            with pytest.raises(ValueError, match=r"the signal's name (is None|has (0|257) characters)") as caught:
                await call
            found.append(str(caught.value))
        return found

    assert len(perform(body)[0]) == 2


@pytest.mark.spec("FAULT-I1")
def test_signals_are_told_apart_exactly() -> None:
    names = [" ", "\0", "../x", "\u202ertl", "🦆", "Abc", "abc", "x" * 256, "null", "é", "e\u0301"]

    async def body(ctx: Context) -> list[Any]:
        waits = [ctx.step.wait_for_signal("w", signal=name, timeout=60_000) for name in names]

        async def send() -> None:
            await ctx.step.sleep("until they wait", 20)
            for number, name in enumerate(names):
                await ctx.step.send_signal("tell", name, number)

        *heard, _ = await asyncio.gather(*waits, send())
        return [(each.signal, each.data) for each in heard if each is not None]

    assert perform(body)[0] == [[name, number] for number, name in enumerate(names)]


@pytest.mark.spec("FAULT-I1")
@pytest.mark.parametrize("name", ["half \ud800", 5, None, "", b"x"])
def test_apps_and_functions_have_text_for_an_id(name: Any) -> None:
    with pytest.raises(ConfigInvalid, match=r"id (is|has) "):
        App(name)
    if name is not None:  # then it is the handler's
        with pytest.raises(ConfigInvalid, match=r"id (is|has) "):
            App("a").function(name, trigger="go")(value)
