"""The catalogue's acceptance vectors that need no server, as stories in virtual time."""

import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steplog import (
    App,
    Context,
    Event,
    FunctionFailed,
    NonRetriableError,
    RetryAfterError,
    StepError,
    TriggerCron,
    TriggerEvent,
)
from steplog.errors import ConfigInvalid
from steplog.testing import Testbed

from .running import Heard, go, on_users_loop, plus_one, value

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
Story = Callable[[Testbed], Coroutine[Any, Any, None]]


def tell(app: App, story: Story, **options: Any) -> None:
    """Play a story on a testbed of one app."""

    async def played() -> None:
        async with Testbed(app, **options) as testbed:
            await story(testbed)

    on_users_loop(played())


@pytest.mark.spec("ATV-01", "EVT-13", "EVT-20", "FN-14", "FN-23", "TEST-03", "ARCH-11")
def test_of_two_functions_of_an_event_one_fails_and_the_other_completes() -> None:
    app = App("a")

    @app.function("good", trigger="go")
    async def good(ctx: Context) -> str:
        return "fine"

    @app.function("bad", trigger="go", retries=0)
    async def bad(ctx: Context) -> None:
        raise ValueError("no")

    async def story(testbed: Testbed) -> None:
        await testbed.send(go())
        assert {run.function: (run.status, run.output) for run in testbed.runs()} == {
            "a-good": ("completed", "fine"),
            "a-bad": ("failed", None),
        }

    tell(app, story)


@pytest.mark.spec("ATV-02", "EVT-14", "EVT-16", "TRP-01", "IDEM-03", "TRP-20")
def test_an_id_starts_each_function_once_in_a_day() -> None:
    app = App("a")
    for name in ("one", "two"):

        @app.function(name, trigger="go")
        async def f(ctx: Context) -> str:
            return ctx.event.id or ""

    async def story(testbed: Testbed) -> None:
        event: Event[dict[str, Any]] = Event(name="go", data={}, id="order-1")
        first = await testbed.send(event)
        await testbed.advance(timedelta(milliseconds=248))
        again = await testbed.send(event)
        assert first != again, "the duplicate is an event of its own"
        assert sorted(run.function for run in testbed.runs()) == ["a-one", "a-two"]
        await testbed.advance(DAY - SECOND)
        await testbed.send(event)
        assert len(testbed.runs()) == 2
        await testbed.advance(2 * SECOND)
        await testbed.send(event)
        assert len(testbed.runs()) == 4
        await testbed.send([Event(name="go", data={}, id="", ts=0)] * 2)
        assert len(testbed.runs()) == 8, "an empty id is none"

    tell(app, story)


@pytest.mark.spec("ATV-04", "EVT-06", "TRP-11", "FN-13", "PY-09")
def test_an_event_of_the_future_delays_starts_and_no_waits() -> None:
    app = App("a")

    @app.function("starts", trigger="later")
    async def starts(ctx: Context) -> str:
        return ctx.now().isoformat()

    @app.function("waits", trigger="go")
    async def waits(ctx: Context) -> bool:
        return await ctx.step.wait_for_event("later", event="later", timeout=DAY) is not None

    async def story(testbed: Testbed) -> None:
        waiting = await testbed.trigger(waits, go())
        due = testbed.now() + timedelta(seconds=10)
        await testbed.send(Event(name="later", data={}, ts=int(due.timestamp() * 1000)))
        assert await waiting.result() is True
        (started,) = testbed.runs(starts)
        assert started.status == "scheduled"
        await testbed.advance(9 * SECOND)
        assert started.status == "scheduled"
        await testbed.advance(SECOND)
        assert datetime.fromisoformat(await started.result()) == due

    tell(app, story)


