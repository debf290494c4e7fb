"""The public API: what it has, what it refuses, and what importing it does not load."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

import steplog
from steplog import App, Context, Event, RetryAfterError, Step, SteplogError, TriggerEvent
from steplog.durations import epoch_ms, milliseconds
from steplog.engine.functions import EventTrigger
from steplog.errors import ConfigInvalid

FROZEN = [
    "App", "Client", "Context", "ContextSync", "CurrentStep", "Duration", "Event", "EventDataInvalid", "EventRefused",
    "EventType", "Function", "FunctionFailed", "Group", "InvokeTimeout", "NonRetriableError", "NotFound",
    "ProducedRecord", "Refused",
    "RetryAfterError", "RunFailed", "ServerUnreachable", "Signal", "Step", "StepError", "StepSync", "SteplogError",
    "TriggerCron", "TriggerEvent", "current_step",
]  # fmt: skip
HEAVY = ("uvicorn", "starlette", "click", "rich", "aiohttp", "sqlite3", "uvloop", "asyncio", "hypothesis")


async def handler(ctx: Context) -> None: ...


def test_the_public_names_are_these() -> None:
    assert steplog.__all__ == sorted(FROZEN, key=lambda name: (name.islower(), name))
    assert all(hasattr(steplog, name) for name in FROZEN)


def test_every_error_has_the_root_and_a_code_of_its_own() -> None:
    errors = [e for e in vars(steplog.errors).values() if isinstance(e, type) and issubclass(e, SteplogError)]
    assert len({error.code for error in errors}) == len(errors)


def test_importing_it_loads_no_server_no_database_and_no_loop() -> None:
    code = f"import sys, steplog; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("option", ["concurrency", "throttle", "retry", "idempotency", "id"])
def test_an_unknown_option_is_a_type_error_where_it_is_written(option: str) -> None:
    app: Any = App("a")
    with pytest.raises(TypeError, match=option):
        app.function("f", trigger="go", **{option: 1})


@pytest.mark.spec("PY-20")
def test_what_is_declared_wrongly_raises_with_every_problem() -> None:
    def plain(a: int, b: int, c: int) -> None: ...

    app: Any = App("a")
    with pytest.raises(ConfigInvalid) as raised:
        app.function("", trigger="", retries=21)(plain)
    assert raised.value.problems == [
        "id is empty",
        "trigger is ''; give the name of an event",
        "retries is 21; it must be a number from 0 to 20",
        f"{plain.__qualname__}(a: int, b: int, c: int) -> None is called with (ctx), or (ctx, step)",
    ]
    assert str(raised.value).startswith("4 problems in function a-\n  id is empty\n")
    assert app.functions == {}


@pytest.mark.spec("EVT-08", "ERR-02")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trigger": "x" * 257}, "trigger has 257 characters"),
        ({"trigger": 5}, "trigger is 5"),
        ({"trigger": TriggerEvent("")}, "trigger is ''"),
        ({"retries": -1}, "retries is -1"),
        ({"retries": True}, "retries is True"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"fn_id": 5}, "id is 5"),
    ],
)
def test_each_problem_is_named_with_its_value(options: dict[str, Any], problem: str) -> None:
    app: Any = App("a")
    with pytest.raises(ConfigInvalid, match=problem):
        app.function(**{"trigger": "go", **options})(handler)


@pytest.mark.parametrize("app_id", ["", None, 5])
def test_an_app_has_a_name(app_id: Any) -> None:
    with pytest.raises(ConfigInvalid, match="app_id"):
        App(app_id)


@pytest.mark.spec("CONV-03", "ERR-02")
def test_a_functions_id_is_its_handlers_name_unless_given() -> None:
    app = App("shop")

    @app.function(trigger="go")
    async def ship_order(ctx: Context) -> int:
        return 1

    other = app.function("other", trigger=TriggerEvent("go"), name="Other", retries=0)(handler)
    assert list(app.functions) == ["shop-ship-order", "shop-other"]
    assert (ship_order.id, ship_order.name, ship_order.spec.retries) == ("shop-ship-order", "ship-order", 4)
    assert (other.name, other.spec.retries, other.spec.triggers) == ("Other", 0, (EventTrigger("go"),))


def test_two_functions_with_one_id_are_refused() -> None:
    app = App("a")
    app.function("f", trigger="go")(handler)
    with pytest.raises(ConfigInvalid, match="two functions have the id 'f'"):
        app.function("f", trigger="other")(handler)


@pytest.mark.spec("PY-22")
def test_a_handler_is_called_with_ctx_or_with_ctx_and_step() -> None:
    async def two(ctx: Context, step: Step) -> None: ...
    async def with_default(ctx: Context, step: Step, more: int = 0) -> None: ...
    async def with_keyword(ctx: Context, *, more: int = 0) -> None: ...
    async def three(ctx: Context, step: Step, more: int) -> None: ...
    async def none() -> None: ...

    app: Any = App("a")
    nothing: Any = None
    takes_step = {
        name: app.function(name, trigger="go")(each).takes_step
        for name, each in (
            ("one", handler), ("two", two), ("default", with_default), ("keyword", with_keyword),
            ("partial", partial(three, step=nothing, more=1)), ("bound", partial(three, more=1)),
        )
    }  # fmt: skip
    assert takes_step == {
        "one": False, "two": True, "default": True, "keyword": False, "partial": False, "bound": True,
    }  # fmt: skip
    for wrong in (three, none, partial(three)):
        with pytest.raises(ConfigInvalid, match=r"is called with \(ctx\), or \(ctx, step\)"):
            app.function("wrong", trigger="go")(wrong)


@pytest.mark.spec("CONV-02")
def test_durations_are_timedeltas_or_milliseconds() -> None:
    assert [milliseconds(d) for d in (timedelta(days=2), timedelta(microseconds=1500), 5, 0)] == [172_800_000, 2, 5, 0]
    for wrong in (1.5, True, "5m", None):
        with pytest.raises(TypeError, match="a duration is"):
            milliseconds(wrong)  # type: ignore[arg-type] # the point of the test


def test_moments_need_a_zone() -> None:
    moment = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert epoch_ms(moment) == epoch_ms(datetime(2026, 1, 1, tzinfo=UTC)) == 1_767_225_600_000
    with pytest.raises(ValueError, match="no zone"):
        epoch_ms(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="without a zone"):
        RetryAfterError("later", datetime(2026, 1, 1))


def test_a_function_can_be_called_without_durability() -> None:
    app = App("a")

    @app.function(trigger="go")
    async def plain(ctx: Context) -> int:
        return 7

    context: Any = None
    assert asyncio.run(_awaited(plain(context))) == 7


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


@pytest.mark.spec("EVT-02")
def test_an_event_has_the_fields_of_the_wire() -> None:
    event = Event(name="e", data={"x": 1})
    assert (event.id, event.ts, event.v, event.user) == (None, None, None, None)
    with pytest.raises(AttributeError):
        event.name = "other"  # type: ignore[misc] # the point of the test
    with pytest.raises(TypeError):
        Event("e", {})  # type: ignore[call-arg] # the point of the test
