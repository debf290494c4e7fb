"""Values between steps: they come back as their annotation says, or are a typed error that names the step."""

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from steplog import Context, Event, StepError
from steplog.engine import records
from steplog.values import signature_of

from .running import Heard, config, declare, fail, go, of, on_users_loop, perform, plus_one, run_once, value

# --- values (D8)


class Point(msgspec.Struct):
    x: float
    y: float


async def as_bytes() -> bytes:
    return b"\x00\xff"


async def as_datetime() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


async def as_set() -> set[int]:
    return {1, 2}


async def as_point() -> list[Point]:
    return [Point(1.5, 2.5)]


def traced(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def call(*args: Any) -> Any:
        return await handler(*args)

    return call


def as_dates() -> dict[int, timedelta]:
    return {1: timedelta(seconds=90)}


@pytest.mark.spec("FAULT-D8", "CONV-06", "PY-25")
def test_values_come_back_as_their_annotation_says_live_and_replayed() -> None:
    from decimal import Decimal

    async def as_decimal() -> Decimal:
        return Decimal("0.10")

    found: list[list[Any]] = []

    async def body(ctx: Context) -> int:
        mine = [
            await ctx.step.run("v", handler)
            for handler in (as_bytes, as_datetime, as_set, as_point, as_dates, as_decimal)
        ]
        found.append(mine)
        await ctx.step.sleep("park", 1)
        found[-1].append(await ctx.step.run("huge", value, 10**400))
        return len(mine)

    ended, _ = on_users_loop(run_once(declare(body), go(), config(evict_after_ms=-1)))
    assert ended.status == "completed"
    expected = [
        b"\x00\xff", datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), {1, 2}, [Point(1.5, 2.5)],
        {1: timedelta(seconds=90)}, Decimal("0.10"),
    ]  # fmt: skip
    assert found == [expected, [*expected, 10**400]]


@pytest.mark.spec("CONV-06")
def test_without_an_annotation_values_come_back_as_json_and_never_as_the_same_object() -> None:
    original = {"at": datetime(2026, 1, 2, tzinfo=UTC), "tags": {"x"}, 1: b"\x00", "deep": [{"a": (1, 2)}]}

    async def body(ctx: Context) -> Any:
        got = await ctx.step.run("v", value, original)
        assert got is not original
        return got

    assert perform(body)[0] == {"at": "2026-01-02T00:00:00Z", "tags": ["x"], "1": "AA==", "deep": [{"a": [1, 2]}]}


def recursive() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["again"] = [cycle]
    return cycle


def nested(depth: int) -> Any:
    inner: Any = float("nan")
    for _ in range(depth):
        inner = [inner]
    return inner


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@dataclass(slots=True)
class Slotted:
    inner: Any


@pytest.mark.spec("FAULT-D8", "PY-25")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: float("nan"), "$ is not a finite number"),
        (lambda: {"rates": [1.0, {"x": float("-inf")}]}, "$.rates[1].x is not a finite number"),
        (lambda: Slotted((1, float("inf"))), "$.inner[1] is not a finite number"),
        (lambda: nested(150), "is not a finite number"),
        (lambda: deep(201), "JSON is nested deeper than 200"),
        (lambda: deep(900), "JSON is nested deeper than 200"),  # msgspec writes it, and nobody could read the record
        (lambda: deep(5_000), "recursion"),
        (lambda: [msgspec.Raw(b"[1,")], "malformed"),
        (lambda: msgspec.Raw(b"1,2"), "malformed"),
        (lambda: msgspec.Raw(b'"\xff"'), "not UTF-8"),
        (lambda: msgspec.Raw(b"[" * 500 + b"]" * 500), "JSON is nested deeper than 200"),
        (lambda: "\ud800", "surrogates"),
        (recursive, "recursion"),
        (lambda: (n for n in range(3)), "generator"),
        (object, "object"),
        (lambda: {(1, 2): 3}, "keys"),
        (lambda: {"f": print}, "builtin_function_or_method"),
        (lambda: 10**5_000, ""),
    ],
)
@pytest.mark.parametrize("where", ["step", "function"])
def test_what_json_cannot_hold_is_a_typed_error_that_names_the_step(
    make: Callable[[], Any], text: str, where: str
) -> None:
    async def returns() -> Any:
        return make()

    async def body(ctx: Context) -> Any:
        return await (ctx.step.run("odd one", returns) if where == "step" else returns())

    failed, log = fail(body)
    name = "odd one" if where == "step" else "a-f"
    assert failed.error.name == "OutputUnserializable"
    assert failed.error.message.startswith(f'"{name}" returned unserializable data')
    assert text in failed.error.message
    assert not [*of(log, records.StepErrored), *of(log, records.RunErrored)], "trying again cannot help"


