"""The server over HTTP on a loopback port, with a node's turns over a real log behind it, in a thread of its own."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop

from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, FunctionSpec, Registry
from steplog.engine.messages import EventAccepted
from steplog.errors import LogUnavailable
from steplog.history.position import Position
from steplog.history.projector import Projector
from steplog.history.queries import History
from steplog.log.memory import MemoryLog
from steplog.log.sqlite import SqliteLog
from steplog.paths import file_url, history_path
from steplog.server.app import Application
from steplog.server.config import DEV_EVENT_BYTES, ServerConfig
from steplog.server.listen import serve
from steplog.server.sockets import bind
from steplog.server.validation import Check, Misfit, nothing_to_say
from steplog.turns import Log, Turns

from .history_log import open_history, open_projector

T = TypeVar("T")
DEV = ServerConfig(is_dev=True, event_size_bytes=DEV_EVENT_BYTES)
READY_S = 10


class Reply(msgspec.Struct, frozen=True):
    """A response that was read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Served:
    """What tests do with a server. What is behind it may be touched on its loop alone: see ``call``."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port, self._loop = port, loop

    def request(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None,
        connection: http.client.HTTPConnection | None = None, host: str = "127.0.0.1",
    ) -> Reply:  # fmt: skip
        """Send a request; a body that is neither text nor bytes is sent as JSON, an iterator of bytes in chunks."""
        if connection is None:
            with closing(http.client.HTTPConnection(host, self.port, timeout=READY_S)) as own:
                return self.request(method, path, body, headers=headers, connection=own)
        if not isinstance(body, bytes | str | Iterator | None):
            body = json.dumps(body)
        connection.request(method, path, body, dict(headers or {}), encode_chunked=isinstance(body, Iterator))
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def send(self, body: Any, **options: Any) -> Reply:
        return self.request("POST", "/e/key", body, **options)

    def call(self, function: Callable[[], T]) -> T:
        """Call on the server's loop."""
        result: Future[T] = Future()

        def called() -> None:
            try:
                result.set_result(function())
            except Exception as error:  # noqa: BLE001 - for the caller
                result.set_exception(error)

        self._loop.call_soon_threadsafe(called)
        return result.result(READY_S)


class TurnsBackend:
    """The server's backend over turns. ``fail_with`` makes every send fail, as an overloaded node does.

    ``check`` says at once what the functions say of types; ``asked`` has what was asked. ``is_away``: nobody answers.

    The history, if there is one, is projected when it is read, unless ``is_behind``.
    """

    def __init__(self, turns: Turns, log_path: Path | None, history: str | None) -> None:
        self.turns = turns
        self.fail_with: Exception | None = None
        self.is_behind = False
        self.check: Check = nothing_to_say
        self.asked: list[list[EventAccepted]] = []
        self.is_away = False
        self._projector: Projector | None = None
        if log_path is not None:
            address = history or file_url(history_path(log_path))
            self._projector = open_projector(log_path, address)
            self._history = open_history(address)
        self.groups: list[list[EventAccepted]] = []

    def now_ms(self) -> int:
        return self.turns.now_ms()

    async def submit(self, events: list[EventAccepted]) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.groups.append(events)
        await self.turns.submit(events)

    def ask(self, events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        self.asked.append(events)
        answer: asyncio.Future[Misfit | None] = asyncio.get_running_loop().create_future()
        if not self.is_away:
            answer.set_result(self.check(events))
        return answer

    def problem(self) -> str | None:
        return self.turns.problem

    async def signal(self, name: str, data: bytes, *, is_forwarded: bool) -> str | None:
        return await self.turns.signal(name, data)

    def is_function(self, function: str) -> bool:
        return self.turns.is_function(function)

    def position(self) -> Position:
        return Position.commit(self.turns.position)

    async def wait_ended(self, run_id: str, timeout_s: float) -> None:
        await self.turns.wait_ended(run_id, timeout_s)

    async def read(self, query: Callable[[History], T], *, at_least: Position) -> tuple[T, bool]:
        return await asyncio.to_thread(self._read, query, at_least)

    def _read(self, query: Callable[[History], T], at_least: Position) -> tuple[T, bool]:
        if self._projector is None:
            raise LogUnavailable("no history here")
        if not self.is_behind:
            self._projector.catch_up()
        return query(self._history), not self._history.position().covers(at_least)

    def close(self) -> None:
        if self._projector is not None:
            self._history.close()
            self._projector.close()


@contextmanager
def served(
    config: ServerConfig = DEV, functions: tuple[FunctionSpec, ...] = (), log: Callable[[], Log] = MemoryLog,
    log_path: Path | None = None, history: str | None = None,
    deliver: Callable[[list[Effect]], None] = lambda _: None,
) -> Iterator[tuple[Served, TurnsBackend]]:  # fmt: skip
    """Serve until the block ends. ``deliver`` gets the committed effects, on the server's loop.

    With ``log_path`` the log is that file, and has a history, at that address or beside it.
    """
    ready: Future[tuple[Served, TurnsBackend]] = Future()
    stop = asyncio.Event()

    async def main() -> None:
        opened = log() if log_path is None else SqliteLog(log_path)
        turns = Turns(opened, Registry(functions), EngineConfig(), deliver=deliver, on_lost=lambda _: None)
        await turns.open()
        backend = TurnsBackend(turns, log_path, history)
        app = Application(backend, config)
        sockets = bind(0)
        async with asyncio.TaskGroup() as tasks:
            deciding = tasks.create_task(turns.run())
            async with serve(app, sockets, on_stop=app.stop):
                ready.set_result((Served(sockets[0].getsockname()[1], asyncio.get_running_loop()), backend))
                await stop.wait()
            deciding.cancel()
        await turns.finish()
        backend.close()

    def thread() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    running = threading.Thread(target=thread)
    running.start()
    try:
        one, backend = ready.result(READY_S)
        yield one, backend
    finally:
        if ready.done() and ready.exception() is None:
            ready.result()[0].call(stop.set)
        running.join(READY_S)
        assert not running.is_alive(), "the server did not stop"
