"""The engine in a thread of this process: for embedding, for tests, and for logs that are no file."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture

from steplog.drivers.loop import UsersLoop
from steplog.drivers.watchdog import Watchdog
from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.messages import EventAccepted, Message
from steplog.errors import LogUnavailable
from steplog.server.validation import Check, Misfit, nothing_to_say
from steplog.shells.engine import Service, engine_loop, only, run_engine
from steplog.turns import Log, Turns


class ThreadEngine:
    """Turns over a log, in a thread with a loop of its own. Only batches cross.

    ``check`` is asked about events where a service has types.
    """

    record_bytes = None  # any size

    def __init__(
        self, open_log: Callable[[], Log], registry: Registry, config: EngineConfig,
        services: Sequence[Service] = (), *, check: Check = nothing_to_say,
    ) -> None:  # fmt: skip
        self._open_log, self._registry, self._config, self._services = open_log, registry, config, services
        self._check = check
        self._users: UsersLoop
        self._loop: asyncio.AbstractEventLoop
        self._turns: Turns
        self._stop: asyncio.Event
        self._closed: ThreadFuture[None] = ThreadFuture()

    async def open(
        self, users: UsersLoop, receive: Callable[[list[Effect]], None], lost: Callable[[LogUnavailable], None]
    ) -> None:
        self._users, self._users_thread = users, threading.current_thread()
        self._receive, self._lost = receive, lost
        opened: ThreadFuture[None] = ThreadFuture()
        threading.Thread(target=self._run, args=(opened,), name="steplog-engine", daemon=True).start()
        await asyncio.wrap_future(opened)

    @property
    def is_available(self) -> bool:
        return self._turns.is_available

    def post(self, batch: list[Message]) -> None:
        self._loop.call_soon_threadsafe(self._turns.post, batch)

    async def are_open(self, run_keys: list[bytes]) -> list[bool]:
        question = asyncio.run_coroutine_threadsafe(self._turns.are_open(run_keys), self._loop)
        return await asyncio.wrap_future(question)

    def stop(self) -> None:
        if not self._closed.done():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def closed(self) -> None:
        await asyncio.wrap_future(self._closed)

    def _run(self, opened: "ThreadFuture[None]") -> None:
        try:
            with asyncio.Runner(loop_factory=engine_loop) as runner:
                runner.run(self._main(opened))
        except BaseException as caught:  # noqa: BLE001 - the top of a thread: who waits for it gets the error
            error = only(caught)
            if not opened.done():
                opened.set_exception(error)
            else:
                self._closed.set_exception(error)
        else:
            self._closed.set_result(None)

    async def _main(self, opened: "ThreadFuture[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._turns = Turns(
            self._open_log(), self._registry, self._config, deliver=self._deliver, on_lost=self._tell_lost
        )
        watchdog = Watchdog(self._users, self._users_thread)
        try:
            await run_engine(
                self._turns, self._services, ask=self._ask, on_open=lambda: opened.set_result(None), stop=self._stop
            )  # fmt: skip
        finally:
            watchdog.stop()

    def _deliver(self, effects: list[Effect]) -> None:
        self._users.call_soon_threadsafe(self._receive, effects)

    def _ask(self, events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        answer: ThreadFuture[Misfit | None] = ThreadFuture()
        self._users.call_soon_threadsafe(lambda: answer.set_result(self._check(events)))
        return asyncio.wrap_future(answer)

    def _tell_lost(self, error: LogUnavailable) -> None:
        self._users.call_soon_threadsafe(self._lost, error)
