"""A node: the users' loop, the node's loop, the log, the engine and the driver, wired together.

Two loops in two threads. Functions run on the users' loop, which is the caller's; deciding, committing and serving run
on the node's, so a function that blocks stalls neither commits nor timers nor answers. Only batches cross. No rule of
the engine lives here.
"""

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future as ThreadFuture
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from steplog.app import App
from steplog.drivers.local import LocalConfig, LocalDriver
from steplog.drivers.loop import UsersLoop
from steplog.drivers.outgoing import outgoing_event
from steplog.drivers.watchdog import watch
from steplog.engine import keys
from steplog.engine.effects import Answer, Effect, RunEnded
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, Registry
from steplog.engine.ids import encode_ulid, run_id, ulid
from steplog.engine.messages import EventAccepted, Message
from steplog.errors import ConfigInvalid, LogUnavailable, Overloaded
from steplog.event import Event
from steplog.functions import Function
from steplog.turns import MOST_WAITING, Log, Turns

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
STOP_S = 15.0
FLUSH_PASSES = 5  # of a busy users' loop that messages gather for: crossing costs more than waiting
T = TypeVar("T")
Service = Callable[[Turns], Coroutine[Any, Any, None]]


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a node runs."""

    engine: EngineConfig = EngineConfig()
    local: LocalConfig = LocalConfig()
    drain_s: float = DRAIN_S  # how long bodies may go on after a stop


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: ``output`` of a completed one, ``error`` (its message) of a failed one."""

    run_id: str
    status: str
    output: Any = None
    error: str | None = None


