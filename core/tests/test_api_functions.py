"""What starts a function, what it is checked for where it is written, and the handler of its failures."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from steplog import App, Context, ContextSync, EventType, FunctionFailed, Step, TriggerCron, TriggerEvent
from steplog.context import data_type_of
from steplog.engine.functions import CronTrigger, EventTrigger, FunctionSpec
from steplog.errors import ConfigInvalid
from steplog.functions import FAILED, check_trigger


@dataclass
class Order:
    id: str


placed, voided = EventType("shop/order.placed", Order), EventType("shop/order.voided")


async def handler(ctx: Any) -> None: ...


async def on_failure(ctx: Context[FunctionFailed]) -> None: ...


def plain(ctx: Any) -> int:
    return 5


def triggers(trigger: Any) -> tuple[Any, ...]:
    """What the engine gets of a function's triggers."""
    return App("a").function("f", trigger=trigger)(handler).spec.triggers  # type: ignore[no-any-return] # of any trigger


def problems(handler: Any = handler, **options: Any) -> list[str]:
    app: Any = App("a")
    with pytest.raises(ConfigInvalid) as raised:
        app.function("f", **options)(handler)
    assert app.functions == {}
    return raised.value.problems


@pytest.mark.spec("FN-06", "PY-18")
@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("go", [EventTrigger("go")]),
        (placed, [EventTrigger("shop/order.placed")]),
        (TriggerEvent("go", "event.data.n > 0"), [EventTrigger("go", "event.data.n > 0")]),
        (TriggerEvent(placed, "event.data.n > 0"), [EventTrigger("shop/order.placed", "event.data.n > 0")]),
        (TriggerCron("0 3 * * *"), [CronTrigger("0 3 * * *")]),
        (
            TriggerCron("TZ=Europe/Paris 0 3 * * *", jitter=timedelta(minutes=1), catch_up="all"),
            [CronTrigger("TZ=Europe/Paris 0 3 * * *", 60_000, "all")],
        ),
        (TriggerCron("0 3 * * *", jitter=250, catch_up="skip"), [CronTrigger("0 3 * * *", 250, "skip")]),
        (
            ["go", placed, TriggerCron("0 3 * * *"), TriggerEvent("go", "true")],
            [EventTrigger("go"), EventTrigger(placed.name), CronTrigger("0 3 * * *"), EventTrigger("go", "true")],
        ),
        (tuple(f"e{n}" for n in range(10)), [EventTrigger(f"e{n}") for n in range(10)]),
        (["shop/*", "shop/order.*"], [EventTrigger("shop/*"), EventTrigger("shop/order.*")]),
        (["inngest/function.failed", "inngest/function.cancelled"],
         [EventTrigger("inngest/function.failed"), EventTrigger("inngest/function.cancelled")]),
        (None, []),
        ((), []),
    ],
)  # fmt: skip
def test_a_function_has_up_to_ten_triggers(trigger: Any, expected: list[Any]) -> None:
    assert triggers(trigger) == tuple(expected)
    assert [check_trigger(each) for each in expected] == [[]] * len(expected)


@pytest.mark.spec("FN-06", "FN-08", "PY-20")
def test_every_problem_of_every_trigger_is_named() -> None:
    assert problems(
        plain,
        trigger=["go", "app/user.update*", "go", 5, "", TriggerEvent("blog.*.new", " "), TriggerCron(" "),
                 TriggerCron("0 3 * * *", jitter=-1, catch_up=5),  # type: ignore[arg-type] # the point of the test
                 TriggerCron("0 3 * * *", jitter=1.5), TriggerEvent(["x"]), placed],  # type: ignore[call-overload, arg-type] # the point of the test
        retries=-1, name=5, on_failure=plain,
    ) == [
        "name is 5; give text",
        "there are 11 triggers, the limit is 10",
        "trigger[1] is 'app/user.update*': * stands only at the end, directly after / or .; did you mean 'app/user.*'?",
        "trigger[2] is the same as trigger[0]",
        "trigger[3] is 5; give the name of an event",
        "trigger[4] is ''; give the name of an event",
        "trigger[5] is 'blog.*.new': * stands only at the end, directly after / or .; did you mean 'blog.*'?",
        "trigger[5] has the expression ' '; give CEL, or leave it out",
        "trigger[6] has the cron ' '; give one, as '0 3 * * *'",
        "trigger[7] has a jitter of -1 ms; it must not be negative",
        "trigger[7] has catch_up=5; it must be one of last, skip, all",
        "trigger[8] has a wrong jitter: a duration is a timedelta or milliseconds as int, not 1.5",
        "trigger[9] is ['x']; give the name of an event",
        "retries is -1; it must be a number from 0 to 20",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("trigger", "problem"),
    [
        ({"event": "go"}, "trigger is {'event': 'go'}; give the name of an event"),
        (b"go", "trigger is b'go'; give the name of an event"),
        (TriggerEvent("go", 5), "trigger has the expression 5; give CEL, or leave it out"),  # type: ignore[call-overload]
        (TriggerCron(5), "trigger has the cron 5; give one, as '0 3 * * *'"),  # type: ignore[arg-type]
        ([TriggerEvent("go"), "go"], "trigger[1] is the same as trigger[0]"),
    ],
)
def test_what_is_no_trigger_is_named(trigger: Any, problem: str) -> None:
    assert problems(trigger=trigger)[0] == problem


