"""A generation: the process with the functions and the one with the engine, as the parent sees them."""

import asyncio
import signal
import subprocess
from collections.abc import Callable

from steplog.cli.dev.frames import (
    Failed,
    Load,
    Loaded,
    OpenLog,
    Refused,
    Retry,
    Said,
    Serving,
    Stop,
    Stopping,
    Told,
    decode_said,
)
from steplog.cli.dev.spawn import Spawned
from steplog.errors import EngineEnded, SteplogError, error_of
from steplog.shells.frames import FrameStream

BLOCKED_S = 1.0  # after its bodies' time is up, a loop that does not answer is taken for blocked
ENGINE_STOP_S = 15.0  # requests in flight, and the history's last batches
EXIT_S = 5.0  # how long threads and exit handlers of user code may go on; nothing of the log is theirs
POLL_S, SLOW_POLL_S = 0.01, 0.05


class CodeRefused(Exception):
    """The code cannot be imported."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.text)
        self.refused = refused


class Generation:
    """Two processes that were spawned. ``load`` the code, ``open`` the log, ``stop``; or ``kill``, at any time."""

    def __init__(self, spawned: Spawned, *, on_stopping: Callable[[int], None] = lambda _: None) -> None:
        self._functions, self._engine, self._control = spawned
        self._on_stopping = on_stopping
        self._stream: FrameStream[Said] | None = None  # once it is connected
        loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Loaded] = loop.create_future()
        self._serving: asyncio.Future[None] = loop.create_future()
        self._is_open = False
        self._why = ""  # it ended, where it said so

    async def connect(self) -> None:
        """Begin to listen to what it says."""
        _, self._stream = await asyncio.get_running_loop().create_connection(
            lambda: FrameStream(decode_said, self._receive, self._lose), sock=self._control
        )

    async def load(self, load: Load) -> Loaded:
        """Import the code. Raises ``CodeRefused``."""
        self._tell(load)
        return await asyncio.shield(self._loaded)

    async def open(self) -> None:
        """Open the log, and return when requests are answered. Raises what kept the engine from it."""
        self._is_open = True
        self._tell(OpenLog())
        await asyncio.shield(self._serving)

    def retry_now(self) -> None:
        """Let it try again at once what waits for its next attempt."""
        self._tell(Retry())

    async def ended(self) -> str:
        """Wait until one of the processes has ended by itself, then end the other; says how."""
        while (code := self._functions.poll()) is None and self._engine.poll() is None:  # noqa: ASYNC110 - no event
            await asyncio.sleep(SLOW_POLL_S)
        what, process = ("functions", self._functions) if code is not None else ("engine", self._engine)
        if not self._is_open:
            await self.kill()
        await _wait(self._engine, ENGINE_STOP_S)
        await self.kill()
        return self._why or f"the process of the {what} {_how(process.returncode)}"

    async def stop(self, drain_s: float) -> None:
        """End in order; returns when the log is closed. What is in flight is handed back even where the loop hangs."""
        if not self._is_open:
            await self.kill()
            return
        if self._functions.poll() is None:
            self._tell(Stop(drain_s))
            if not await _wait(self._engine, drain_s + BLOCKED_S):
                self._engine.send_signal(signal.SIGUSR1)
        if not await _wait(self._engine, ENGINE_STOP_S):
            self._engine.kill()
            await _wait(self._engine, ENGINE_STOP_S)

    async def exited(self) -> None:
        """Wait for the end of the functions' process after a stop, not for ever."""
        await _wait(self._functions, EXIT_S)
        await self.kill()

    async def kill(self) -> None:
        """End both at once."""
        self.kill_now()
        for process in (self._functions, self._engine):
            await _wait(process, ENGINE_STOP_S)

    def kill_now(self) -> None:
        """End both at once, and wait for neither."""
        if self._stream is not None:
            self._stream.close()
        else:
            self._control.close()
        for process in (self._functions, self._engine):
            if process.poll() is None:
                process.kill()

    def _tell(self, frame: Told) -> None:
        assert self._stream is not None, "connect() comes first"
        self._stream.send(frame)

    def _receive(self, frame: Said) -> None:
        match frame:
            case Loaded():
                self._loaded.set_result(frame)
            case Refused():
                self._refuse(CodeRefused(frame))
            case Serving():
                self._serving.set_result(None)
            case Stopping(executing=executing):
                self._on_stopping(executing)
            case Failed(code=code, text=text):
                self._why = text
                self._fail(error_of(code, text))

    def _lose(self) -> None:
        """The functions' process has closed the connection: it has ended, or is about to."""
        text = "the process ended while the code was imported"
        self._refuse(CodeRefused(Refused(code="user_code", text=text)))
        self._fail(EngineEnded("the functions' process ended before it served"))

    def _refuse(self, error: CodeRefused) -> None:
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # who waits for it is told; nobody has to

    def _fail(self, error: SteplogError) -> None:
        if not self._serving.done():
            self._serving.set_exception(error)
            self._serving.exception()


async def _wait(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    """Wait for a process; whether it has ended."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _how(code: int) -> str:
    """How a process ended, by its return code."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
