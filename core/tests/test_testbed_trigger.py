"""``steplog.testing.trigger``: a function called once, without an engine."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steplog import App, Context, ContextSync, Event, NonRetriableError, Step, StepError, current_step
from steplog.errors import SteplogError
from steplog.testing import Status, Timeout, UnstubbedStepError, trigger

from .running import go, plus_one, value

app = App("a")


@app.function("f", trigger="go")
async def f(ctx: Context, step: Step) -> dict[str, Any]:
    n = await step.run("plus", plus_one, ctx.event.data["n"])
    label = await step.run("label", lambda: f"{n} {current_step().step_id} {current_step().attempt}")
    await step.sleep("nap", timedelta(days=300))
    await step.sleep_until("opening", datetime(2126, 1, 1, tzinfo=UTC))
    ids = await step.send_event("tell", [Event(name="told", data={}), Event(name="told", data={})])
    return {"label": label, "ids": ids, "run": ctx.run_id, "events": len(ctx.events), "attempt": ctx.attempt}


@pytest.mark.spec("PY-55", "PY-56", "TEST-07")
def test_a_function_is_called_once_and_nothing_takes_time() -> None:
    done = trigger(f, Event(name="any", data={"n": 1}))
    assert (done.status, done.error) == (Status.COMPLETED, None)
    assert done.output == {
        "label": "2 label 0", "ids": ["0" * 26] * 2, "run": "test", "events": 1, "attempt": 0,
    }  # fmt: skip
    assert trigger(f, [go(n=1), go(n=2)]).output == {**done.output, "events": 2}


def test_steps_can_be_stubbed() -> None:
    done = trigger(f, go(n=1), step_stubs={"plus": lambda n: n + 100, "label": "L", "nap": None, "tell": ["x"]})
    assert done.output is not None
    assert (done.output["label"], done.output["ids"]) == ("L", ["x"])


def test_a_step_that_fails_for_good_is_a_step_error() -> None:
    bodies = []

    async def refuse() -> None:
        bodies.append(current_step().key)
        raise ConnectionError("no")

    @App("b").function("g", trigger="go")
    async def g(ctx: Context) -> str:
        try:
            await ctx.step.run("refuse", refuse)
        except StepError as error:
            if ctx.event.data["goes_on"]:
                return f"{error.name}: {error.message}"
            raise NonRetriableError("gave up") from error
        return "no error"

    assert trigger(g, go(goes_on=True)).output == "ConnectionError: no"
    failed = trigger(g, go(goes_on=False))
    assert (failed.status, failed.output, str(failed.error)) == (Status.FAILED, None, "gave up")
    assert trigger(g, go(goes_on=True), step_stubs={"refuse": StepError("jam")}).output == "StepError: jam"
    assert len(bodies) == 2 * 5, "every attempt that it has"
    assert len(set(bodies)) == 1
    assert bodies[0].startswith("test-")


@pytest.mark.spec("PY-55")
@pytest.mark.parametrize(("retries", "of_step", "attempts"), [(4, None, 5), (0, None, 1), (4, 1, 2)])
def test_a_step_is_tried_as_often_as_its_function_says(retries: int, of_step: int | None, attempts: int) -> None:
    tried: list[int] = []

    def flaky() -> str:
        tried.append(current_step().attempt)
        if len(tried) < 3:
            raise ConnectionError("no")
        return "third"

    @App("b").function("plain", trigger="go", retries=retries)
    def plain(ctx: ContextSync) -> str:
        return ctx.step.options(retries=of_step).run("flaky", flaky)

    done = trigger(plain, go())
    if attempts >= 3:
        assert (done.status, done.output, tried) == (Status.COMPLETED, "third", [0, 1, 2])
    else:
        assert (done.status, str(done.error), tried) == (Status.FAILED, "no", list(range(attempts)))


@pytest.mark.spec("PY-55")
def test_a_function_is_tried_again_over_what_its_steps_gave() -> None:
    seen: list[Any] = []

    @App("b").function("g", trigger="go", retries=2)
    async def g(ctx: Context) -> str:
        first = [await ctx.step.run("page", plus_one, n) for n in (1, 2)]
        seen.append((ctx.attempt, first))
        if len(seen) == 2:
            await ctx.step.run("once", seen.append, "once")
        raise NonRetriableError("enough") if ctx.event.data.get("ends") else KeyError("own")

    failed = trigger(g, go())
    assert (failed.status, repr(failed.error)) == (Status.FAILED, "KeyError('own')")
    assert seen == [(0, [2, 3]), (1, [2, 3]), "once", (1, [2, 3]), (2, [2, 3])], "a new result begins the count anew"
    seen.clear()
    assert str(trigger(g, go(ends=True)).error) == "enough"
    assert len(seen) == 1


@pytest.mark.spec("PY-56")
def test_a_step_that_waits_for_somebody_else_wants_a_stub() -> None:
    @App("b").function("g", trigger="go")
    async def g(ctx: Context) -> Any:
        try:
            if ctx.event.data.get("all"):
                return await ctx.step.wait_for_event("paid", all_of=("paid", "paid"), timeout=5)
            return await ctx.step.wait_for_event("paid", event="paid", timeout=5)
        except Exception as error:  # noqa: BLE001 - the point of the test: it is not lost
            return str(error)

    with pytest.raises(UnstubbedStepError, match=r"^step paid is not stubbed$"):
        trigger(g, go())
    assert trigger(g, go(), step_stubs={"paid": Timeout}).output is None
    paid = Event(name="paid", data={"by": "u1"}, id="1", ts=5)
    assert trigger(g, go(), step_stubs={"paid": paid}).output == paid
    assert trigger(g, go(all=True), step_stubs={"paid": (paid, paid)}).output == (paid, paid)
    received = trigger(g, go(), step_stubs={"paid": lambda: Event(name="paid", data={})}).output
    assert received is not None
    assert (len(received.id), received.ts) == (26, 1_767_225_600_000), "a received event has both"


def test_a_step_inside_of_a_step_is_an_error() -> None:
    @App("b").function("g", trigger="go")
    async def g(ctx: Context) -> Any:
        async def outer() -> Any:
            return await ctx.step.run("inner", value, 1)

        return await ctx.step.run("outer", outer)

    with pytest.raises(SteplogError, match="step 'inner' is called inside of step 'outer'"):
        trigger(g, go())


def test_it_works_inside_of_an_event_loop_and_lets_assertions_through() -> None:
    async def story() -> Any:
        return trigger(f, go(n=1)).output

    assert asyncio.run(story())["label"] == "2 label 0"

    def stub(n: int) -> int:
        pytest.fail(f"called with {n}")

    with pytest.raises(pytest.fail.Exception, match="called with 7"):
        trigger(f, go(n=7), step_stubs={"plus": stub})
