"""Random functions end alike however they are executed: live, parked at every wait, or killed after every few commits.

Programs reuse ids, in parallel too, so a result that reached another call than its own would show in the output.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steplog import App, Context, Event, NonRetriableError, StepError, current_step
from steplog.engine import dispatching, records
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import RetryPolicy
from steplog.log.memory import MemoryLog
from steplog.node import NodeConfig

from .running import HOUR_MS, Heard, MortalLog, config, crashing, declare, go, of, on_users_loop, running, until, value

NEVER_POISONED = EngineConfig(retry=RetryPolicy(interval_ms=1), lost_allowance=1_000)
MOST_PROCESSES = 200


class Run(NamedTuple):
    """A step whose body fails a few times first."""

    step_id: str
    fails: int = 0
    is_thread: bool = False


class Refused(NamedTuple):
    """A step that fails for good; the error is caught."""

    step_id: str


class Sleep(NamedTuple):
    step_id: str
    ms: int


class Unheard(NamedTuple):
    """A wait for what never comes."""

    step_id: str
    ms: int
    is_signal: bool


class Told(NamedTuple):
    """A branch waits for what the other one sends."""

    step_id: str
    is_signal: bool


class Called(NamedTuple):
    """Another function is invoked."""

    step_id: str
    is_broken: bool


class Race(NamedTuple):
    """The first branch wins; what loses against it never ends by itself, and is cancelled."""

    winner: Run
    loser_sleeps: bool


class Gather(NamedTuple):
    branches: list[list[Any]]
    is_group: bool


class Branch(NamedTuple):
    """Goes by whether the results so far are even in number."""

    even: list[Any]
    odd: list[Any]


IDS = st.sampled_from(["a", "b", "c"])
RUNS = st.builds(Run, IDS, st.sampled_from([0, 0, 0, 1, 2]), st.booleans())
LEAVES = st.one_of(
    RUNS, RUNS, st.builds(Refused, IDS), st.builds(Sleep, IDS, st.integers(0, 4)),
    st.builds(Race, RUNS, st.booleans()), st.builds(Unheard, IDS, st.integers(0, 4), st.booleans()),
    st.builds(Told, IDS, st.booleans()), st.builds(Called, IDS, st.booleans()),
)  # fmt: skip
PROGRAMS = st.recursive(
    st.lists(LEAVES, min_size=1, max_size=4),
    lambda inner: st.lists(
        st.one_of(
            LEAVES,
            st.builds(Gather, st.lists(inner, min_size=1, max_size=3), st.booleans()),
            st.builds(Branch, inner, inner),
        ),
        min_size=1,
        max_size=4,
    ),
    max_leaves=8,
)


class Execution:
    """Interprets a program as a function's body; ``bodies`` counts how often each label's body began."""

    def __init__(self, program: list[Any]) -> None:
        self.program = program
        self.bodies: Counter[str] = Counter()

    async def body(self, ctx: Context) -> Any:
        if ctx.event.data["breaks"]:
            await ctx.step.run("before", self._effect, "before", 0)
            if not self.bodies["broken"]:
                self.bodies["broken"] += 1
                raise ConnectionError("the function's own code, the first time")
        return await self._sequence(ctx, self.program, "")

    async def _sequence(self, ctx: Context, program: list[Any], path: str) -> list[Any]:
        found: list[Any] = []
        for index, op in enumerate(program):
            found.append(await self._perform(ctx, op, f"{path}/{index}", len(found)))
        return found

    async def _perform(self, ctx: Context, op: Any, path: str, count: int) -> Any:
        match op:
            case Run(step_id, fails, is_thread):
                handler = self._effect_in_thread if is_thread else self._effect
                return await ctx.step.run(step_id, handler, path, fails)
            case Refused(step_id):
                try:
                    return await ctx.step.run(step_id, self._refuse, path)
                except StepError as error:
                    return [error.name, error.message]
            case Sleep(step_id, ms):
                return await ctx.step.sleep(step_id, ms)
            case Unheard(step_id, ms, is_signal):
                if is_signal:
                    return await ctx.step.wait_for_signal(step_id, signal=f"never {path}", timeout=ms)
                return await ctx.step.wait_for_event(step_id, event="never", timeout=ms)
            case Told(step_id, is_signal):
                return await (self._signal if is_signal else self._tell)(ctx, step_id, path)
            case Called(step_id, is_broken):
                try:
                    return await ctx.step.invoke(
                        step_id, function="a-broken" if is_broken else "a-echo", data={"path": path}
                    )
                except StepError as error:
                    return [error.name, error.message]
            case Race(winner, loser_sleeps):
                return await self._race(ctx, winner, loser_sleeps, path)
            case Gather(branches, is_group):
                parts = [self._sequence(ctx, branch, f"{path}.{n}") for n, branch in enumerate(branches)]
                if not is_group:
                    return await asyncio.gather(*parts)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(part) for part in parts]
                return [task.result() for task in tasks]
            case Branch(even, odd):
                return await self._sequence(ctx, odd if count % 2 else even, path)
        raise AssertionError(op)

    async def _tell(self, ctx: Context, step_id: str, path: str) -> Any:
        event, ids = await asyncio.gather(
            ctx.step.wait_for_event(step_id, event="told", timeout=HOUR_MS, if_exp=f"async.data.path == '{path}'"),
            ctx.step.send_event("tell", Event(name="told", data={"path": path})),
        )
        assert event is not None
        return [event.data, len(ids)]

    async def _signal(self, ctx: Context, step_id: str, path: str) -> Any:
        heard, resumed = await asyncio.gather(
            ctx.step.wait_for_signal(step_id, signal=path, timeout=HOUR_MS), ctx.step.send_signal("signal", path, path)
        )
        assert heard is not None
        return [heard.data, resumed == ctx.run_id]

    async def _race(self, ctx: Context, winner: Run, loser_sleeps: bool, path: str) -> Any:
        first = asyncio.ensure_future(self._perform(ctx, winner, path, 0))
        loser = asyncio.ensure_future(
            ctx.step.sleep("loser", HOUR_MS) if loser_sleeps else ctx.step.run("loser", asyncio.Event().wait)
        )
        done, _ = await asyncio.wait({first, loser}, return_when=asyncio.FIRST_COMPLETED)
        loser.cancel()
        assert done == {first}
        return first.result()

    async def _effect(self, path: str, fails: int) -> str:
        await asyncio.sleep(0)
        return self._effect_in_thread(path, fails)

    def _effect_in_thread(self, path: str, fails: int) -> str:
        self.bodies[path] += 1
        if current_step().attempt < fails:
            raise ConnectionError(path)
        return path

    async def _refuse(self, path: str) -> None:
        self.bodies[path] += 1
        raise NonRetriableError(path)


class Outcome(NamedTuple):
    """What must not depend on how a function is executed."""

    output: Any
    recorded: list[tuple[str, str]]  # each step's id and result, sorted: concurrent ones may end in any order


def app_of(execution: Execution) -> App:
    """The program as function ``f``, and the functions that it invokes."""
    app = declare(execution.body)

    @app.function("echo")
    async def echo(ctx: Context) -> str:
        return await ctx.step.run("echo", value, str(ctx.event.data["path"]))

    @app.function("broken", retries=0)
    async def broken(ctx: Context) -> None:
        raise NonRetriableError(str(ctx.event.data["path"]))

    return app


def ends(log: MemoryLog) -> list[records.RunCompleted | records.RunFailed]:
    """How the program's own run has ended."""
    (run,) = [r.run for r in of(log, records.RunScheduled) if r.function == "a-f"]
    found: list[records.RunCompleted | records.RunFailed] = [
        *of(log, records.RunCompleted), *of(log, records.RunFailed)
    ]  # fmt: skip
    return [record for record in found if record.run == run]


