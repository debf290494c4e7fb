"""A node: the users' loop with its functions, and the engine, wired together.

Functions run on the users' loop, which is the caller's; deciding, committing and serving run elsewhere (``shells/``),
so a function that blocks stalls neither commits nor timers nor answers. Only batches cross, and no rule is here.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from steplog.app import App
from steplog.drivers.config import LocalConfig
from steplog.drivers.live_run import LiveRun, now_ms
from steplog.drivers.local import LocalDriver
from steplog.drivers.loop import UsersLoop
from steplog.engine import keys
from steplog.engine.effects import Answer, Effect, RunEnded
from steplog.engine.events import INVOKED_EVENT, accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, Registry
from steplog.engine.ids import encode_ulid, run_id, ulid
from steplog.engine.messages import EventAccepted, Message, RetryNow
from steplog.engine.operations import EventOut
from steplog.entropy import Entropy
from steplog.errors import ConfigInvalid, EventInvalid, LogUnavailable, NotFound, Overloaded
from steplog.event import Event
from steplog.event_types import EventTypes
from steplog.functions import Function
from steplog.outgoing import outgoing_data, outgoing_event
from steplog.shells.thread import ThreadEngine
from steplog.turns import MOST_WAITING, Log

DRAIN_S = 10.0
STOP_S = 15.0
FLUSH_PASSES = 5  # of a busy users' loop that messages gather for: crossing costs more than waiting
MOST_TOGETHER = 128  # messages; the engine decides these while more come


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a node runs."""

    engine: EngineConfig = EngineConfig()
    local: LocalConfig = LocalConfig()
    refuses_misfits: bool = False  # events that are sent here, whose data do not fit their type
    drain_s: float = DRAIN_S  # how long bodies may go on after a stop


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: ``output`` of a completed one, ``error`` (its message) of a failed one."""

    run_id: str
    status: str
    output: Any = None
    error: str | None = None


class Engine(Protocol):
    """The engine, wherever it lives (shells/). Its callbacks come on the users' loop."""

    async def open(
        self, users: UsersLoop, receive: Callable[[list[Effect]], None], lost: Callable[[LogUnavailable], None]
    ) -> None: ...

    @property
    def is_available(self) -> bool: ...

    @property
    def record_bytes(self) -> int | None:
        """The largest record that the log takes, once it is open; None: any size."""

    def post(self, batch: list[Message]) -> None: ...

    async def are_open(self, run_keys: list[bytes]) -> list[bool]: ...

    def stop(self) -> None: ...

    async def closed(self) -> None: ...


def functions_of(apps: Iterable[App]) -> dict[str, Function[Any, Any]]:
    """Collect the functions of some apps by id. Raises ``ConfigInvalid`` where two have one id."""
    functions: dict[str, Function[Any, Any]] = {}
    for app in apps:
        twice = functions.keys() & app.functions.keys()
        if twice:
            raise ConfigInvalid("apps", [f"two functions have the id {name!r}" for name in sorted(twice)])
        functions.update(app.functions)
    return functions