class Node:
    """One process of steplog: an async context manager on a ``UsersLoop``.

    ``services`` run on the node's loop until the node stops, as the HTTP server does; each gets the ``Turns``.
    """

    def __init__(
        self, apps: Iterable[App], open_log: Callable[[], Log], config: NodeConfig = NodeConfig(),
        services: Sequence[Service] = (),
    ) -> None:  # fmt: skip
        self.functions: dict[str, Function[Any, Any]] = {}
        for app in apps:
            twice = self.functions.keys() & app.functions.keys()
            if twice:
                raise ConfigInvalid("apps", [f"two functions have the id {name!r}" for name in sorted(twice)])
            self.functions.update(app.functions)
        self._registry = Registry(function.spec for function in self.functions.values())
        self._open_log, self._config, self._services = open_log, config, services
        self._loop: UsersLoop
        self._node_loop: asyncio.AbstractEventLoop
        self._turns: Turns
        self._driver: LocalDriver
        self._stop: asyncio.Event
        self._closed: ThreadFuture[None] = ThreadFuture()
        self._outbox: list[Message] = []
        self._passes = 0  # that the outbox has waited for
        self._no_context = contextvars.Context()  # callbacks of ours belong to no run
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._ends: dict[bytes, asyncio.Future[Ended]] = {}
        self._last_ticket = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, UsersLoop):
            raise TypeError("a node needs a UsersLoop: asyncio.Runner(loop_factory=UsersLoop)")
        self._loop = loop
        self._users_thread = threading.current_thread()
        self._driver = LocalDriver(loop, self.functions, self._post, self._config.local)
        opened: ThreadFuture[None] = ThreadFuture()
        thread = threading.Thread(target=self._node_thread, args=(opened,), name="steplog-node", daemon=True)
        thread.start()
        await asyncio.wrap_future(opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._driver.drain(self._config.drain_s)
        if not self._closed.done():
            self._passes = FLUSH_PASSES
            self._flush()
            self._node_loop.call_soon_threadsafe(self._stop.set)
        await asyncio.wait_for(asyncio.wrap_future(self._closed), STOP_S)

    @property
    def executing(self) -> int:
        """How many step bodies run."""
        return self._driver.executing

    async def failed(self) -> None:
        """Return, or raise, when the node's thread ends by itself."""
        await asyncio.wrap_future(self._closed)

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
        waiting: dict[bytes, asyncio.Future[Ended]] = {}
        for spec in self._registry.triggered_by(message.name):
            run = run_id(message.received_ms, message.slot, DEFAULT_ENV, spec.id, message.internal_id)
            waiting[keys.run(DEFAULT_ENV, run)] = self._loop.create_future()
        self._ends.update(waiting)
        if waiting and not message.is_repeatable:  # the end of its run says that it was accepted
            self._check_room()
            self._post(message)
        else:
            await self._submit([message])
            is_open = self._turns.are_open(list(waiting))
            for key, open_ in zip(waiting, await self._on_node_loop(is_open), strict=True):
                if not open_ and not waiting[key].done():  # a duplicate: nothing started
                    self._ends.pop(key).cancel()
        return [await end for end in waiting.values() if not end.cancelled()]

    def _accept(self, events: Sequence[Event[Any]]) -> list[EventAccepted]:
        now_ms = self._driver.now_ms()
        limit = self._config.local.event_bytes
        last = len(events) - 1
        return [
            accept_event(
                event, ulid(now_ms, os.urandom(10)), env=DEFAULT_ENV, received_ms=now_ms, source="process",
                is_last=index == last,
            )
            for index, event in enumerate([outgoing_event(event, limit) for event in events])
        ]  # fmt: skip

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

    async def _on_node_loop(self, question: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, self._node_loop))

    def _check_room(self) -> None:
        if self._turns.waiting > MOST_WAITING:
            raise Overloaded(f"{self._turns.waiting} messages wait; send again later")
        if not self._turns.is_available:
            raise LogUnavailable("the log cannot be written at the moment; nothing was accepted")

    # --- between the loops

    def _post(self, message: Message) -> None:
        """Send a message to the engine; those of a few passes of a busy loop cross together."""
        if not self._outbox:
            self._loop.call_soon(self._flush, context=self._no_context)
        self._outbox.append(message)

    def _flush(self) -> None:
        if self._loop.busy > len(self._outbox) and self._passes < FLUSH_PASSES:
            self._passes += 1
            self._loop.call_soon(self._flush, context=self._no_context)
            return
        self._passes = 0
        if self._outbox:
            batch, self._outbox = self._outbox, []
            self._node_loop.call_soon_threadsafe(self._turns.post, batch)

    def _deliver(self, effects: list[Effect]) -> None:
        """Called on the node's loop."""
        self._loop.call_soon_threadsafe(self._receive, effects)

    def _receive(self, effects: list[Effect]) -> None:
        self._driver.handle([effect for effect in effects if not self._is_ours(effect)])

    def _is_ours(self, effect: Effect) -> bool:
        """Tell programs in this process what they wait for; whether that is all that the effect is for."""
        if isinstance(effect, Answer):
            answer = self._answers.pop(effect.ticket, None)
            if answer is not None and not answer.done():
                answer.set_result(None)
            return True
        if isinstance(effect, RunEnded):
            end = self._ends.pop(effect.run, None)
            if end is not None and not end.done():
                end.set_result(_ended(effect))
        return False

    def _lost(self, error: LogUnavailable) -> None:
        """Called on the node's loop: the engine's memory was dropped."""
        self._loop.call_soon_threadsafe(self._forget_all, error)

    def _forget_all(self, error: LogUnavailable) -> None:
        self._outbox.clear()
        waiting: list[asyncio.Future[Any]] = [*self._answers.values(), *self._ends.values()]
        self._answers, self._ends = {}, {}
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._driver.abandon()

    # --- the node's thread

    def _node_thread(self, opened: "ThreadFuture[None]") -> None:
        try:
            with asyncio.Runner(loop_factory=_node_loop_factory()) as runner:
                runner.run(self._node_main(opened))
        except BaseException as caught:  # noqa: BLE001 - the top of a thread: who waits for it gets the error
            error = _only(caught)
            if not opened.done():
                opened.set_exception(error)
            else:
                self._closed.set_exception(error)
        else:
            self._closed.set_result(None)

    async def _node_main(self, opened: "ThreadFuture[None]") -> None:
        self._node_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        log = self._open_log()
        self._turns = Turns(log, self._registry, self._config.engine, deliver=self._deliver, on_lost=self._lost)
        try:
            await self._turns.open()
        except BaseException:
            log.close()
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                turns = tasks.create_task(self._turns.run())
                watching = tasks.create_task(watch(self._loop, self._users_thread))
                services = [tasks.create_task(service(self._turns)) for service in self._services]
                opened.set_result(None)
                await self._stop.wait()
                for service in services:
                    service.cancel()
                if services:  # they may wait for answers, which the turns give
                    await asyncio.wait(services)
                turns.cancel()
                watching.cancel()
        finally:
            await self._turns.finish()


def _only(error: BaseException) -> BaseException:
    """The one error in a group, or the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _ended(effect: RunEnded) -> Ended:
    output = msgspec.json.decode(effect.output) if effect.output is not None else None
    return Ended(
        run_id=effect.run_id, status=effect.status, output=output,
        error=effect.error.message if effect.error is not None else None,
    )  # fmt: skip


def _node_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.new_event_loop
    return uvloop.new_event_loop