def test_many_functions_share_an_event() -> None:
    app = App("a")
    for name in ("f", "g", "h"):
        app.function(name, trigger=placed)(handler)
    assert {each.spec.triggers for each in app.functions.values()} == {(EventTrigger("shop/order.placed"),)}


@pytest.mark.spec("PY-21")
def test_a_handler_of_failures_is_a_function_of_its_own() -> None:
    app = App("shop", version="2")

    @app.function("ship", trigger=placed, name="Ship", on_failure=on_failure)
    async def ship(ctx: Context[Order]) -> None: ...

    assert list(app.functions) == ["shop-ship", "shop-ship-failure"]
    companion = app.functions["shop-ship-failure"]
    assert app.functions["shop-ship"] is ship
    assert companion.spec == FunctionSpec(
        id="shop-ship-failure", app="shop", name="Ship (failure)", version="2", retries=0, failure_of="shop-ship"
    )
    assert (companion.name, companion.handler, companion.event_types) == ("Ship (failure)", on_failure, (FAILED,))
    assert app.event_types == {placed.name: placed}


def test_a_companions_id_may_not_be_taken() -> None:
    app = App("a")
    app.function("f-failure", trigger="go")(handler)
    with pytest.raises(ConfigInvalid, match="two functions have the id 'f-failure'"):
        app.function("f", trigger="go", on_failure=on_failure)(handler)
    assert list(app.functions) == ["a-f-failure"]


@pytest.mark.spec("PY-22")
def test_a_handler_of_failures_takes_ctx_or_ctx_and_step() -> None:
    async def two(ctx: Context[FunctionFailed], step: Step) -> None: ...
    async def none() -> None: ...

    app: Any = App("a")
    app.function("f", trigger="go", on_failure=two)(handler)
    assert app.functions["a-f-failure"].takes_step
    (problem,) = problems(trigger="go", on_failure=none)
    assert problem.startswith("on_failure: ")
    assert problem.endswith("is called with (ctx), or (ctx, step)")


def test_the_types_that_a_functions_events_are_read_by() -> None:
    async def invoked(ctx: Context[Order]) -> int:
        return 5

    async def untyped(ctx: Context) -> int:
        return 5

    async def number(ctx: Context[int]) -> None: ...  # type: ignore[type-arg, unused-ignore]

    def types(trigger: Any, of: Any = handler) -> list[tuple[str, Any]]:
        function = App("a").function("f", trigger=trigger)(of)
        return [(each.name, each.data_type) for each in function.event_types]

    plain_data = dict[str, Any]
    assert types(["go", "shop/*", voided, TriggerCron("0 3 * * *")]) == []
    assert types([placed, "shop/*", TriggerEvent("go"), TriggerEvent(voided, "true"), TriggerCron("0 3 * * *")]) == [
        ("shop/order.placed", Order), ("shop/*", plain_data), ("go", plain_data), ("shop/order.voided", plain_data)
    ]  # fmt: skip
    assert types(None, invoked) == [("inngest/function.invoked", Order)]
    assert types(None, untyped) == types(None) == types("go", invoked) == []
    assert problems(number, trigger=None) == [
        "the handler's data type is <class 'int'>; give a class whose JSON is an object"
    ]


def test_generators_and_classes_are_refused() -> None:
    def yields(ctx: ContextSync) -> Iterator[int]:
        yield 1

    name = yields.__qualname__
    assert problems(yields, trigger="go") == [f"{name} is a generator; return the result instead of yielding"]
    assert problems(int, trigger="go") == ["int is not a function"]


@pytest.mark.spec("PY-21")
def test_a_function_and_its_failure_handler_are_of_one_kind() -> None:
    assert problems(handler, trigger="go", on_failure=plain) == [
        "on_failure is plain def and the function async, or the reverse; write both alike"
    ]


def test_a_functions_output_is_read_by_its_annotation() -> None:
    async def typed(ctx: Context) -> Order:
        return Order("o1")

    function = App("a").function("f", trigger="go")(typed)
    assert function.is_async
    assert function.decode_output(b'{"id": "o1"}') == Order("o1")
    assert App("b").function("f", trigger="go")(handler).decode_output(b"null") is None


def test_what_a_plain_handler_says_of_its_data_is_found_too() -> None:
    def sync(ctx: ContextSync[Order]) -> None: ...
    def unresolved(ctx: "Context[Nowhere]") -> None: ...  # type: ignore[name-defined] # noqa: F821 - the point of the test
    def bare() -> None: ...

    assert data_type_of(sync) is Order
    assert data_type_of(unresolved) is None
    assert data_type_of(bare) is None


@pytest.mark.spec("EXPR-07", "FN-05")
def test_expressions_and_crons_are_read_where_they_are_written() -> None:
    found = problems(trigger=(TriggerEvent("go", "event.data.x >"), TriggerCron("0 3 31 2 *")))
    assert found[0].startswith("trigger[0] has an expression that cannot be read: line 1, column ")
    assert found[1].startswith("trigger[1] has a cron that cannot be used: ")
    assert len(found) == 2