class Node:
    """The functions of some apps, carried out for an engine: an async context manager on a ``UsersLoop``."""

    def __init__(
        self, apps: Iterable[App], engine: "Engine | Callable[[], Log]", config: NodeConfig = NodeConfig(), *,
        clock: Callable[[], int] = now_ms,
    ) -> None:  # fmt: skip
        """``engine`` is where the engine lives; a function that opens a log stands for a thread of this process.

        ``clock`` is the time of events that are sent here and of the driver, in ms.
        """
        apps = list(apps)
        self.functions = functions_of(apps)
        self._types = EventTypes(apps) if config.refuses_misfits else None
        self._registry = Registry(function.spec for function in self.functions.values())
        self._engine: Engine = ThreadEngine(engine, self._registry, config.engine) if callable(engine) else engine
        self._config, self._clock = config, clock
        self._loop: UsersLoop
        self._driver: LocalDriver
        self._outbox: list[Message] = []
        self._passes = 0  # that the outbox has waited for
        self._no_context = contextvars.Context()  # callbacks of ours belong to no run
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._ends: dict[bytes, asyncio.Future[Ended]] = {}
        self._last_ticket = 0
        self._entropy = Entropy()
        self.drain_s = config.drain_s  # until it stops, this may change

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, UsersLoop):
            raise TypeError("a node needs a UsersLoop: asyncio.Runner(loop_factory=UsersLoop)")
        self._loop = loop
        self._driver = LocalDriver(loop, self.functions, self._post, self._config.local, self._clock)
        await self._engine.open(loop, self._receive, self._lose)
        self._driver.fit(self._engine.record_bytes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._driver.drain(self.drain_s)
        self._passes = FLUSH_PASSES
        self._flush()
        self._engine.stop()
        async with asyncio.timeout(STOP_S):
            await self._engine.closed()

    @property
    def executing(self) -> int:
        """How many step bodies run."""
        return self._driver.executing

    @property
    def busy(self) -> list[LiveRun]:
        """The live runs that do something else than wait."""
        return self._driver.busy

    async def failed(self) -> None:
        """Return, or raise, when the engine ends by itself."""
        await self._engine.closed()

    # --- for programs in this process

    async def send(self, events: Event[Any] | Sequence[Event[Any]]) -> list[str]:
        """Accept events; returns their ids once they are durable.

        Raises ``EventInvalid`` or ``EventTooLarge`` for one that breaks a rule (nothing is accepted), ``Overloaded`` or
        ``LogUnavailable``.
        """
        accepted = self._accept([events] if isinstance(events, Event) else events)
        await self._submit(accepted)
        return [encode_ulid(event.internal_id) for event in accepted]

    async def run(self, event: Event[Any]) -> list[Ended]:
        """Send an event and wait for the end of every run that it starts."""
        (message,) = self._accept([event])
        return await self._follow(message, [spec.id for spec in self._registry.started_by(message)])

    async def invoke(self, function: str, data: object) -> Ended:
        """Start one function by its id, whatever triggers it, and wait for the end of its run (SYS-05).

        Raises ``NotFound`` for a function that is not this node's, ``EventInvalid`` for data that is no object.
        """
        if function not in self.functions:
            raise NotFound(f"there is no function {function!r}; its id is <app>-<function>")
        accepted_ms = self._clock()
        message = accept_event(
            EventOut(name=INVOKED_EVENT, data=outgoing_data(data, f"a call of {function}")),
            ulid(accepted_ms, self._entropy.take()), env=DEFAULT_ENV, received_ms=accepted_ms, source="process",
            starts=function,
        )  # fmt: skip
        self._check_types([message])
        (ended,) = await self._follow(message, [function])
        return ended

    def retry_now(self) -> None:
        """Let every step and run that waits for its next attempt have it at once."""
        self._post(RetryNow(env=DEFAULT_ENV))

    async def _follow(self, message: EventAccepted, functions: Sequence[str]) -> list[Ended]:
        """Accept an event and wait for the end of the runs of those functions, which it starts."""
        waiting: dict[bytes, asyncio.Future[Ended]] = {}
        for function in functions:
            run = run_id(message.received_ms, message.slot, DEFAULT_ENV, function, message.internal_id)
            waiting[keys.run(DEFAULT_ENV, run)] = self._loop.create_future()
        self._ends.update(waiting)
        if waiting and not message.is_repeatable:  # the end of its run says that it was accepted
            self._check_room()
            self._post(message)
        else:
            await self._submit([message])
            is_open = await self._engine.are_open(list(waiting)) if waiting else []
            for key, open_ in zip(waiting, is_open, strict=True):
                if not open_ and not waiting[key].done():  # a duplicate: nothing started
                    self._ends.pop(key).cancel()
        return [await end for end in waiting.values() if not end.cancelled()]

    def _accept(self, events: Sequence[Event[Any]]) -> list[EventAccepted]:
        accepted_ms, limit, entropy = self._clock(), self._config.local.event_bytes, self._entropy
        last = len(events) - 1
        accepted = [
            accept_event(
                event, ulid(accepted_ms, entropy.take()), env=DEFAULT_ENV, received_ms=accepted_ms, source="process",
                is_last=index == last,
            )
            for index, event in enumerate([outgoing_event(event, limit) for event in events])
        ]  # fmt: skip
        self._check_types(accepted)
        return accepted

    def _check_types(self, events: Sequence[EventAccepted]) -> None:
        misfit = None if self._types is None else self._types.misfit(events)
        if misfit is not None:
            raise EventInvalid(f"event {events[misfit.index].name}: {misfit.problem}")

    async def _submit(self, events: list[EventAccepted]) -> None:
        if not events:
            return
        self._check_room()
        self._last_ticket -= 1  # those of the node's loop are positive
        answer: asyncio.Future[None] = self._loop.create_future()
        self._answers[self._last_ticket] = answer
        events[-1] = msgspec.structs.replace(events[-1], ticket=self._last_ticket)
        for event in events:
            self._post(event)
        await answer

    def _check_room(self) -> None:
        waiting = len(self._answers) + len(self._ends)
        if waiting > MOST_WAITING:
            raise Overloaded(f"{waiting} answers are waited for; send again later")
        if not self._engine.is_available:
            raise LogUnavailable("the log cannot be written at the moment; nothing was accepted")

    # --- between the loops

    def _post(self, message: Message) -> None:
        """Send a message to the engine; those of a few passes of a busy loop cross together."""
        if not self._outbox:
            self._loop.call_soon(self._flush, context=self._no_context)
        self._outbox.append(message)
        if len(self._outbox) >= MOST_TOGETHER:
            self._send()

    def _flush(self) -> None:
        if self._loop.busy > len(self._outbox) and self._passes < FLUSH_PASSES:
            self._passes += 1
            self._loop.call_soon(self._flush, context=self._no_context)
            return
        self._send()

    def _send(self) -> None:
        self._passes = 0
        if self._outbox:
            batch, self._outbox = self._outbox, []
            self._engine.post(batch)

    def _receive(self, effects: list[Effect]) -> None:
        """Tell programs in this process what they wait for, and the driver what to do."""
        for effect in effects:
            if isinstance(effect, RunEnded):
                end = self._ends.pop(effect.run, None)
                if end is not None and not end.done():
                    end.set_result(_ended(effect))
            elif isinstance(effect, Answer):
                answer = self._answers.pop(effect.ticket, None)
                if answer is not None and not answer.done():
                    answer.set_result(None)
        self._driver.handle(effects)

    def _lose(self, error: LogUnavailable) -> None:
        """The engine's memory was dropped: nobody answers what was asked of it."""
        self._outbox.clear()
        waiting: list[asyncio.Future[Any]] = [*self._answers.values(), *self._ends.values()]
        self._answers, self._ends = {}, {}
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._driver.abandon()


def _ended(effect: RunEnded) -> Ended:
    output = msgspec.json.decode(effect.output) if effect.output is not None else None
    return Ended(
        run_id=effect.run_id, status=effect.status, output=output,
        error=effect.error.message if effect.error is not None else None,
    )  # fmt: skip