async def outcome(log: MemoryLog) -> Outcome:
    (completed,) = ends(log)
    assert isinstance(completed, records.RunCompleted), completed
    completed_steps = [r for r in of(log, records.StepCompleted) if r.run == completed.run]
    failed_steps = [r for r in of(log, records.StepFailed) if r.run == completed.run]
    found = [(r.step, _comparable(r)) for r in completed_steps]
    found += [(r.step, r.error.message) for r in failed_steps]
    ids = [r.id for r in completed_steps] + [r.id for r in failed_steps]
    assert len(set(ids)) == len(ids), "a step is recorded once"
    return Outcome(msgspec.json.decode(completed.output), sorted(found))


def _comparable(record: records.StepCompleted) -> str:
    """A result without the ids and times that differ between runs."""
    output = msgspec.json.decode(record.output)
    if record.op == "WaitForEvent":
        output = output and output["data"]
    if record.op in ("SendEvent", "SendSignal"):
        output = bool(output)
    return msgspec.json.encode(output).decode()


async def execute(execution: Execution, breaks: bool, chosen: NodeConfig) -> Outcome:
    log = MemoryLog()
    async with running(app_of(execution), log, chosen) as node:
        await node.run(go(breaks=breaks))
    return await outcome(log)


def _is_dead_or(mortal: MortalLog, has_ended: Callable[[], bool]) -> bool:
    return mortal.is_dead or has_ended()


async def execute_dying(execution: Execution, breaks: bool, chosen: NodeConfig, dies_at: int, before: bool) -> Outcome:
    """Kill the process at every n-th of its commits, and start another one, until the run has ended."""
    log = MemoryLog()
    app = app_of(execution)
    async with running(app, log, msgspec.structs.replace(chosen, drain_s=0)) as node:
        await node.send(go(breaks=breaks))

    def has_ended() -> bool:
        return bool(ends(log))

    for _ in range(MOST_PROCESSES):
        async with crashing(app, log, chosen, dies_at=dies_at, before=before) as (_, mortal):
            await until(partial(_is_dead_or, mortal, has_ended))
        if has_ended():
            return await outcome(log)
    raise AssertionError(f"no end after {MOST_PROCESSES} processes")


@pytest.mark.spec("DUR-01", "DUR-04", "DUR-13", "FAULT-D6", "STEP-02")
@settings(
    max_examples=40, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    program=PROGRAMS, breaks=st.booleans(), dies_at=st.integers(3, 6), before=st.booleans(),
    evict_after_ms=st.sampled_from([-HOUR_MS, 30_000]),
)  # fmt: skip
def test_a_function_ends_alike_however_it_is_executed(
    program: list[Any],
    breaks: bool,
    dies_at: int,
    before: bool,
    evict_after_ms: int,
    monkeypatch: pytest.MonkeyPatch,
    heard: Heard,
) -> None:
    monkeypatch.setattr(dispatching, "lost_delay_ms", lambda lost: 0)
    live, parked, dying = Execution(program), Execution(program), Execution(program)
    expected = on_users_loop(execute(live, breaks, config(engine=NEVER_POISONED)))
    at_once = config(engine=NEVER_POISONED, evict_after_ms=-HOUR_MS)
    assert on_users_loop(execute(parked, breaks, at_once)) == expected
    assert parked.bodies == live.bodies, "parking repeats no body"
    assert heard.fields("have changed") == []
    chosen = config(engine=NEVER_POISONED, evict_after_ms=evict_after_ms)
    assert on_users_loop(execute_dying(dying, breaks, chosen, dies_at, before)) == expected
