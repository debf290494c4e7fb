"""The engine's process: ``python -m steplog.shells.child FD [serve]``, started by ``shells/spawn.py`` alone.

It ends in order when its functions' process says so, or, where that one cannot, at SIGUSR1.
"""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from steplog.diagnostics import log_to_stderr, wants_json
from steplog.engine.effects import Effect
from steplog.engine.functions import Registry
from steplog.engine.messages import EventAccepted
from steplog.errors import LogLocked, LogUnavailable, SteplogError
from steplog.history.process import HistoryProcess
from steplog.log.sqlite import SqliteLog
from steplog.log.wal import WalWatch
from steplog.member import ClusterConfig, Member
from steplog.paths import file_url
from steplog.server.validation import Misfit
from steplog.shells.engine import Deciding, Service, engine_loop, only, run_engine
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
    decode_down,
)
from steplog.tuning import tune_process
from steplog.turns import Turns

WATCH_S = 0.000_15  # a step without I/O answers within it; to be woken takes half as long again
LOCK_S = 2.0  # an engine whose functions were killed needs a moment to notice, and gives the lock back


class Child:
    """The end of the connection that the engine is on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._open: asyncio.Future[Open] = self._loop.create_future()
        self._turns: Deciding | None = None
        self._stream: FrameStream[Down]
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: dict[int, asyncio.Future[Misfit | None]] = {}
        self._numbers = itertools.count(1)

    async def run(self, connection: socket.socket) -> None:
        """Do what the first frame says, until it is told to stop."""
        self._loop.add_signal_handler(signal.SIGUSR1, self._stop.set)
        _, self._stream = await self._loop.create_connection(
            lambda: FrameStream(decode_down, self._receive, self._orphaned), sock=connection
        )
        try:
            await self._run(await self._open)
        except BaseException as caught:
            error = only(caught)
            code = error.code if isinstance(error, SteplogError) else "internal"
            self._stream.send(Failed(code, str(error) if isinstance(error, SteplogError) else repr(error)))
            if not isinstance(error, SteplogError):
                raise
        else:
            self._stream.send(Ended())
        finally:
            self._stream.close()
            await asyncio.sleep(0)

    async def _run(self, frame: Open) -> None:
        log_to_stderr(as_json=frame.server is not None and wants_json(is_dev=frame.server.is_dev))
        if frame.cluster is not None:
            await self._run_member(frame, frame.cluster)
            return
        log = await self._open_log(frame)
        turns = Turns(
            log, Registry(frame.functions), frame.config, deliver=self._deliver, on_lost=self._unavailable,
            on_found=lambda: self._stream.send(Available()), watch_s=WATCH_S,
        )  # fmt: skip
        wal = WalWatch(log)
        url = file_url(Path(frame.log_path))
        services = [lambda _turns, _ask: wal.run(), *self._services(frame, url)]
        await self._go(turns, [*services, *self._connectors(frame, url)])

    async def _run_member(self, frame: Open, cluster: ClusterConfig) -> None:
        if not cluster.address and frame.sockets:
            with socket.socket(fileno=os.dup(frame.sockets[0])) as bound:
                address = f"{cluster.host}:{bound.getsockname()[1]}"
            cluster = msgspec.structs.replace(cluster, address=address)
        member = Member(
            cluster, Registry(frame.functions), frame.config, deliver=self._deliver, on_lost=self._unavailable,
            on_found=lambda: self._stream.send(Available()),
        )  # fmt: skip
        connectors = self._connectors(frame, cluster.url, cluster.node) if cluster.is_engine else []
        await self._go(member, [*self._services(frame, cluster.url, cluster.node), *connectors])

    def _connectors(self, frame: Open, log: str, node: str = "") -> list[Service]:
        """What feeds a log with what happens elsewhere."""
        if not frame.connectors or frame.server is None:
            return []
        from steplog.connectors.service import ConnectorService  # for those who have some

        return [ConnectorService(frame.connectors, frame.server, log, node)]

    def _services(self, frame: Open, log: str, member: str = "") -> list[Service]:
        """What runs beside the turns of a log: HTTP and the history, or the history alone."""
        if frame.history is None:
            return []
        if frame.server is None:
            history = HistoryProcess(log, frame.history, member=member)
            return [lambda _, __: history.run()]
        from steplog.service import HttpService  # for start-up time: uvicorn and starlette come with it

        sockets = [socket.socket(fileno=number) for number in frame.sockets]
        return [
            HttpService(
                sockets, frame.server, log=log, history=frame.history, member=member,
                on_serving=lambda: self._stream.send(Serving()),
            )
        ]  # fmt: skip

    async def _go(self, turns: Deciding, services: Sequence[Service]) -> None:
        self._turns = turns
        tune_process()
        await run_engine(
            turns, services, ask=self._ask, stop=self._stop,
            on_open=lambda: self._stream.send(Opened(turns.record_bytes)),
        )  # fmt: skip

    async def _open_log(self, frame: Open) -> SqliteLog:
        deadline_s = self._loop.time() + LOCK_S
        while True:
            try:
                return SqliteLog(Path(frame.log_path))
            except LogLocked:
                if self._loop.time() > deadline_s:
                    raise
                await asyncio.sleep(0.02)

    def _receive(self, frame: Down) -> None:
        match frame:
            case Post(messages=messages):
                if self._turns is not None:
                    self._turns.post(messages)
            case Open():
                self._open.set_result(frame)
            case AskOpen(question=question, runs=runs):
                task = self._loop.create_task(self._answer(question, runs))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case AnswerFit(question=question, misfit=misfit):
                self._questions.pop(question).set_result(misfit)
            case Stop():
                self._stop.set()

    def _ask(self, events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        number = next(self._numbers)
        answer = self._questions[number] = self._loop.create_future()
        self._stream.send(AskFit(number, events))
        return answer

    async def _answer(self, question: int, runs: Sequence[bytes]) -> None:
        assert self._turns is not None, "nobody asks before the engine is open"
        self._stream.send(AnswerOpen(question, await self._turns.are_open(runs)))

    def _deliver(self, effects: list[Effect]) -> None:
        self._stream.send(Release(effects))

    def _unavailable(self, error: LogUnavailable) -> None:
        self._stream.send(Unavailable(str(error)))

    def _orphaned(self) -> None:
        """The functions' process is gone without a word. A crash of both: the log is ready for that at any moment."""
        if not self._stop.is_set():
            os._exit(1)


async def _main(descriptor: int) -> None:
    await Child().run(socket.socket(fileno=descriptor))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the functions' process is told, and stops this one in order
        signal.signal(number, signal.SIG_IGN)
    if "serve" in sys.argv[2:]:
        import steplog.service  # noqa: F401 - now rather than when the first frame is there
    with asyncio.Runner(loop_factory=engine_loop) as runner:
        runner.run(_main(int(sys.argv[1])))
