"""The process that a testbed plays: a node over a log in memory, in virtual time.

The log outlives it. It ends in order, to begin anew with what has changed, or is killed; the next one reads the log.
"""

import asyncio
import copy
import functools
from typing import Any

import msgspec

from steplog.app import App
from steplog.context import Context, ContextSync
from steplog.drivers.config import LocalConfig
from steplog.drivers.live_run import LiveRun
from steplog.drivers.loop import REST_PASSES
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.messages import Message
from steplog.functions import Function
from steplog.log.memory import MemoryLog
from steplog.node import FLUSH_PASSES, Node, NodeConfig
from steplog.shells.inline import InlineEngine, VirtualClock
from steplog.step import Step
from steplog.step_sync import StepSync
from steplog.testing.errors import NoProgress
from steplog.testing.stubs import StubbedRun, Stubs

POLL_S = 0.001
BACKOFF_S = 0.05  # a body that really takes longer keeps no other step from its next attempt
QUIET_PASSES = FLUSH_PASSES + REST_PASSES + 1  # of the loop: a message of a body that has ended has crossed by then
HURRIED_PASSES = 200  # before it is assumed that something really takes time
MOST_TURNS = 20_000  # of one call; functions that start one another for ever never come to rest
AT_ONCE_MS = -366 * 86_400_000  # park whatever waits, for however short a time


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a process treats its runs (``Testbed``)."""

    auto_retry: bool
    reenter: bool
    patience_s: float


class Process:
    """One process after the other. Setting ``functions`` or ``options`` makes the next call begin a new one."""

    def __init__(self, clock: VirtualClock, options: Options) -> None:
        self.log = MemoryLog()
        self.stubs: dict[str, Stubs] = {}  # by run id
        self._clock, self._options = clock, options
        self._functions: dict[str, Function[Any, Any]] = {}
        self._node: Node | None = None
        self._engine: InlineEngine
        self._changing = asyncio.Lock()  # one ends, or begins
        self._is_stale = False

    @property
    def functions(self) -> dict[str, Function[Any, Any]]:
        return self._functions

    @functions.setter
    def functions(self, functions: dict[str, Function[Any, Any]]) -> None:
        self._functions, self._is_stale = functions, True

    @property
    def options(self) -> Options:
        return self._options

    @options.setter
    def options(self, options: Options) -> None:
        self._is_stale = self._is_stale or options != self._options
        self._options = options

    async def post(self, messages: list[Message]) -> None:
        """Have messages decided, and everything that follows now."""
        await self._current()
        self._engine.post(messages)
        await self.settle()

    async def settle(self) -> None:
        """Let everything go on until nothing is due but sleeps, waits and time-outs. Raises ``NoProgress``."""
        await self._current()
        self._engine.wake()
        last_turn = self._engine.turns + MOST_TURNS
        while True:
            node = await self._current()
            await self._come_to_rest(node, last_turn)
            if node is self._node and not (self._options.auto_retry and self._engine.skip_backoffs()):
                return

    def next_due_ms(self) -> int | None:
        """When the next timer is due, once it is settled."""
        return self._engine.next_due_ms()

    async def crash(self) -> None:
        """End as by ``kill -9``."""
        async with self._changing:
            if self._node is not None:
                self._engine.kill()
            await self._end()

    async def end(self) -> None:
        """End in order."""
        async with self._changing:
            await self._end()

    async def _current(self) -> Node:
        async with self._changing:
            if self._is_stale:
                await self._end()
            if self._node is None:
                self._node = await self._begin()
            return self._node

    async def _begin(self) -> Node:
        local = LocalConfig()
        if self._options.reenter:
            local = LocalConfig(replay_every_step=True, evict_after_ms=AT_ONCE_MS)
        app = App("testbed")
        app.functions = {name: self._stubbable(function) for name, function in self._functions.items()}
        registry = Registry(function.spec for function in self._functions.values())
        self._engine = InlineEngine(lambda: self.log, registry, EngineConfig(can_produce=True), self._clock)
        config = NodeConfig(local=local, drain_s=0)
        return await Node([app], self._engine, config, clock=self._clock.now_ms).__aenter__()

    async def _end(self) -> None:
        node, self._node, self._is_stale = self._node, None, False
        if node is not None:
            for run in node.busy:  # nothing of it outlives the process, and nobody waits for it
                run.close()
                if run.task is not None:
                    run.task.cancel()
            await node.__aexit__(None, None, None)

    def _stubbable(self, function: Function[Any, Any]) -> Function[Any, Any]:
        """The function; its steps ask for the stubs of their run first."""
        handler = function.handler

        @functools.wraps(handler)
        async def stubbed(ctx: Context[Any], *rest: Step) -> Any:
            stubs = self.stubs.get(ctx.run_id)
            if stubs is not None:
                ctx.step = Step(StubbedRun(ctx._run, stubs))
            return await (handler(ctx, ctx.step) if rest else handler(ctx))

        @functools.wraps(handler)
        def stubbed_in_thread(ctx: ContextSync[Any], *rest: StepSync) -> Any:
            stubs = self.stubs.get(ctx.run_id)
            if stubs is not None:
                ctx.step = StepSync(Step(StubbedRun(ctx._run, stubs)), ctx.step._blocking)
            return handler(ctx, ctx.step) if rest else handler(ctx)

        double = copy.copy(function)
        double.handler = stubbed if function.is_async else stubbed_in_thread
        return double

    async def _come_to_rest(self, node: Node, last_turn: int) -> None:
        """Return when, for a while, nothing was decided and no run did anything but wait."""
        loop, engine = asyncio.get_running_loop(), self._engine
        turns, quiet, hurried, since_s, are_skipped = -1, 0, 0, 0.0, False
        while quiet < QUIET_PASSES:
            if engine.turns != turns:
                turns, quiet, hurried, since_s, are_skipped = engine.turns, 0, 0, loop.time(), False
                if turns > last_turn:
                    raise NoProgress(f"no rest after {MOST_TURNS} commits; do functions start one another for ever?")
            if engine.has_work or node.busy:
                quiet, hurried = 0, hurried + 1
                if self._options.auto_retry and not are_skipped and loop.time() > since_s + BACKOFF_S:
                    are_skipped = True
                    engine.skip_backoffs()
                elif loop.time() > since_s + self._options.patience_s:
                    raise NoProgress("\n".join(self._why_busy(run) for run in node.busy))
            else:
                quiet += 1
            await asyncio.sleep(0 if hurried < HURRIED_PASSES else POLL_S)

    def _why_busy(self, run: LiveRun) -> str:
        took = f"for more than {self._options.patience_s:g} s"
        if run.executing:
            return (
                f"{run.describe()}: the body of step {', '.join(map(repr, run.executing))} runs {took}. "
                "A testbed skips over step.sleep and back-offs, not over what a body awaits: "
                f"stub it (step_stubs={{{run.executing[0]!r}: …}}), or allow more: Testbed(patience_s=…)"
            )
        return (
            f"{run.describe()}: code outside of steps runs {took}. Make it a step, and stub it, "
            "or allow more: Testbed(patience_s=…)"
        )
