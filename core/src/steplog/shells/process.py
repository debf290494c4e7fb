"""The engine in a process of its own: functions that compute, or hold the GIL, cannot slow it, nor it them."""

import asyncio
import contextvars
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from steplog.config.connectors import Connector
from steplog.drivers.loop import UsersLoop
from steplog.drivers.watchdog import Watchdog
from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, FunctionSpec
from steplog.engine.messages import Message
from steplog.errors import EngineEnded, LogUnavailable, SteplogError, error_of
from steplog.member import ClusterConfig
from steplog.server.config import ServerConfig
from steplog.server.validation import Check, nothing_to_say
from steplog.shells.frames import (
    AnswerFit,
    AnswerOpen,
    AskFit,
    AskOpen,
    Available,
    Down,
    Ended,
    Failed,
    FrameStream,
    Open,
    Opened,
    Post,
    Release,
    Serving,
    Stop,
    Unavailable,
    Up,
    decode_up,
)
from steplog.shells.spawn import start_engine

END_S = 10.0
WATCH_S = 0.000_4  # a commit, most of the time; to be woken takes half as long again as a short step


class ProcessEngine:
    """Turns over a log, with HTTP and history, in a child process.

    The child ends at once when this process dies: the connection between them tells it. ``connection`` leads to an
    engine's process that is another's child (shells/spawn.py), with ``sockets`` as that one has inherited them.
    ``check`` is asked about events where ``server`` has types; ``connectors`` run beside it. ``history`` is an address.
    """

    def __init__(
        self, functions: Sequence[FunctionSpec], config: EngineConfig, *, log_path: Path = Path(),
        cluster: ClusterConfig | None = None, history: str | None = None, server: ServerConfig | None = None,
        connectors: Mapping[str, Connector] = MappingProxyType({}),
        sockets: "Sequence[socket.socket] | Sequence[int]" = (), on_serving: Callable[[], None] = lambda: None,
        connection: socket.socket | None = None, check: Check = nothing_to_say,
    ) -> None:  # fmt: skip
        self._sockets = [sock for sock in sockets if isinstance(sock, socket.socket)]
        self._open_frame = Open(
            log_path=str(log_path), history=history, functions=list(functions), config=config, server=server,
            cluster=cluster, connectors=dict(connectors),
            sockets=[sock if isinstance(sock, int) else sock.fileno() for sock in sockets],
        )  # fmt: skip
        self._connection, self._on_serving, self._check = connection, on_serving, check
        self._questions: dict[int, asyncio.Future[list[bool]]] = {}
        self._numbers = itertools.count(1)
        self._stream: FrameStream[Up]
        self._process: subprocess.Popen[bytes] | None = None  # None: another's child
        self._opened: asyncio.Future[None]
        self._closed: asyncio.Future[None]
        self._is_closing = False
        self._watches_until_s = 0.0  # no later than this does it look for the answer to the last message
        self._is_watching = False
        self._no_context = contextvars.Context()
        self.is_available = True
        self.record_bytes: int | None = None

    async def open(
        self, users: UsersLoop, receive: Callable[[list[Effect]], None], lost: Callable[[LogUnavailable], None]
    ) -> None:
        self._users, self._receive_effects, self._lost = users, receive, lost
        self._opened, self._closed = users.create_future(), users.create_future()
        connection = self._connection
        if connection is None:
            self._process, connection = start_engine(self._sockets, serves=self._open_frame.server is not None)
            for sock in self._sockets:  # the child's now
                sock.close()
        _, self._stream = await users.create_connection(
            lambda: FrameStream(decode_up, self._receive, self._lost_child), sock=connection
        )
        self.send(self._open_frame)
        try:
            await self._opened
        except BaseException:
            self._end()
            raise
        self._watchdog = Watchdog(users, threading.current_thread())

    @property
    def pid(self) -> int:
        """The engine's process, which this one has started."""
        assert self._process is not None, "it is another's child"
        return self._process.pid

    def send(self, frame: Down) -> None:
        if not self._is_closing:
            self._stream.send(frame)

    def post(self, batch: list[Message]) -> None:
        self.send(Post(batch))
        if len(batch) == 1:
            self._watches_until_s = time.perf_counter() + WATCH_S
            if not self._is_watching:
                self._is_watching = True
                self._watch()

    def _watch(self) -> None:
        """Keep the loop from sleeping until the engine has answered, for a moment."""
        if time.perf_counter() < self._watches_until_s:
            self._users.call_soon(self._watch, context=self._no_context)
        else:
            self._is_watching = False

    async def are_open(self, run_keys: list[bytes]) -> list[bool]:
        number = next(self._numbers)
        answer: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self.send(AskOpen(number, run_keys))
        return await answer

    def stop(self) -> None:
        if not self._closed.done():
            self._watchdog.stop()
            self.send(Stop())

    async def closed(self) -> None:
        await asyncio.shield(self._closed)

    def _receive(self, frame: Up) -> None:
        match frame:
            case Release(effects=effects):
                self._watches_until_s = 0
                self._receive_effects(effects)
            case AnswerOpen(question=question, is_open=is_open):
                answer = self._questions.pop(question)
                if not answer.done():
                    answer.set_result(is_open)
            case AskFit(question=question, events=events):
                self.send(AnswerFit(question, self._check(events)))
            case Opened(record_bytes=record_bytes):
                self.record_bytes = record_bytes
                self._opened.set_result(None)
            case Serving():
                self._on_serving()
            case Unavailable(reason=reason):
                self.is_available = False
                self._lost(LogUnavailable(reason))
            case Available():
                self.is_available = True
            case Failed(code=code, text=text):
                self._fail(error_of(code, text))
            case Ended():
                self._is_closing = True

    def _lost_child(self) -> None:
        """The connection has ended: the child has, or is about to."""
        if self._is_closing:
            self._end()
            if not self._closed.done():
                self._closed.set_result(None)
        else:
            self._fail(EngineEnded("the engine's process ended; start again, what is open goes on"))

    def _fail(self, error: SteplogError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
        elif not self._closed.done():
            self._closed.set_exception(error)
            self._closed.exception()  # who waits for it is told; nobody has to
            self.is_available = False
            self._lost(LogUnavailable(str(error)))
        self._is_closing = True
        self._end()

    def _end(self) -> None:
        self._stream.close()
        if self._process is None:
            return
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
