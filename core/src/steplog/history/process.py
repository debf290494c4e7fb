"""The projector as a child process, and reads of what it writes: what a node has of the history."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from steplog.errors import LogUnavailable
from steplog.history.queries import History

logger = logging.getLogger(__name__)

T = TypeVar("T")
READERS = 2
FRESH_S = 2.0  # a read waits so long for what was written before it (decisions: *read your writes*)
RESTART_S = 1.0
STOP_S = 5.0


class HistoryProcess:
    """Keeps the projector running, and reads its file in threads. Used on the node's loop."""

    def __init__(self, log_path: Path, history_path: Path, *, logs_json: bool = False) -> None:
        self._command = [sys.executable, "-m", "steplog.history.projector", str(log_path), str(history_path)]
        self._command += ["json"] if logs_json else []
        self._path = history_path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="steplog-history")
        self._history: History | None = None

    async def run(self) -> None:
        """Run the projector until cancelled; start it again if it ends."""
        process: subprocess.Popen[bytes] | None = None
        try:
            while True:
                process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: ASYNC220 - no pipe is read
                while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                    await asyncio.sleep(RESTART_S)
                logger.warning(
                    "the history projector ended and is started again", extra={"fields": {"code": process.returncode}}
                )
        finally:
            if process is not None:
                self._stop(process)
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, query: Callable[[History], T], *, at_least: int) -> tuple[T, bool]:
        """Answer a query, and whether the answer may be stale: the projection was not at ``at_least`` within 2 s."""

        def answer() -> tuple[T, bool]:
            if self._history is None:
                self._history = History(self._path)
            is_fresh = self._history.wait_for(at_least, FRESH_S)
            return query(self._history), not is_fresh

        return await asyncio.get_running_loop().run_in_executor(self._threads, answer)

    async def opened(self, timeout_s: float) -> None:
        """Wait until the projector has made its file. Raises ``LogUnavailable`` where it has not in time."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                await self.read(lambda history: history.position(), at_least=0)
            except LogUnavailable:
                if asyncio.get_running_loop().time() > deadline_s:
                    raise
                await asyncio.sleep(0.01)
            else:
                return

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Its standard input closes; it projects what is left, and ends."""
        assert process.stdin is not None, "it was started with a pipe"
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