@pytest.mark.spec("ATV-07", "FN-08")
def test_a_pattern_of_names_starts_a_function() -> None:
    app = App("a")

    @app.function("f", trigger="app/*")
    async def f(ctx: Context) -> str:
        return ctx.event.name

    async def story(testbed: Testbed) -> None:
        for name in ("app/user.created", "apps/x", "app", "app/blog.post.published", "my/app/x"):
            await testbed.send(Event(name=name))
        assert [run.output for run in testbed.runs()] == ["app/user.created", "app/blog.post.published"]

    tell(app, story)
    with pytest.raises(ConfigInvalid, match=r"app/user\.update\*.*did you mean 'app/user\.\*'"):
        app.function("g", trigger="app/user.update*")(f.handler)
    assert list(app.functions) == ["a-f"]


@pytest.mark.spec("ATV-08", "FN-05", "FN-07", "TRP-18", "SYS-06", "ARCH-11")
def test_crons_on_the_wall_clock_of_their_zone() -> None:
    app = App("a")

    @app.function("both", trigger=(TriggerCron("0 * * * *"), TriggerCron("*/30 * * * *")))
    async def both(ctx: Context) -> str:
        return str(ctx.event.data["scheduledAt"])

    @app.function("noon", trigger=TriggerCron("TZ=Europe/Paris 0 12 * * 5"))
    async def noon(ctx: Context) -> str:
        return str(ctx.event.data["scheduledAt"])

    async def story(testbed: Testbed) -> None:
        await testbed.advance(timedelta(hours=1))
        assert sorted(run.output for run in testbed.runs(both)) == ["2026-03-26T00:30:00Z", "2026-03-26T01:00:00Z"]
        await testbed.advance(9 * DAY)
        assert sorted(run.output for run in testbed.runs(noon)) == ["2026-03-27T11:00:00Z", "2026-04-03T10:00:00Z"]

    tell(app, story, start=datetime(2026, 3, 26, tzinfo=UTC))  # clocks change on the 29th


@pytest.mark.spec("ATV-09", "FN-04", "EXPR-01", "EXPR-10")
def test_conditions_of_triggers() -> None:
    app = App("a")

    @app.function("large", trigger=TriggerEvent("order", "event.data.amount > 1000"))
    async def large(ctx: Context) -> int:
        return int(ctx.event.data["amount"])

    @app.function("old", trigger=TriggerEvent("order", "event.ts < 1767225601000"))
    async def old(ctx: Context) -> None: ...

    async def story(testbed: Testbed) -> None:
        await testbed.send([Event(name="order", data={"amount": amount}) for amount in (1000, 1001)])
        assert [run.output for run in testbed.runs(large)] == [1001]
        assert len(testbed.runs(old)) == 2
        await testbed.advance(SECOND)
        await testbed.send(Event(name="order", data={"amount": 1}))
        assert len(testbed.runs(old)) == 2, "the cut-over has passed"

    tell(app, story)


@pytest.mark.spec("ATV-12", "STEP-02", "PAR-09", "PAR-10")
@pytest.mark.parametrize("force_reentry", [False, True])
def test_a_loop_over_one_step_id(force_reentry: bool) -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[int]:
        found = []
        for number in range(3):
            found.append(await ctx.step.run("x", plus_one, number))
            await ctx.step.sleep("pause", SECOND)
        return found

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        await testbed.advance(3 * SECOND)
        assert await run.result() == [1, 2, 3]

    tell(app, story, force_reentry=force_reentry)


@pytest.mark.spec("ATV-14", "STEP-08", "STEP-10", "STEP-11", "TRP-11")
def test_waits_look_forward_only() -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        await ctx.step.sleep("first", SECOND)
        condition = "async.data.user == event.data.user"
        found = [
            await ctx.step.wait_for_event(name, event="paid", timeout=timedelta(hours=1), if_exp=condition)
            for name in ("early", "other", "mine")
        ]
        return [event and event.data for event in found]

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go(user="ann"))
        await testbed.send(Event(name="paid", data={"user": "ann", "n": 1}))
        await testbed.advance(SECOND)
        assert run.waiting_for == "early"
        await testbed.advance(timedelta(hours=1))
        assert run.waiting_for == "other"
        await testbed.send(Event(name="paid", data={"user": "bob"}))
        await testbed.advance(timedelta(hours=1))
        assert run.waiting_for == "mine"
        await testbed.send(Event(name="paid", data={"user": "ann", "n": 2}))
        assert await run.result() == [None, None, {"user": "ann", "n": 2}]

    tell(app, story)


