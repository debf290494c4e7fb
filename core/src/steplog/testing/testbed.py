"""The testbed: the real engine and the real driver in the test's own event loop, in virtual time.

Every call lets things go on until nothing is due but sleeps, waits and time-outs. The log is in memory and outlives the
process that the testbed plays: ``crash`` ends that process, and the next one reads the log back.
"""

import asyncio
import copy
import functools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, overload

import msgspec
from typing_extensions import TypeVar

from steplog.app import App
from steplog.context import Context
from steplog.drivers.live_run import LiveRun, LocalConfig
from steplog.drivers.loop import REST_PASSES, UsersLoop
from steplog.drivers.outgoing import outgoing_events
from steplog.durations import Duration, epoch_ms, milliseconds
from steplog.engine import records
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, EventTrigger, Registry
from steplog.engine.ids import encode_ulid, hash16, run_id, ulid
from steplog.engine.messages import EventAccepted
from steplog.event import Event
from steplog.functions import Function
from steplog.log.memory import MemoryLog
from steplog.node import FLUSH_PASSES, Node, NodeConfig
from steplog.shells.inline import InlineEngine, VirtualClock
from steplog.step import Step
from steplog.testing.errors import NoProgress, NotTriggered, UnusedStubs
from steplog.testing.stubs import StubbedRun, Stubs
from steplog.testing.views import Journal, RunView

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 5.0  # that bodies and code outside of steps may really take
POLL_S = 0.001
BACKOFF_S = 0.05  # a body that really takes longer keeps no other step from its next attempt
QUIET_PASSES = FLUSH_PASSES + REST_PASSES + 1  # of the loop: a message of a body that has ended has crossed by then
HURRIED_PASSES = 200  # before it is assumed that something really takes time
MOST_TURNS = 20_000  # of one call; functions that start one another for ever never come to rest
SOURCE = "test"  # of the events that the test sends
_plain = msgspec.json.decode
_AT_ONCE_MS = -366 * 86_400_000  # park whatever waits, for however short a time

A = TypeVar("A")
B = TypeVar("B")
D = TypeVar("D", covariant=True)


class TypedEvents(Protocol[D]):
    """What is needed of an event type: a name, and how its data is read."""

    name: str

    def decode(self, data: bytes, /) -> D: ...


