"""The testbed: functions over the real engine, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from steplog import App, Context, Event, NonRetriableError, RetryAfterError, StepError, current_step
from steplog.testing import NoProgress, NotTriggered, RunFailed, RunNotEnded, Testbed, Timeout, UnusedStubs

from .running import go, on_users_loop, plus_one, value

DAY = timedelta(days=1)
app = App("shop")


@dataclass
class Receipt:
    number: str
    amount: int


async def charge(order: str, amount: int) -> Receipt:
    return Receipt(f"ch_{order}", amount)


async def pack(order: str) -> int:
    raise ConnectionError("the printer is off")


@app.function("ship-order", trigger="shop/order.placed", retries=1)
async def ship_order(ctx: Context) -> Receipt:
    order = ctx.event.data
    receipt = await ctx.step.run("charge", charge, order["id"], order["total"])
    try:
        boxes = await ctx.step.run("pack", pack, order["id"])
    except StepError as error:
        boxes = 0
        receipt = Receipt(f"{receipt.number}, {error.name}: {error.message}", receipt.amount)
    await ctx.step.sleep("cool-off", 2 * DAY)
    await ctx.step.send_event("tell", Event(name="shop/order.shipped", data={"boxes": boxes}))
    return receipt


@app.function("count", trigger="shop/order.shipped")
async def count(ctx: Context) -> int:
    return await ctx.step.run("count", plus_one, ctx.event.data["boxes"])


placed = Event(name="shop/order.placed", data={"id": "o1", "total": 5})


def a_function(body: Callable[[Context], Coroutine[Any, Any, Any]], *, retries: int = 4) -> Any:
    """A function of an app that nothing else knows."""
    return App("a").function("f", trigger="go", retries=retries)(body)


def test_a_run_goes_on_until_it_waits_and_then_as_time_passes() -> None:
    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(ship_order, placed)
            assert (run.status, run.waiting_for, run.function) == ("waiting", "cool-off", "shop-ship-order")
            assert run.steps["charge"].output == {"number": "ch_o1", "amount": 5}
            assert {key: (step.status, step.attempts, step.op) for key, step in run.steps.items()} == {
                "charge": ("completed", 1, "StepRun"), "pack": ("failed", 2, "StepRun"),
                "cool-off": ("waiting", 1, "Sleep"),
            }  # fmt: skip
            assert [(event.name, event.data) for event in run.events] == [(placed.name, placed.data)]
            began = testbed.now()
            await testbed.advance(timedelta(hours=47))
            assert run.waiting_for == "cool-off"
            await testbed.advance(3_600_000)
            assert (run.status, run.error) == ("completed", None)
            assert run.waiting_for is None
            assert testbed.now() - began == 2 * DAY
            assert await run.result() == Receipt("ch_o1, ConnectionError: the printer is off", 5)
            assert run.output == {"number": "ch_o1, ConnectionError: the printer is off", "amount": 5}

    on_users_loop(story())


def test_the_events_that_functions_send_start_the_other_functions_of_the_module() -> None:
    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(ship_order, placed, step_stubs={"pack": 2, "cool-off": None})
            assert testbed.sent("shop/order.shipped") == [{"boxes": 2}]
            assert testbed.sent("shop/order.placed") == []
            (counted,) = testbed.runs(count)
            assert (await counted.result(), run.status, testbed.now().day) == (3, "completed", 1)
            assert [each.function for each in testbed.runs()] == ["shop-ship-order", "shop-count"]
            await testbed.send([Event(name="shop/order.shipped", data={"boxes": n}) for n in (10, 20)])
            assert [each.output for each in testbed.runs(count)] == [3, 11, 21]

    on_users_loop(story())


def test_data_alone_is_sent_as_the_functions_event() -> None:
    async def story() -> None:
        async with Testbed(app) as testbed:
            assert await (await testbed.trigger(count, {"boxes": 1})).result() == 2

    on_users_loop(story())


def test_an_event_that_does_not_start_the_function_is_an_error() -> None:
    async def story() -> None:
        async with Testbed() as testbed:
            with pytest.raises(
                NotTriggered, match=r"shop/other does not start shop-count; what does is shop/order\.ship"
            ):
                await testbed.trigger(count, Event(name="shop/other", data={}), step_stubs={"count": 1})
            once = Event(name="shop/order.shipped", data={"boxes": 1}, id="1")
            await testbed.trigger(count, once)
            with pytest.raises(NotTriggered, match="shop-count: duplicate"):
                await testbed.trigger(count, once)

    on_users_loop(story())


def test_stubs_take_the_place_of_steps() -> None:
    async def body(ctx: Context) -> list[Any]:
        first = await ctx.step.run("charge", charge, "o1", amount=5)
        second = await ctx.step.run("charge", charge, "o2", 6)
        assert type(first) is type(second) is Receipt, "a stub's value is read by the annotation"
        ids = await ctx.step.send_event("tell", Event(name="told", data={}))
        late = await ctx.step.run("late", value, 1)
        return [first.number, second.number, ids, late]

    async def by_order(order: str, amount: int) -> Receipt:
        return Receipt(f"{order} at {current_step().attempt}", amount)

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(
                a_function(body), go(), step_stubs={"charge": by_order, "tell": ["id"], "late": Timeout}
            )
            assert await run.result() == ["o1 at 0", "o2 at 0", ["id"], None]
            assert list(run.steps) == ["charge", "charge:1", "tell", "late"]
            assert testbed.sent("told") == []

    on_users_loop(story())


@pytest.mark.parametrize(
    ("stub", "attempts", "caught"),
    [
        (StepError("jam"), 3, "StepError: jam"),
        (StepError("jam", "PaperJam"), 3, "PaperJam: jam"),
        (ValueError("bad"), 3, "ValueError: bad"),
        (TimeoutError, 3, "TimeoutError: "),
        (NonRetriableError("never"), 1, "NonRetriableError: never"),
        (RetryAfterError("closed", 8 * 3_600_000), 3, "RetryAfterError: closed"),
    ],
)
def test_an_exception_as_stub_fails_every_attempt(stub: Any, attempts: int, caught: str) -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.step.run("pack", pack, "o1")
        except StepError as error:
            return f"{error.name}: {error.message}"
        return "packed"

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body, retries=2), go(), step_stubs={"pack": stub})
            assert await run.result() == caught
            assert (run.steps["pack"].status, run.steps["pack"].attempts) == ("failed", attempts)
            assert testbed.now() == datetime(2026, 1, 1, tzinfo=UTC), "back-offs are skipped over"

    on_users_loop(story())


class Bank:
    async def charge(self, order: str) -> Receipt:
        raise AssertionError("stubbed")

    async def __call__(self, order: str) -> Receipt:
        raise AssertionError("stubbed")


@pytest.mark.parametrize(
    ("handler", "kind"),
    [(partial(charge, amount=5), Receipt), (Bank().charge, Receipt), (Bank(), Receipt), (lambda order: order, dict)],
)
def test_a_stub_is_read_as_the_result_of_any_handler(handler: Any, kind: type) -> None:
    async def body(ctx: Context) -> str:
        return type(await ctx.step.run("charge", handler, "o1")).__name__

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body), go(), step_stubs={"charge": Receipt("ch_1", 5)})
            assert await run.result() == kind.__name__

    on_users_loop(story())


def test_a_sleep_can_be_stubbed_by_none_or_by_what_happens_instead() -> None:
    async def body(ctx: Context) -> str:
        await ctx.step.sleep("nap", 5 * DAY)
        try:
            await ctx.step.sleep("night", DAY)
        except StepError as error:
            return error.message
        return "slept"

    async def story() -> None:
        async with Testbed() as testbed:
            stubs = {"nap": None, "night": NonRetriableError("no")}
            run = await testbed.trigger(a_function(body), go(), step_stubs=stubs)
            assert (await run.result(), testbed.now().day, run.steps["nap"].op) == ("no", 1, "Sleep")

    on_users_loop(story())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("chrge", "no step 'chrge' was called; did you mean 'charge'?"),
        ("x", "no step 'x' was called, only 'charge', 'c"),
    ],
)
def test_a_stub_that_no_step_used_is_an_error_at_the_end(name: str, hint: str) -> None:
    async def story(fails: bool) -> None:
        async with Testbed() as testbed:
            await testbed.trigger(ship_order, placed, step_stubs={name: 1})
            assert not fails

    with pytest.raises(UnusedStubs) as raised:
        on_users_loop(story(False))
    assert str(raised.value).startswith("step_stubs of shop-ship-order: ")
    assert hint in str(raised.value)
    with pytest.raises(AssertionError):
        on_users_loop(story(True))


@pytest.mark.spec("ERR-02")
def test_without_auto_retry_back_offs_take_virtual_time() -> None:
    async def body(ctx: Context) -> int:
        return await ctx.step.run("flaky", flaky)

    async def flaky() -> int:
        if current_step().attempt < 2:
            raise ConnectionError("not yet")
        return current_step().attempt

    async def story() -> None:
        async with Testbed(auto_retry=False) as testbed:
            run = await testbed.trigger(a_function(body), go())
            assert (run.status, run.waiting_for) == ("waiting", "flaky")
            assert (run.steps["flaky"].status, run.steps["flaky"].attempts) == ("errored", 1)
            await testbed.advance(14_999)
            assert run.steps["flaky"].attempts == 1
            await testbed.advance(30_001)
            assert run.steps["flaky"].attempts == 2
            await testbed.advance(60_000)
            assert await run.result() == 2

    on_users_loop(story())


@pytest.mark.spec("ERR-08")
def test_a_time_to_retry_at_is_virtual_too() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step.run("closed", closed)

    async def closed() -> None:
        raise RetryAfterError("closed", datetime(2026, 1, 1, 8, tzinfo=UTC))

    async def story() -> None:
        async with Testbed(auto_retry=False) as testbed:
            run = await testbed.trigger(a_function(body), go())
            await testbed.advance(timedelta(hours=8) - timedelta(milliseconds=1))
            assert run.steps["closed"].attempts == 1
            await testbed.advance(1)
            assert run.steps["closed"].attempts == 2

    on_users_loop(story())


def test_the_functions_own_code_is_tried_again_at_once() -> None:
    attempts = []

    async def body(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ConnectionError("always")

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body, retries=2), go())
            assert (run.status, attempts) == ("failed", [0, 1, 2])
            assert run.error is not None
            assert run.error.name == "ConnectionError"
            with pytest.raises(RunFailed, match=r"a-f failed, run .*: ConnectionError: always") as raised:
                await run.result()
            assert "test_testbed.py" in raised.value.__notes__[0]

    on_users_loop(story())


def test_a_run_that_is_to_be_tried_again_waits() -> None:
    async def body(ctx: Context) -> None:
        raise ConnectionError("at first")

    async def story() -> None:
        async with Testbed(auto_retry=False) as testbed:
            run = await testbed.trigger(a_function(body, retries=1), go())
            assert (run.status, run.waiting_for, run.error and run.error.message) == ("waiting", None, "at first")
            with pytest.raises(RunNotEnded, match="waiting: ConnectionError: at first; send what it waits for"):
                await run.result()
            await testbed.advance(timedelta(minutes=1))
            assert run.status == "failed"

    on_users_loop(story())


def test_sleeps_of_several_runs_end_in_their_order() -> None:
    ended: list[tuple[int, datetime]] = []

    async def body(ctx: Context) -> None:
        days: int = ctx.event.data["days"]
        await ctx.step.sleep("nap", days * DAY)
        ended.append((days, testbeds[0].now()))

    testbeds: list[Testbed] = []

    async def story() -> None:
        async with Testbed() as testbed:
            testbeds.append(testbed)
            function = a_function(body)
            for days in (30, 10, 20):
                await testbed.trigger(function, go(days=days))
            await testbed.advance(100 * DAY)

    on_users_loop(story())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert ended == [(days, start + days * DAY) for days in (10, 20, 30)]


@pytest.mark.spec("EVT-06")
def test_an_event_of_the_future_starts_its_run_then() -> None:
    async def body(ctx: Context) -> int:
        return int(ctx.event.data["n"]) + 1

    async def story() -> None:
        start = datetime(2030, 5, 1, 12, tzinfo=UTC)
        async with Testbed(start=start) as testbed:
            later = round((start + DAY).timestamp() * 1000)
            run = await testbed.trigger(a_function(body), Event(name="go", data={"n": 1}, ts=later))
            assert (run.status, run.waiting_for, run.steps) == ("scheduled", None, {})
            await testbed.advance(DAY)
            assert (run.output, testbed.now()) == (2, start + DAY)

    on_users_loop(story())


@pytest.mark.spec("DUR-01", "STEP-03")
def test_after_a_crash_the_run_goes_on_from_the_log() -> None:
    bodies: list[str] = []

    async def noted(name: str) -> str:
        bodies.append(name)
        return name

    async def body(ctx: Context) -> list[str]:
        bodies.append("the function")
        first = await ctx.step.run("first", noted, "first")
        await ctx.step.sleep("nap", 1_000)
        return [first, await ctx.step.run("second", noted, "second")]

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body), go())
            await testbed.crash()
            assert run.waiting_for == "nap"
            await testbed.crash()
            await testbed.advance(1_000)
            assert await run.result() == ["first", "second"]

    on_users_loop(story())
    assert bodies == ["the function", "first", "the function", "the function", "second"]


@pytest.mark.spec("STEP-03")
@pytest.mark.parametrize("crashes", [1, 3])
def test_a_body_that_a_crash_cuts_off_begins_again_with_its_key(crashes: int) -> None:
    keys: list[tuple[str, int]] = []
    begun = [asyncio.Event() for _ in range(crashes)]

    async def outside() -> str:
        keys.append((current_step().key, current_step().attempt))
        if len(keys) <= crashes:
            begun[len(keys) - 1].set()
            await asyncio.Event().wait()
        return "done"

    async def body(ctx: Context) -> str:
        return await ctx.step.run("outside", outside)

    async def story() -> None:
        async with Testbed() as testbed, asyncio.TaskGroup() as tasks:
            triggered = tasks.create_task(testbed.trigger(a_function(body), go()))
            for event in begun:
                await event.wait()
                tasks.create_task(testbed.crash())
            assert await (await triggered).result() == "done"

    on_users_loop(story())
    assert keys == keys[:1] * (crashes + 1)


def prologues(testbed: Testbed) -> Coroutine[Any, Any, tuple[int, list[int]]]:
    """How often a function of three steps begins, and what it returns."""
    begun = []

    async def body(ctx: Context) -> list[int]:
        begun.append(ctx.run_id)
        return [await ctx.step.run("plus", plus_one, n) for n in range(3)]

    async def story() -> tuple[int, list[int]]:
        async with testbed:
            run = await testbed.trigger(a_function(body), go())
            assert list(run.steps) == ["plus", "plus:1", "plus:2"]
            return len(begun), await run.result()

    return story()


@pytest.mark.spec("ATV-10", "ATV-12", "DUR-06")
def test_forced_reentry_calls_the_function_again_after_every_step() -> None:
    assert on_users_loop(prologues(Testbed())) == (1, [1, 2, 3])
    assert on_users_loop(prologues(Testbed(force_reentry=True))) == (4, [1, 2, 3])
    testbed = Testbed()
    testbed.reenter = True
    assert on_users_loop(prologues(testbed)) == (4, [1, 2, 3])


@pytest.mark.spec("DUR-02", "DUR-05", "DUR-08")
def test_forced_reentry_runs_no_code_behind_the_step_that_it_executes() -> None:
    said: list[str] = []

    async def body(ctx: Context) -> None:
        said.append("begins")
        for name in "ab":
            await ctx.step.run(name, said.append, f"runs {name}")
            said.append(f"after {name}")

    async def story() -> None:
        async with Testbed(force_reentry=True) as testbed:
            assert (await testbed.trigger(a_function(body), go())).status == "completed"

    on_users_loop(story())
    assert said == [
        "begins", "runs a",
        "begins", "after a", "runs b",
        "begins", "after a", "after b",
    ]  # fmt: skip


def test_forced_reentry_can_begin_in_the_middle() -> None:
    begun = []

    async def body(ctx: Context) -> int:
        begun.append(ctx.run_id)
        await ctx.step.sleep("nap", 1_000)
        return await ctx.step.run("plus", plus_one, await ctx.step.run("one", value, 1))

    async def story() -> None:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body), go())
            assert len(begun) == 1
            testbed.reenter = True
            assert testbed.reenter
            await testbed.advance(1_000)
            assert (await run.result(), len(begun)) == (2, 5)  # the new process, the nap's end and two steps

    on_users_loop(story())


@pytest.mark.spec("DUR-06")
def test_forced_reentry_shows_code_that_replays_do_not_bear() -> None:
    async def body(ctx: Context) -> int:
        total = 0
        for step in ("a", "b"):
            await ctx.step.run(step, value, 1)
            ctx.event.data.setdefault("seen", []).append(step)
            total += len(seen)
            seen.append(step)
        return total

    seen: list[str] = []

    async def story() -> int:
        seen.clear()
        async with Testbed(force_reentry=is_forced) as testbed:
            return int(await (await testbed.trigger(a_function(body), go())).result())

    is_forced = False
    assert on_users_loop(story()) == 1
    is_forced = True
    assert on_users_loop(story()) > 1


def test_ids_and_times_are_the_same_every_time() -> None:
    async def body(ctx: Context) -> list[str]:
        key = await ctx.step.run("key", idempotency_key)
        return [key, *await ctx.step.send_event("tell", Event(name="told", data={}))]

    async def idempotency_key() -> str:
        return current_step().key

    async def story() -> tuple[list[str], str, list[str]]:
        async with Testbed() as testbed:
            run = await testbed.trigger(a_function(body), go())
            return await run.result(), run.run_id, await testbed.send([go(), go()])

    assert on_users_loop(story()) == on_users_loop(story())


def test_a_body_that_really_waits_is_waited_for() -> None:
    async def body(ctx: Context) -> int:
        return await ctx.step.run("slow", slow) + await ctx.step.run("in-thread", in_thread)

    async def slow() -> int:
        await asyncio.sleep(0.01)
        return 1

    def in_thread() -> int:
        return 2

    async def story() -> None:
        async with Testbed() as testbed:
            assert await (await testbed.trigger(a_function(body), go())).result() == 3

    on_users_loop(story())


def test_a_body_that_hangs_is_named() -> None:
    async def in_a_step(ctx: Context) -> None:
        await ctx.step.run("ask", asyncio.Event().wait)

    async def outside(ctx: Context) -> None:
        await asyncio.Event().wait()

    async def story(body: Callable[[Context], Coroutine[Any, Any, None]]) -> None:
        async with Testbed(patience_s=0.02) as testbed:
            await testbed.trigger(a_function(body), go())

    with pytest.raises(
        NoProgress, match=r"a-f \(.*\): the body of step 'ask' runs for more than 0.02 s.*=\{'ask': …\}"
    ):
        on_users_loop(story(in_a_step))
    with pytest.raises(
        NoProgress, match=r"a-f \(.*\): code outside of steps runs for more than 0.02 s.*Make it a step"
    ):
        on_users_loop(story(outside))


def test_functions_that_start_one_another_for_ever_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steplog.testing.process.MOST_TURNS", 100)

    async def body(ctx: Context) -> None:
        await ctx.step.send_event("again", go())

    async def story() -> None:
        async with Testbed() as testbed:
            await testbed.trigger(a_function(body), go())

    with pytest.raises(NoProgress, match="no rest after 100 commits"):
        on_users_loop(story())


def test_it_needs_the_loop_that_functions_run_on() -> None:
    async def story() -> None:
        async with Testbed():
            pass

    with pytest.raises(TypeError, match="a testbed needs steplog's event loop"):
        asyncio.run(story())