@pytest.mark.spec("ATV-14", "STEP-09")
def test_a_wait_for_a_match_is_for_an_event_with_the_same_value() -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[Any]:
        match = ctx.event.data["match"]
        found = [
            await ctx.step.wait_for_event(name, event="paid", timeout=timedelta(hours=1), match=match)
            for name in ("one", "two")
        ]
        return [event and event.data["n"] for event in found]

    async def story(testbed: Testbed) -> None:
        by_id = await testbed.trigger(f, go(match="data.user.id", user={"id": 7}))
        absent = await testbed.trigger(f, go(match="data.nobody", user={"id": 7}))
        others: list[dict[str, Any]] = [{"user": {"id": 8}}, {"user": 7}, {}, {"user": {"id": 7}}]
        for n, data in enumerate(others, 1):
            await testbed.send(Event(name="paid", data={"n": n, **data}))
        await testbed.advance(timedelta(hours=2))
        assert (await by_id.result(), await absent.result()) == ([4, None], [None, None])

    tell(app, story)


@pytest.mark.spec("STEP-09")
def test_a_wait_is_for_a_match_or_a_condition() -> None:
    app = App("a")

    @app.function("f", trigger="go", retries=0)
    async def f(ctx: Context) -> Any:
        return await ctx.step.wait_for_event("one", event="paid", timeout=5, match="data.id", if_exp="true")

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        assert run.error is not None
        assert "if_exp= or match=" in run.error.message

    tell(app, story)


@pytest.mark.spec("ATV-16", "STEP-17", "EVT-20")
def test_a_step_sends_once_whatever_fails_after_it() -> None:
    app = App("a")
    tries: list[int] = []

    async def flaky() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError("no")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> None:
        await ctx.step.send_event("tell", Event(name="told", data={"n": 1}))
        await ctx.step.run("flaky", flaky)

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        assert (run.status, len(tries)) == ("completed", 4)
        assert testbed.sent("told") == [{"n": 1}]

    tell(app, story)


@pytest.mark.spec("ATV-30", "ERR-02", "ERR-03", "ERR-04", "ERR-09", "TRP-07", "TRP-08")
def test_five_attempts_by_default_and_the_next_step_begins_anew() -> None:
    app = App("a")
    attempts: list[int] = []

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> str:
        async def fails(until: int) -> int:
            attempts.append(ctx.attempt)
            if ctx.attempt < until:
                raise ConnectionError("no")
            return ctx.attempt

        await ctx.step.run("fifth time lucky", fails, 4)
        await ctx.step.run("at once", fails, 0)
        try:
            await ctx.step.run("never", fails, 5)
        except StepError as error:
            return f"caught {error.message}"
        return "not reached"

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        assert await run.result() == "caught no"
        assert attempts == [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4]

    tell(app, story)


