"""What ``dev`` and ``start`` add to a node: the HTTP server and the history."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from steplog.diagnostics import wants_json
from steplog.engine.messages import EventAccepted
from steplog.errors import NotFound
from steplog.forwarding import Forwarding
from steplog.history.position import Position
from steplog.history.process import HistoryProcess
from steplog.history.queries import History
from steplog.member import Elsewhere, Member
from steplog.server.app import Application
from steplog.server.backend import Misdirected
from steplog.server.config import ServerConfig
from steplog.server.listen import serve
from steplog.server.validation import Ask, Misfit
from steplog.turns import Turns
from steplog.values import fitting

T = TypeVar("T")
HISTORY_OPENS_S = 30.0  # its process is started meanwhile, on a machine that may be busy
JOINS_S = 15.0
LOOK_S = 0.1  # between two looks for the end of a run that another node decides
_ANY = Position()


class NodeBackend:
    """A node, as the server sees it."""

    def __init__(self, turns: Turns | Member, history: HistoryProcess, ask: Ask, forwarding: Forwarding) -> None:
        self._turns, self._history, self._ask = turns, history, ask
        self._forwarding = forwarding

    def now_ms(self) -> int:
        return self._turns.now_ms()

    async def submit(self, events: list[EventAccepted]) -> None:
        await self._turns.submit(events)

    def ask(self, events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        return self._ask(events)

    async def signal(self, name: str, data: bytes, *, is_forwarded: bool) -> str | None:
        try:
            return await self._turns.signal(name, data)
        except Elsewhere as elsewhere:
            if is_forwarded:
                raise Misdirected(str(elsewhere)) from None
            return await self._forwarding.signal(elsewhere.address, name, data)

    def problem(self) -> str | None:
        return self._turns.problem

    def is_function(self, function: str) -> bool:
        return self._turns.is_function(function)

    def position(self) -> Position:
        return self._turns.reached

    async def wait_ended(self, run_id: str, timeout_s: float) -> None:
        until_s = asyncio.get_running_loop().time() + timeout_s
        if await self._turns.wait_ended(run_id, timeout_s):
            return
        # It is decided elsewhere: its record tells.
        while asyncio.get_running_loop().time() < until_s:
            try:
                is_over, _ = await self.read(lambda history: history.run(run_id).ended_ms is not None, at_least=_ANY)
            except NotFound:
                is_over = False
            if is_over:
                return
            await asyncio.sleep(LOOK_S)

    async def read(self, query: Callable[[History], T], *, at_least: Position) -> tuple[T, bool]:
        return await self._history.read(query, at_least=at_least)


class HttpService:
    """Serves on sockets that are bound already, until it is cancelled; ``on_serving`` is called when it answers.

    ``log`` and ``history`` are addresses; ``member`` is this node's name, where there are several.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], config: ServerConfig, *, log: str, history: str,
        on_serving: Callable[[], None], member: str = "",
    ) -> None:  # fmt: skip
        self._sockets, self._config = sockets, config
        self._log, self._history, self._member = log, history, member
        self._on_serving = on_serving

    async def __call__(self, turns: Turns | Member, ask: Ask) -> None:
        """Run on the node's loop."""
        logs_json = wants_json(is_dev=self._config.is_dev)
        history = HistoryProcess(self._log, self._history, member=self._member, logs_json=logs_json)
        async with asyncio.TaskGroup() as tasks:
            projecting = tasks.create_task(history.run())
            try:
                await history.opened(HISTORY_OPENS_S)
                key = next(iter(self._config.signing_keys), None)
                app = Application(NodeBackend(turns, history, ask, Forwarding(key)), self._fitted(turns.record_bytes))
                async with serve(app, self._sockets, on_stop=app.stop):
                    await turns.joined(JOINS_S)
                    self._on_serving()
                    await asyncio.Event().wait()
            finally:
                projecting.cancel()

    def _fitted(self, record_bytes: int | None) -> ServerConfig:
        """The settings, with events no larger than a record of the log holds."""
        _, event_bytes = fitting(0, self._config.event_size_bytes, record_bytes)
        return msgspec.structs.replace(self._config, event_size_bytes=event_bytes)
