"""The testbed: the real engine and the real driver in the test's own event loop, in virtual time.

Every call lets things go on until nothing is due but sleeps, waits and time-outs. The log is in memory and outlives the
process that the testbed plays: ``crash`` ends that process, and the next one reads the log back.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, overload

import msgspec
from typing_extensions import TypeVar

from steplog.app import App
from steplog.drivers.config import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.durations import Duration, epoch_ms, milliseconds
from steplog.engine import records
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EventTrigger
from steplog.engine.ids import encode_ulid, hash16, run_id, ulid
from steplog.engine.messages import EventAccepted
from steplog.event import Event
from steplog.functions import Function
from steplog.node import functions_of
from steplog.outgoing import outgoing_events
from steplog.shells.inline import VirtualClock
from steplog.testing.errors import NotTriggered, UnusedStubs
from steplog.testing.process import Options, Process
from steplog.testing.stubs import Stubs
from steplog.testing.views import Journal, Produced, RunView

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 5.0  # that bodies and code outside of steps may really take
SOURCE = "test"  # of the events that the test sends
_plain = msgspec.json.decode

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
        self._clock = VirtualClock(epoch_ms(start))
        options = Options(auto_retry=auto_retry, reenter=force_reentry, patience_s=patience_s)
        self._process = Process(self._clock, options)
        self._process.functions = functions_of(apps)
        self._journal = Journal(self._process.log)
        self._sent = 0

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
        await self._process.end()
        unused = [sentence for stubs in self._process.stubs.values() for sentence in stubs.unused()]
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
        self._add(function)
        accepted = self._accept([event if isinstance(event, Event) else _event_for(function, event)])
        message = accepted[0]
        run = encode_ulid(run_id(message.received_ms, message.slot, DEFAULT_ENV, function.id, message.internal_id))
        if step_stubs:
            self._process.stubs[run] = Stubs(function.id, step_stubs)
        await self._process.post([*accepted])
        routed = self._journal.routed(message.internal_text)
        if run not in [each.run for each in routed.runs]:
            self._process.stubs.pop(run, None)
            raise NotTriggered(_why_not(function, routed))
        return self._view(run)

    async def send(self, events: Event[Any] | list[Event[Any]]) -> list[str]:
        """Send events, as a program does; returns their ids."""
        accepted = self._accept(events if isinstance(events, list) else [events])
        await self._process.post([*accepted])
        return [message.internal_text for message in accepted]

    async def advance(self, duration: Duration) -> None:
        """Let time pass, from timer to timer; whatever comes due on the way happens at its time."""
        process = self._process
        await process.settle()
        until_ms = self._clock.now_ms() + milliseconds(duration)
        while (due_ms := process.next_due_ms()) is not None and due_ms <= until_ms:
            self._clock.move_to(due_ms)
            await process.settle()
        self._clock.move_to(until_ms)
        await process.settle()

    async def crash(self) -> None:
        """Kill the process, bodies included, and start the next one: all that it knows comes from the log."""
        await self._process.crash()
        await self._process.settle()

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

    def produced(self, topic: str) -> list[Produced]:
        """The records that functions wrote to a topic with ``step.produce``, in the order of their commits."""
        return [Produced.of(record) for record in self._process.log.produced if record.topic == topic]

    @property
    def reenter(self) -> bool:
        """Whether every result comes by a replay. Setting it later starts the process anew, in order."""
        return self._process.options.reenter

    @reenter.setter
    def reenter(self, is_forced: bool) -> None:
        self._process.options = msgspec.structs.replace(self._process.options, reenter=is_forced)

    # --- inside

    def _add(self, function: Function[Any, Any]) -> None:
        """Make a function known, and the others of its app, which it may invoke or which handle its failure."""
        known = self._process.functions
        if known.get(function.id) is not function:
            for found in [{function.id: function}, *(app.functions for app in _apps_of(function))]:
                known = known | found
            self._process.functions = known

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

    def _view(self, run: str) -> RunView[Any]:
        function = self._process.functions.get(self._journal.run(run).function)
        return RunView(self._journal, run, function, self._process.settle)


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