@pytest.mark.spec("ATV-31", "ERR-10", "ERR-11", "ERR-13", "ERR-14", "ERR-15", "ERR-16", "SYS-01", "SYS-08", "SYS-09")
def test_a_failure_is_told_to_those_who_asked() -> None:
    app = App("a")
    told: list[tuple[str, str]] = []

    async def fails() -> None:
        raise ValueError("no")

    async def handler(ctx: Context[FunctionFailed]) -> None:
        told.append(("handler", ctx.event.data.error.message))
        raise ValueError("the handler fails too")

    @app.function("caught", trigger="go", retries=0)
    async def caught(ctx: Context) -> str:
        try:
            await ctx.step.run("fails", fails)
        except StepError:
            return await ctx.step.run("fallback", value, "fallback")
        return ""

    @app.function("uncaught", trigger="go", retries=0, on_failure=handler)
    async def uncaught(ctx: Context) -> None:
        await ctx.step.run("fails", fails)

    @app.function("all", trigger="inngest/function.failed")
    async def every(ctx: Context) -> None:
        told.append(("all", ctx.event.data["function_id"]))

    @app.function("one", trigger=TriggerEvent("inngest/function.failed", "event.data.function_id == 'a-uncaught'"))
    async def one(ctx: Context) -> None:
        told.append(("one", ctx.event.data["event"]["data"]["n"]))

    @app.function("other", trigger=TriggerEvent("inngest/function.failed", "event.data.function_id == 'a-caught'"))
    async def other(ctx: Context) -> None:
        told.append(("other", ""))

    @app.function("finished", trigger="inngest/function.finished")
    async def finished(ctx: Context) -> None:
        told.append(("finished", ctx.event.data["function_id"]))

    async def story(testbed: Testbed) -> None:
        await testbed.send(go(n=7))
        assert [run.output for run in testbed.runs(caught)] == ["fallback"]
        assert [run.status for run in testbed.runs(uncaught)] == ["failed"]
        by_id = {name for kind, name in told if kind == "finished"}
        assert {"a-caught", "a-uncaught"} <= by_id
        assert sorted(entry for entry in told if entry[0] != "finished") == [
            ("all", "a-uncaught"), ("handler", "no"), ("one", 7)
        ]  # fmt: skip

    tell(app, story)


@pytest.mark.spec("ATV-32", "ERR-07", "ERR-08", "TRP-09")
def test_errors_that_say_when_or_whether_to_try_again() -> None:
    app = App("a")
    times: list[datetime] = []

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> str:
        async def never() -> None:
            raise NonRetriableError("never")

        async def later() -> str:
            times.append(ctx.now())
            if len(times) == 1:
                raise RetryAfterError("later", retry_after=timedelta(seconds=30))
            return "now"

        try:
            await ctx.step.run("never", never)
        except StepError:
            return await ctx.step.run("later", later)
        return ""

    @app.function("g", trigger="stop")
    async def g(ctx: Context) -> None:
        raise NonRetriableError("at once")

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        assert run.steps["never"].attempts == 1
        assert run.steps["later"].attempts == 1
        await testbed.advance(29 * SECOND)
        assert len(times) == 1
        await testbed.advance(SECOND)
        assert await run.result() == "now"
        failed = await testbed.trigger(g, Event(name="stop", data={}))
        assert (failed.status, failed.error and failed.error.message) == ("failed", "at once")

    tell(app, story, auto_retry=False)


@pytest.mark.spec("ATV-33", "PAR-01", "PAR-04", "PAR-06")
def test_of_parallel_steps_the_flaky_one_alone_is_tried_again() -> None:
    app = App("a")
    begun: list[str] = []

    async def step(name: str, fails: int) -> str:
        begun.append(name)
        if begun.count(name) <= fails:
            raise ConnectionError(name)
        return name

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> tuple[str, str, str]:
        return await ctx.group.parallel(
            (
                lambda: ctx.step.run("a", step, "a", 0),
                lambda: ctx.step.run("b", step, "b", 2),
                lambda: ctx.step.run("c", step, "c", 0),
            )
        )

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        assert await run.result() == ("a", "b", "c")
        assert sorted(begun) == ["a", "b", "b", "b", "c"]

    tell(app, story)


@pytest.mark.spec("PY-50")
def test_a_log_line_before_a_step_is_written_once_however_often_it_is_passed() -> None:
    app = App("a")
    heard = Heard()

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> None:
        ctx.logger.warning("began")
        for number in range(3):
            await ctx.step.run("x", plus_one, number)

    async def story(testbed: Testbed) -> None:
        assert (await testbed.trigger(f, go())).status == "completed"

    logger = logging.getLogger(__name__)
    logger.addHandler(heard)
    try:
        tell(app, story, force_reentry=True)
    finally:
        logger.removeHandler(heard)
    assert [record.getMessage() for record in heard.heard] == ["began"]


