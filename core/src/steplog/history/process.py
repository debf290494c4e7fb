"""The projector as a child process, and reads of what it writes: what a node has of the history."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import msgspec

from steplog.errors import HistoryUnavailable
from steplog.history.position import Position
from steplog.history.projector import Task
from steplog.history.queries import History, open_history
from steplog.paths import is_postgres, masked

logger = logging.getLogger(__name__)

T = TypeVar("T")
READERS = 2
POSTGRES_READERS = 8  # each may have to wait for a server elsewhere
ANSWER_S = 15.0  # then a server that has stopped without a word is away, whatever its connection says
FRESH_S = 2.0  # a read waits so long for what was written before it (decisions: *read your writes*)
AWAY_S = 10.0  # a start waits so long for a database
RESTART_S = 1.0
STOP_S = 5.0


class HistoryProcess:
    """Keeps the projector running, and reads what it writes in threads. Used on the node's loop.

    ``log`` and ``history`` are addresses. They go to the projector by its standard input: they may hold passwords.
    ``member`` is the node's name, stable over restarts, where several nodes project into one history.
    """

    def __init__(self, log: str, history: str, *, member: str = "", logs_json: bool = False) -> None:
        self._task = Task(log=log, history=history, member=member, logs_json=logs_json)
        readers = POSTGRES_READERS if is_postgres(history) else READERS
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="steplog-history")
        self._opening = threading.Lock()
        self._history: History | None = None

    async def run(self) -> None:
        """Run the projector until cancelled; start it again if it ends."""
        process: subprocess.Popen[bytes] | None = None
        try:
            while True:
                process = start_projector(self._task)
                while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(RESTART_S)
                logger.warning(
                    "the history projector ended and is started again", extra={"fields": {"code": process.returncode}}
                )
        finally:
            if process is not None:
                self._stop(process)
            self._threads.shutdown(wait=False, cancel_futures=True)
            if self._history is not None:
                self._history.close()

    async def read(self, query: Callable[[History], T], *, at_least: Position) -> tuple[T, bool]:
        """Answer a query, and whether the answer may be stale: the projection was not at ``at_least`` within 2 s.

        Raises ``HistoryUnavailable``.
        """

        def answer() -> tuple[T, bool]:
            history = self._opened()
            is_fresh = history.wait_for(at_least, FRESH_S)
            return query(history), not is_fresh

        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, answer)
        except TimeoutError:
            name = masked(self._task.history)
            raise HistoryUnavailable(f"the history at {name} has not answered within {ANSWER_S:g} s") from None

    async def opened(self, timeout_s: float) -> None:
        """Wait until the projector has made the history. Raises ``HistoryUnavailable`` where it has not in time.

        One in PostgreSQL may come later: the engine does without, and reads say that it is away.
        """
        timeout_s = min(timeout_s, AWAY_S) if is_postgres(self._task.history) else timeout_s
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                await self.read(lambda history: history.position(), at_least=Position())
            except HistoryUnavailable as error:
                if asyncio.get_running_loop().time() > deadline_s:
                    if is_postgres(self._task.history):
                        logger.warning("reads answer 503 until the history is there: %s", error)
                        return
                    raise
                await asyncio.sleep(0.01)
            else:
                return

    def _opened(self) -> History:
        with self._opening:
            if self._history is None:
                self._history = open_history(self._task.history)
            return self._history

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Its standard input closes; it projects what is left, and ends."""
        assert process.stdin is not None, "it was started with a pipe"
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_projector(task: Task, *, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a projector. It ends when its standard input is closed."""
    command = [sys.executable, "-m", "steplog.history.projector"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stderr)
    assert process.stdin is not None, "it was started with a pipe"
    with suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        process.stdin.flush()
    return process