@pytest.mark.spec("FAULT-D8", "FAULT-I2")
def test_a_value_of_the_greatest_depth_is_readable_wherever_it_goes() -> None:
    """200 brackets open at once; those in strings are none."""

    async def body(ctx: Context) -> Any:
        await ctx.step.run("text", value, "[" * 100_000)
        await ctx.step.send_event("tell", Event(name="told", data={"x": deep(199)}))
        with pytest.raises(StepError, match="JSON is nested deeper than 200"):
            await ctx.step.send_event("tell", Event(name="told", data={"x": deep(200)}))
        assert await ctx.step.run("deep", value, deep(200)) == deep(200)
        await ctx.step.sleep("nap", 1)
        return deep(200)

    ended, log = on_users_loop(run_once(declare(body), go(x=deep(199)), config(evict_after_ms=-1)))
    assert ended.output == deep(200)
    decoded = [msgspec.json.decode(b"[" + data + b"]") for _, turn in [*log.journal, *log.events] for data in turn]
    assert len(decoded) > 6


@pytest.mark.spec("FAULT-D8")
def test_a_coroutine_that_was_not_awaited_is_a_typed_error() -> None:
    made: list[Coroutine[Any, Any, int]] = []

    async def forgets() -> Any:
        made.append(plus_one(1))
        return made[0]

    async def body(ctx: Context) -> Any:
        return await ctx.step.run("forgets", forgets)

    failed, _ = fail(body)
    made[0].close()
    assert failed.error.name == "OutputUnserializable"
    assert "coroutine" in failed.error.message


@pytest.mark.spec("FAULT-D8")
def test_a_result_that_its_annotation_does_not_allow_is_a_typed_error() -> None:
    class Fussy(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            if self.n:
                raise KeyError("fussy")

    async def wrong() -> int:
        return "seven"  # type: ignore[return-value] # the point of the test

    async def fussy() -> Fussy:
        made = Fussy(0)
        made.n = 1
        return made

    async def body(ctx: Context) -> list[str]:
        found = []
        for handler in (wrong, fussy):
            try:
                await ctx.step.run("wrong", handler)
            except StepError as error:
                found.append(f"{error.name}: {error.message}")
        return found

    output, log = perform(body)
    assert [text.split(": ")[0] for text in output] == ["OutputUnserializable"] * 2
    assert all('"wrong" has a result that its annotation does not allow' in text for text in output)
    assert of(log, records.StepErrored) == []


# --- the limit of outputs (I5)
@pytest.mark.spec("FAULT-I5", "STEP-19", "LIM-03")
@pytest.mark.parametrize("where", ["step", "function"])
@pytest.mark.parametrize("percent", [50, 80, 100, 101])
def test_an_output_near_the_limit_is_warned_of_and_one_beyond_it_fails_at_once(
    percent: int, where: str, heard: Heard
) -> None:
    text = "x" * (percent * 10 - 2)  # and two quotes

    async def body(ctx: Context) -> Any:
        if where == "function":
            return text
        await ctx.step.run("large", value, text)
        return None

    ended, log = on_users_loop(run_once(declare(body), go(), config(output_bytes=1_000)))
    name = "large" if where == "step" else "a-f"
    warned = heard.fields("close to the limit")
    if percent == 101:
        assert ended.error == (
            f'"{name}" returned 1010 bytes, the limit is 1000; store it elsewhere and return its address'
        )
        assert of(log, records.RunFailed)[0].error.name == "OutputTooLarge"
        assert not [*of(log, records.StepErrored), *of(log, records.RunErrored), *warned]
    else:
        assert ended.status == "completed"
        expected = {"of": name, "size_bytes": percent * 10, "limit_bytes": 1_000}
        assert warned == ([] if percent == 50 else [expected])


def test_decorated_handlers_keep_their_own_annotations_though_they_share_the_code_of_their_decorator() -> None:
    sets, points = traced(as_set), traced(as_point)
    for _ in range(2):  # the second time it is remembered
        assert signature_of(sets).decode(b"[1,1]") == {1}
        assert signature_of(points).decode(b'[{"x":1,"y":2}]') == [Point(1, 2)]
        assert signature_of(functools.partial(points, 1)).is_async