@pytest.mark.spec("DUR-18", "STEP-06", "DUR-16")
def test_a_run_lives_for_months_and_through_restarts() -> None:
    app = App("a")

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> list[int]:
        found = []
        for month in range(6):
            found.append(await ctx.step.run("month", value, month))
            await ctx.step.sleep("sleep", 30 * DAY)
        return found

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, go())
        for _ in range(6):
            await testbed.crash()
            assert run.waiting_for is not None
            await testbed.advance(30 * DAY)
        assert await run.result() == [0, 1, 2, 3, 4, 5]

    tell(app, story)


@pytest.mark.spec("FN-01", "FN-02", "FN-11", "FN-12", "FN-18", "EVT-07", "STEP-05", "DUR-08")
def test_what_a_function_is_given_and_what_it_gives() -> None:
    app = App("shop")
    outside: list[int] = []

    @app.function("ship-order", trigger="go", name="Ship an order", retries=2)
    async def f(ctx: Context) -> dict[str, Any]:
        outside.append(1)
        await ctx.step.run("one", value, 1)
        return {"v": ctx.event.v, "id": ctx.event.id, "events": len(ctx.events), "attempt": ctx.attempt}

    assert (f.id, f.name, f.spec.retries) == ("shop-ship-order", "Ship an order", 2)

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(f, Event(name="go", data={}, id="o1", v="2026-11-21.1"))
        assert await run.result() == {"v": "2026-11-21.1", "id": "o1", "events": 1, "attempt": 0}
        assert len(run.run_id) == 26
        assert len(outside) == 2, "code outside of steps runs at each entry"

    tell(app, story, force_reentry=True)


@pytest.mark.spec("PAR-11", "PAR-08", "FN-13")
def test_a_paginated_import() -> None:
    app = App("a")
    rows = list(range(120))

    async def page(cursor: int) -> dict[str, Any]:
        found = rows[cursor : cursor + 50]
        return {"rows": found, "next": cursor + 50 if cursor + 50 < len(rows) else None}

    @app.function("import", trigger="go")
    async def imports(ctx: Context) -> int:
        cursor, count = 0, 0
        while cursor is not None:
            found = await ctx.step.run("page", page, cursor)
            await ctx.step.send_event("fan-out", [Event(name="row", data={"n": n}) for n in found["rows"]])
            cursor, count = found["next"], count + len(found["rows"])
        return count

    @app.function("row", trigger="row")
    async def row(ctx: Context) -> int:
        return int(ctx.event.data["n"])

    async def story(testbed: Testbed) -> None:
        run = await testbed.trigger(imports, go())
        assert await run.result() == 120
        assert list(run.steps) == ["page", "fan-out", "page:1", "fan-out:1", "page:2", "fan-out:2"]
        assert sorted(one.output for one in testbed.runs(row)) == rows

    tell(app, story)


@pytest.mark.spec("FAULT-F6", "STEP-06")
def test_a_sleep_of_a_year_wakes_once_though_the_server_restarts_every_month() -> None:
    app = App("a")
    woken: list[int] = []

    @app.function("f", trigger="go")
    async def f(ctx: Context) -> datetime:
        await ctx.step.sleep("year", 365 * DAY)
        await ctx.step.run("woken", lambda: woken.append(1))
        return ctx.now()

    async def story(testbed: Testbed) -> None:
        began = testbed.now()
        run = await testbed.trigger(f, go())
        for _ in range(12):
            await testbed.advance(30 * DAY)
            await testbed.crash()
        assert (run.waiting_for, woken) == ("year", [])
        await testbed.advance(5 * DAY - SECOND)
        assert woken == []
        await testbed.advance(2 * SECOND)
        assert woken == [1]
        assert await run.result() == began + 365 * DAY

    tell(app, story)
