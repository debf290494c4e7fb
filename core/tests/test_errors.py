"""Errors that are recorded, and made again: an exceeded limit has one name here and another over the wire (GAP-20)."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steplog import App, Context, Event, FunctionFailed, RunFailed, StepError
from steplog.client import api
from steplog.engine import records
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import RetryPolicy
from steplog.errors import OutputTooLarge, StateSizeExceeded, StepLimitExceeded, SteplogError, native_name, wire_name
from steplog.log.memory import MemoryLog
from steplog.node import NodeConfig
from steplog.testing import Testbed

from .running import config, go, of, on_users_loop, plus_one, running, value

SMALL = EngineConfig(steps_per_run=3, run_state_bytes=2_000, retry=RetryPolicy(interval_ms=1))
LIMITS = {
    "large": (OutputTooLarge, "output_too_large"),
    "long": (StepLimitExceeded, "InngestErrFunctionOverflowed"),
    "full": (StateSizeExceeded, "InngestErrStateOverflowed"),
}
PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def test_names_of_limits_go_over_the_wire_and_back() -> None:
    for kind, name in LIMITS.values():
        assert wire_name(kind.__name__) == name
        assert native_name(name) == kind.__name__
    assert wire_name("ValueError") == native_name("ValueError") == "ValueError"


class Limited:
    """An app whose functions each exceed a limit; what is seen of it is noted by the failing function's name."""

    def __init__(self) -> None:
        self.caught: dict[str, StepError] = {}
        self.handled: dict[str, str] = {}
        self.told: dict[str, tuple[str, str]] = {}
        self.app = app = App("a")

        async def failed(ctx: Context[FunctionFailed]) -> None:
            self.handled[ctx.event.data.function_id[2:]] = ctx.event.data.error.name

        @app.function("large", on_failure=failed)
        async def large(ctx: Context) -> None:
            await ctx.step.run("large", value, "x" * 2_000)

        @app.function("long", on_failure=failed)
        async def long(ctx: Context) -> None:
            for index in range(5):
                await ctx.step.run("again", plus_one, index)

        @app.function("full", on_failure=failed)
        async def full(ctx: Context) -> None:
            for _ in range(3):
                await ctx.step.run("more", value, "x" * 900)

        @app.function("f", trigger="go")
        async def f(ctx: Context) -> None:
            for name in LIMITS:
                try:
                    await ctx.step.invoke_by_id(name, function_id=name)
                except StepError as error:
                    self.caught[name] = error

        @app.function("told", trigger="inngest/function.failed")
        async def told(ctx: Context) -> None:
            error = ctx.event.data["error"]
            self.told[ctx.event.data["function_id"][2:]] = (error["name"], error["error"].partition(":")[0])


@pytest.mark.spec("STEP-19", "PAR-07", "LIM-03", "LIM-04", "LIM-08")
@pytest.mark.parametrize("evict_after_ms", [30_000, 0])
def test_an_exceeded_limit_has_its_classes_name_here_and_the_wires_in_events(evict_after_ms: int) -> None:
    limited, log = Limited(), MemoryLog()
    settings: NodeConfig = config(engine=SMALL, output_bytes=1_000, evict_after_ms=evict_after_ms)

    async def body() -> None:
        async with running(limited.app, log, settings) as node:
            (ended,) = await node.run(go())
            assert ended.status == "completed"

    on_users_loop(body())
    recorded = {r.error.name for r in of(log, records.RunFailed)}
    assert recorded == {kind.__name__ for kind, _ in LIMITS.values()}
    for name, (kind, on_the_wire) in LIMITS.items():
        caught = limited.caught[name]
        assert caught.name == limited.handled[name] == kind.__name__
        assert isinstance(caught.__cause__, kind)
        assert str(caught.__cause__) == caught.message
        assert limited.told[name] == (on_the_wire, on_the_wire)
    assert not of(log, records.RunErrored), "nothing is tried again"
    assert not of(log, records.StepErrored)


def test_other_failures_have_no_cause() -> None:
    failed = StepError("no", "ValueError")
    assert (failed.__cause__, failed.__suppress_context__) == (None, False)


@pytest.mark.parametrize("kind", LIMITS)
def test_a_client_knows_an_exceeded_limit_by_its_class(kind: str) -> None:
    limit, on_the_wire = LIMITS[kind]
    output = msgspec.Raw(msgspec.json.encode({"name": on_the_wire, "message": "too much"}))
    run = api.Run(run_id="r1", state="failed", function="a-f", ended_at="2026-01-01T00:00:00.000Z", output=output)
    error: SteplogError = api.failure_of(run)
    assert isinstance(error, RunFailed)
    assert (error.name, type(error.__cause__), str(error.__cause__)) == (limit.__name__, limit, "too much")


async def test_the_example_of_the_documentation_runs(testbed: Testbed) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    run = await testbed.trigger(names["close_day"], Event(name="shop/day.closed", data={}))
    assert run.output == "too large to send"
