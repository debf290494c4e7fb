"""What steps ask of the driver, and parallel steps on the real one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from logging import Logger, getLogger
from typing import Any
from uuid import UUID

import msgspec
import pytest

from steplog import App, Context, ContextSync, Event, EventType, ProducedRecord, Signal, Step, StepError
from steplog.codec import Decode
from steplog.errors import ConfigInvalid
from steplog.step import StepOptions

from .running import fail, perform, plus_one, steps, value

DAY = timedelta(days=1)
DAY_MS = 86_400_000


@dataclass
class Order:
    id: str


placed, voided = EventType("shop/order.placed", Order), EventType("shop/order.voided")
app = App("shop")


@app.function("count", trigger=placed)
async def count(ctx: Context[Order]) -> Order:
    return ctx.event.data


class Recorded:
    """A run whose steps have results already: it notes what is asked, and gives each the next result, as JSON."""

    app_id, run_id, attempt, logger = "shop", "r1", 0, getLogger("test")

    def __init__(self, *results: bytes) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._results = list(results)

    def _next(self, decode: Decode) -> Any:
        return decode(self._results.pop(0))

    def now_ms(self) -> int:
        return 1_800_000_000_000

    def next_uuid(self) -> UUID:
        return UUID(int=5)

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        options: StepOptions | None = None,
    ) -> Any:  # fmt: skip
        self.asked.append((step_id, handler, args, kwargs, options and (options.retries, options.timeout_ms)))
        return self._next(options.decode if options and options.decode else msgspec.json.decode)

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None:
        self.asked.append((step_id, until_ms, for_ms))

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> list[str]:
        self.asked.append((step_id, list(events)))
        return [event.name for event in events]

    async def wait_for_event(
        self, step_id: str, *, events: tuple[str, ...], all_of: bool, if_exp: str | None, is_since_trigger: bool,
        timeout_ms: int, decode: Decode,
    ) -> Any:  # fmt: skip
        self.asked.append((step_id, events, all_of, if_exp, is_since_trigger, timeout_ms))
        return self._next(decode)

    async def wait_for_signal(self, step_id: str, *, signal: str, timeout_ms: int, replace: bool) -> Signal | None:
        self.asked.append((step_id, signal, timeout_ms, replace))
        return Signal(signal=signal, data={"n": 1})

    async def send_signal(self, step_id: str, *, signal: str, data: object) -> str | None:
        self.asked.append((step_id, signal, data))
        return "r2"

    async def produce(
        self, step_id: str, *, topic: str, key: bytes | None, value: object, headers: tuple[tuple[str, bytes], ...],
        partition: int | None,
    ) -> ProducedRecord:  # fmt: skip
        self.asked.append((step_id, topic, key, value, headers, partition))
        return ProducedRecord(topic=topic)

    async def invoke(
        self, step_id: str, *, function_id: str, data: object, user: object, v: str | None, timeout_ms: int | None,
        decode: Decode,
    ) -> Any:  # fmt: skip
        self.asked.append((step_id, function_id, data, user, v, timeout_ms))
        return self._next(decode)


def stored(name: str, data: str) -> bytes:
    return f'{{"name":"{name}","data":{data},"id":"e1","ts":5}}'.encode()


PLACED, VOIDED = stored("shop/order.placed", '{"id":"o1"}'), stored("shop/order.voided", '{"id":5}')


def test_a_wait_names_its_events_and_reads_them_by_their_types() -> None:
    run = Recorded(PLACED, VOIDED, VOIDED, b"[%s,%s]" % (PLACED, VOIDED), b"null", b"null")
    step = Step(run)

    async def body() -> list[Any]:
        one = await step.wait_for_event("one", event=placed, timeout=DAY, if_exp="async.data.id == event.data.id")
        name = await step.wait_for_event("name", event="shop/order.voided", timeout=5)
        some = await step.wait_for_event("any", any_of=(placed, voided), timeout=DAY, since="trigger")
        both = await step.wait_for_event("all", all_of=(placed, voided), timeout=DAY)
        assert one is not None
        assert name is not None
        assert some is not None
        assert both is not None
        assert await step.wait_for_event("late", event=placed, timeout=DAY) is None
        assert await step.wait_for_event("none", all_of=("a", "b"), timeout=DAY) is None
        return [one.data, name.data, some.data, *[each.data for each in both]]

    assert asyncio.run(body()) == [Order("o1"), {"id": 5}, {"id": 5}, Order("o1"), {"id": 5}]
    assert run.asked == [
        ("one", ("shop/order.placed",), False, "async.data.id == event.data.id", False, DAY_MS),
        ("name", ("shop/order.voided",), False, None, False, 5),
        ("any", ("shop/order.placed", "shop/order.voided"), False, None, True, DAY_MS),
        ("all", ("shop/order.placed", "shop/order.voided"), True, None, False, DAY_MS),
        ("late", ("shop/order.placed",), False, None, False, DAY_MS),
        ("none", ("a", "b"), True, None, False, DAY_MS),
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, TypeError),
        ({"event": placed, "any_of": (placed,)}, TypeError),
        ({"any_of": (placed,), "all_of": (voided,)}, TypeError),
        ({"any_of": ()}, TypeError),
        ({"event": "shop/*"}, ValueError),
        ({"event": ""}, ConfigInvalid),
        ({"event": 5}, ConfigInvalid),
        ({"event": placed, "timeout": "5m"}, TypeError),
        ({"event": placed, "since": "start"}, ValueError),
    ],
)
def test_a_wait_that_cannot_work_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    step: Any = Step(Recorded())
    with pytest.raises(error):
        asyncio.run(step.wait_for_event("w", **{"timeout": 5, **options}))


@pytest.mark.spec("SDK-07")
def test_an_invoked_functions_result_is_read_by_its_annotation() -> None:
    run = Recorded(b'{"id": "o2"}', b'{"id": "o2"}')
    step = Step(run)

    async def body() -> list[Any]:
        return [
            await step.invoke("known", function=count, data=Order("o1"), timeout=DAY),
            await step.invoke("name", function="stock-count"),
        ]

    assert asyncio.run(body()) == [Order("o2"), {"id": "o2"}]
    assert run.asked == [
        ("known", "shop-count", Order("o1"), None, None, DAY_MS),
        ("name", "stock-count", {}, None, None, None),
    ]


@pytest.mark.spec("PY-29", "PY-30", "FN-20")
def test_a_function_is_invoked_by_the_ids_of_it_and_of_its_app() -> None:
    run = Recorded(b"1", b"2", b'{"id":"o2"}', b"4")
    step, plain = Step(run), ContextSync(run, (), blocking=asyncio.run).step  # type: ignore[arg-type] # of coroutines

    async def body() -> list[Any]:
        return [
            await step.invoke_by_id("own", function_id="count"),
            await step.invoke_by_id("other", app_id="stock", function_id="count", data={"n": 1}, timeout=DAY),
            await step.invoke("all", function=count, data=Order("o1"), user={"id": "u1"}, v="2"),
        ]

    assert asyncio.run(body()) == [1, 2, Order("o2")]
    assert plain.invoke_by_id("plain", function_id="count", user={"id": "u1"}, v="3") == 4
    assert run.asked == [
        ("own", "shop-count", {}, None, None, None),
        ("other", "stock-count", {"n": 1}, None, None, DAY_MS),
        ("all", "shop-count", Order("o1"), {"id": "u1"}, "2", None),
        ("plain", "shop-count", {}, {"id": "u1"}, "3", None),
    ]


def test_signals_are_sent_and_waited_for() -> None:
    run = Recorded()
    step: Any = Step(run)

    async def body() -> list[Any]:
        return [
            await step.wait_for_signal("w", signal="go", timeout=5),
            await step.wait_for_signal("w", signal="go", timeout=DAY, conflict="replace"),
            await step.send_signal("s", "go", {"n": 1}),
        ]

    assert asyncio.run(body()) == [Signal(signal="go", data={"n": 1})] * 2 + ["r2"]
    assert run.asked == [("w", "go", 5, False), ("w", "go", DAY_MS, True), ("s", "go", {"n": 1})]
    with pytest.raises(ValueError, match="conflict is 'join'"):
        asyncio.run(step.wait_for_signal("w", signal="go", timeout=5, conflict="join"))


def test_options_go_with_the_steps_made_by_them_alone() -> None:
    run = Recorded(b'{"id":"o1"}', b'{"id":"o1"}')
    step = Step(run)

    async def body() -> list[Any]:
        special = step.options(retries=1, timeout=timedelta(hours=2), output_type=Order)
        return [await special.run("a", plus_one, number=5), await step.run("b", plus_one, 5)]

    assert asyncio.run(body()) == [Order("o1"), {"id": "o1"}]
    assert run.asked == [("a", plus_one, (), {"number": 5}, (1, 7_200_000)), ("b", plus_one, (5,), {}, None)]


def test_the_steps_of_plain_functions_are_the_same_ones() -> None:
    run = Recorded(b"6", PLACED, b'{"id":"o2"}', b'{"id":"o3"}')
    ctx: ContextSync[Order] = ContextSync(run, (PLACED,), (placed,), blocking=asyncio.run)  # type: ignore[arg-type] # of coroutines
    step = ctx.step
    assert (ctx.event.data, ctx.run_id, ctx.attempt) == (Order("o1"), "r1", 0)
    assert step.run("run", plus_one, 5) == 6
    step.sleep("sleep", DAY)
    step.sleep_until("until", datetime(2027, 1, 1, tzinfo=UTC))
    assert step.send_event("send", placed(Order("o1"))) == ["shop/order.placed"]
    found = step.wait_for_event("wait", event=placed, timeout=DAY)
    assert found is not None
    assert found.data == Order("o1")
    assert step.invoke("invoke", function=count, data=found.data) == Order("o2")
    assert step.options(output_type=Order).run("typed", value, 5) == Order("o3")
    assert step.wait_for_signal("signal", signal="go", timeout=5) == Signal(signal="go", data={"n": 1})
    assert step.send_signal("tell", "go") == "r2"
    assert step.produce("write", topic="ledger", value={}) == ProducedRecord(topic="ledger")
    assert [each[0] for each in run.asked] == [
        "run", "sleep", "until", "send", "wait", "invoke", "typed", "signal", "tell", "write"
    ]  # fmt: skip


def test_a_context_has_what_is_the_same_on_every_replay() -> None:
    ctx: Context = Context(Recorded(), ())
    assert ctx.now() == datetime.fromtimestamp(1_800_000_000, UTC)
    assert ctx.uuid() == UUID(int=5)
    assert isinstance(ctx.logger, Logger)


@pytest.mark.spec("PY-32", "PAR-01", "PAR-04")
@pytest.mark.parametrize("mode", ["wait", "race"])
def test_parallel_returns_results_in_the_order_of_its_branches(mode: Any) -> None:
    order: list[str] = []
    gates = {name: asyncio.Event() for name in "abc"}

    async def work(name: str, waits_for: str | None) -> str:
        order.append(f"{name} begins")
        if waits_for is not None:
            await gates[waits_for].wait()
        gates[name].set()
        order.append(f"{name} ends")
        return name

    async def body(ctx: Context) -> list[Any]:
        results = await ctx.group.parallel(
            (
                lambda: ctx.step.run("a", work, "a", "b"),
                lambda: ctx.step.run("b", work, "b", None),
                partial(ctx.step.run, "c", work, "c", "a"),
            ),
            mode=mode,
        )
        assert isinstance(results, tuple)
        return list(results)

    output, log = perform(body)
    assert output == ["a", "b", "c"]
    assert order[:3] == ["a begins", "b begins", "b ends"]
    assert len(steps(log)) == 3


@pytest.mark.spec("PAR-06", "PAR-01")
def test_a_branch_that_fails_raises_at_the_join_and_is_tried_alone() -> None:
    bodies: list[str] = []

    async def work(name: str, *, fails: bool = False) -> str:
        bodies.append(name)
        if fails:
            raise ValueError(f"{name} is broken")
        return name

    async def body(ctx: Context) -> None:
        await ctx.group.parallel(
            (lambda: ctx.step.run("good", work, "good"), lambda: ctx.step.run("bad", work, "bad", fails=True))
        )

    failed, _ = fail(body, retries=2)
    assert (failed.error.name, failed.error.message) == ("ValueError", "bad is broken")
    assert bodies == ["good", "bad", "bad", "bad"]


@pytest.mark.spec("PAR-06")
def test_a_failed_branch_can_be_caught() -> None:
    async def breaks() -> None:
        raise ValueError("no")

    async def body(ctx: Context) -> str:
        try:
            await ctx.group.parallel((lambda: ctx.step.run("bad", breaks), lambda: ctx.step.run("one", plus_one, 1)))
        except StepError as error:
            return await ctx.step.run("instead", value, error.message)
        return "nothing failed"

    assert perform(body, retries=0)[0] == "no"


@pytest.mark.spec("PAR-03", "PY-26")
def test_branches_with_one_id_keep_their_own_results() -> None:
    async def body(ctx: Context) -> list[int]:
        return list(await ctx.group.parallel(tuple(partial(ctx.step.run, "each", plus_one, n) for n in range(20))))

    assert perform(body)[0] == list(range(1, 21))


@pytest.mark.parametrize(
    ("branches", "mode", "error"), [([], "wait", TypeError), ((), "some", ValueError), (5, "wait", TypeError)]
)
def test_branches_are_a_tuple(branches: Any, mode: Any, error: type[Exception]) -> None:
    ctx: Context = Context(Recorded(), ())
    with pytest.raises(error):
        asyncio.run(ctx.group.parallel(branches, mode=mode))
    assert asyncio.run(ctx.group.parallel(())) == ()