class Testbed:
    """Runs functions as a node does, in virtual time. Use it as the fixture ``testbed``, or as a context manager.

    ``apps`` are known from the start; ``trigger`` adds the function that it is given, with the apps of its module.
    ``auto_retry``: back-offs are skipped over; else ``advance`` has to pass them. ``force_reentry``: every result comes
    by a replay, as over HTTP. ``start`` is the first moment, ``patience_s`` how long bodies may really take. Ids and
    times are the same in every run of a test.
    """

    __test__ = False  # pytest does not collect it

    def __init__(
        self, *apps: App, auto_retry: bool = True, force_reentry: bool = False, start: datetime = START,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.auto_retry = auto_retry
        self._reenter = force_reentry
        self._patience_s = patience_s
        self._clock = VirtualClock(epoch_ms(start))
        self._log = MemoryLog()
        self._journal = Journal(self._log)
        self._functions: dict[str, Function[Any, Any]] = {}
        self._stubs: dict[str, Stubs] = {}  # by run id
        self._sent = 0
        self._node: Node | None = None
        self._engine: InlineEngine
        self._changing = asyncio.Lock()  # the process ends and begins
        self._is_stale = False  # the process lacks a function or an option
        for app in apps:
            self._functions |= app.functions

    async def __aenter__(self) -> Self:
        if not isinstance(asyncio.get_running_loop(), UsersLoop):
            raise TypeError(
                "a testbed needs steplog's event loop: ask for the fixture `testbed`, and for no other plugin's loop, "
                "or use asyncio.Runner(loop_factory=steplog.testing.UsersLoop)"
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._end()
        unused = [
            f"step_stubs of {self._view(run).function}: {sentence}"
            for run, stubs in self._stubs.items()
            for sentence in stubs.unused()
        ]
        if unused and error is None:
            raise UnusedStubs("\n".join(unused))

    # --- what a test does

    async def trigger(
        self, function: Function[A, B], event: Event[A] | A, *, step_stubs: Mapping[str, Any] | None = None
    ) -> RunView[B]:
        """Send an event and return the run of this function that it starts.

        Whatever else of its app the event triggers starts too. Data alone is sent as the first event that triggers the
        function. ``step_stubs`` are for this run, by step id (``steplog.testing.stubs``).

        Raises ``NotTriggered`` where the event does not start the function, ``NoProgress`` where something hangs.
        """
        await self._add(function)
        accepted = self._accept([event if isinstance(event, Event) else _event_for(function, event)])
        message = accepted[0]
        run = encode_ulid(
            run_id(message.received_ms, message.slot, DEFAULT_ENV, function.id, message.internal_id)
        )  # fmt: skip
        if step_stubs:
            self._stubs[run] = Stubs(step_stubs)
        await self._submit(accepted)
        routed = self._journal.routed(message.internal_text)
        if run not in [each.run for each in routed.runs]:
            self._stubs.pop(run, None)
            raise NotTriggered(_why_not(function, routed))
        return self._view(run)

    async def send(self, events: Event[Any] | list[Event[Any]]) -> list[str]:
        """Send events, as a program does; returns their ids."""
        accepted = self._accept(events if isinstance(events, list) else [events])
        await self._submit(accepted)
        return [message.internal_text for message in accepted]

    async def advance(self, duration: Duration) -> None:
        """Let time pass, from timer to timer; whatever comes due on the way happens at its time."""
        await self._settle()
        until_ms = self._clock.now_ms() + milliseconds(duration)
        while (due_ms := self._engine.next_due_ms()) is not None and due_ms <= until_ms:
            self._clock.move_to(due_ms)
            await self._settle()
        self._clock.move_to(until_ms)
        await self._settle()

    async def crash(self) -> None:
        """Kill the process, bodies included, and start the next one: all that it knows comes from the log."""
        async with self._changing:
            if self._node is not None:
                self._engine.kill()
            await self._end()
        await self._settle()

    # --- what a test looks at

    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._clock.now_ms())

    @overload
    def runs(self, function: None = None) -> list[RunView[Any]]: ...
    @overload
    def runs(self, function: Function[Any, B]) -> list[RunView[B]]: ...
    def runs(self, function: Function[Any, Any] | None = None) -> list[RunView[Any]]:
        """Every run so far, or every one of a function, in the order in which they came to be."""
        wanted = None if function is None else function.id
        return [self._view(run.run_id) for run in self._journal.runs() if wanted in (None, run.function)]

    @overload
    def sent(self, event: str) -> list[dict[str, Any]]: ...
    @overload
    def sent(self, event: TypedEvents[A]) -> list[A]: ...
    def sent(self, event: Any) -> list[Any]:
        """The data of the events of a name, or type, that functions sent: not of those that the test did."""
        name, decode = (event, None) if isinstance(event, str) else (event.name, event.decode)
        found = [stored for stored, _ in self._journal.events() if stored.name == name and stored.source != SOURCE]
        return [_plain(bytes(each.data)) if decode is None else decode(bytes(each.data)) for each in found]

    @property
    def reenter(self) -> bool:
        """Whether every result comes by a replay. Setting it later starts the process anew, in order."""
        return self._reenter

    @reenter.setter
    def reenter(self, is_forced: bool) -> None:
        self._is_stale = self._is_stale or is_forced != self._reenter
        self._reenter = is_forced

    # --- the process that it plays

    async def _add(self, function: Function[Any, Any]) -> None:
        """Make a function known, and the others of its app, which it may invoke or which handle its failure."""
        if self._functions.get(function.id) is not function:
            for found in [{function.id: function}, *(app.functions for app in _apps_of(function))]:
                self._functions |= found
            self._is_stale = True

    async def _start(self) -> Node:
        """The process; a new one where there is none, or where something has changed that it does not know."""
        async with self._changing:
            if self._is_stale:
                await self._end()
            if self._node is None:
                self._node = await self._begin()
            return self._node

    async def _begin(self) -> Node:
        local = LocalConfig()
        if self._reenter:
            local = LocalConfig(replay_every_step=True, evict_after_ms=_AT_ONCE_MS)
        app = App("testbed")
        app.functions = {name: self._stubbable(function) for name, function in self._functions.items()}
        registry = Registry(function.spec for function in self._functions.values())
        self._engine = InlineEngine(lambda: self._log, registry, EngineConfig(), self._clock)
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
            stubs = self._stubs.get(ctx.run_id)
            if stubs is not None:
                ctx.step = Step(StubbedRun(ctx._run, stubs))
            return await (handler(ctx, ctx.step) if rest else handler(ctx))

        double = copy.copy(function)
        double.handler = stubbed
        return double

    def _accept(self, events: Iterable[Event[Any]]) -> list[EventAccepted]:
        now_ms = self._clock.now_ms()
        checked = outgoing_events(list(events), LocalConfig().event_bytes)
        accepted = []
        for index, event in enumerate(checked):
            self._sent += 1
            internal = ulid(now_ms, hash16(SOURCE.encode(), self._sent.to_bytes(8, "big"))[:10])
            is_last = index == len(checked) - 1
            accepted.append(
                accept_event(event, internal, env=DEFAULT_ENV, received_ms=now_ms, source=SOURCE, is_last=is_last)
            )
        return accepted

    async def _submit(self, events: list[EventAccepted]) -> None:
        await self._start()
        self._engine.post([*events])
        await self._settle()

    async def _settle(self) -> None:
        """Let everything go on until nothing is due but sleeps, waits and time-outs."""
        await self._start()
        self._engine.wake()
        last_turn = self._engine.turns + MOST_TURNS
        while True:
            node = await self._start()
            await self._come_to_rest(node, last_turn)
            if node is self._node and not (self.auto_retry and self._engine.skip_backoffs()):
                return

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
                if self.auto_retry and not are_skipped and loop.time() > since_s + BACKOFF_S:
                    are_skipped = True
                    engine.skip_backoffs()
                elif loop.time() > since_s + self._patience_s:
                    raise NoProgress("\n".join(self._why_busy(run) for run in node.busy))
            else:
                quiet += 1
            await asyncio.sleep(0 if hurried < HURRIED_PASSES else POLL_S)

    def _why_busy(self, run: LiveRun) -> str:
        took = f"for more than {self._patience_s:g} s"
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

    def _view(self, run: str) -> RunView[Any]:
        function = self._functions.get(self._journal.run(run).function)
        return RunView(self._journal, run, function, self._settle)


def _apps_of(function: Function[Any, Any]) -> list[App]:
    """The apps of the function's module that have it: a function does not know its app."""
    names = getattr(function.handler, "__globals__", {})
    return [each for each in names.values() if isinstance(each, App) and each.functions.get(function.id) is function]


def _event_for(function: Function[Any, Any], data: Any) -> Event[Any]:
    """An event with this data that triggers the function."""
    names = _event_names(function)
    if not names or names[0].endswith("*"):
        raise NotTriggered(f"no event's name is known that starts {function.id}: give trigger an Event, not its data")
    return Event(name=names[0], data=data)


def _event_names(function: Function[Any, Any]) -> list[str]:
    return [trigger.event for trigger in function.spec.triggers if isinstance(trigger, EventTrigger)]


def _why_not(function: Function[Any, Any], routed: records.EventRouted) -> str:
    reasons = [skip.reason for skip in routed.skipped if skip.function == function.id]
    if reasons:
        return f"{routed.name} does not start {function.id}: {reasons[0]}"
    names = " or ".join(_event_names(function)) or "no event"
    return f"{routed.name} does not start {function.id}; what does is {names}"
