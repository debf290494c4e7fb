"""The engine on the users' loop, in virtual time: for tests. No thread, no socket, no sleep.

Nothing happens by itself but what is due: ``VirtualClock`` stands still until someone moves it, and says to whom it
belongs what comes next (``next_due_ms``).
"""

import asyncio
from collections.abc import Callable
from contextvars import Context

from steplog.drivers.loop import UsersLoop
from steplog.engine.backoffs import has_backoff
from steplog.engine.effects import Effect
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, Registry
from steplog.engine.messages import Drain, Message, RetryNow
from steplog.engine.processor import Processor
from steplog.errors import LogUnavailable
from steplog.turns import Log


class VirtualClock:
    """A time that moves only where it is told to, and never back. In ms UTC."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def move_to(self, at_ms: int) -> None:
        """Let the time be this, unless it is later already."""
        self._now_ms = max(self._now_ms, at_ms)


class InlineEngine:
    """Turns over a log, decided and committed on the users' loop (``steplog.node.Engine``)."""

    def __init__(
        self, open_log: Callable[[], Log], registry: Registry, config: EngineConfig, clock: VirtualClock
    ) -> None:
        self._open_log, self._registry, self._config, self._clock = open_log, registry, config, clock
        self._processor: Processor | None = None
        self._wakes = asyncio.Event()
        self._is_stopping = False
        self._turning: asyncio.Task[None]
        self.turns = 0  # decided so far

    async def open(
        self, users: UsersLoop, receive: Callable[[list[Effect]], None], lost: Callable[[LogUnavailable], None]
    ) -> None:
        self._receive, self._lost = receive, lost
        self._log = self._open_log()
        loaded = await self._log.load()
        self._clock.move_to(loaded.now_ms)
        processor = self._processor = Processor(loaded, self._registry, self._config)
        processor.recover()
        self._turning = asyncio.Task(self._run(processor), loop=users, context=Context())

    record_bytes = None  # any size

    @property
    def is_available(self) -> bool:
        return self._processor is not None

    def post(self, batch: list[Message]) -> None:
        if self._processor is not None:
            self._processor.post(*batch)
            self._wakes.set()

    async def are_open(self, run_keys: list[bytes]) -> list[bool]:
        processor = self._processor
        return [processor is not None and processor.engine.runs.is_open(key) for key in run_keys]

    def stop(self) -> None:
        self._is_stopping = True
        self._wakes.set()

    async def closed(self) -> None:
        await asyncio.wait({self._turning})
        if not self._turning.cancelled():  # as it is when killed
            self._turning.result()

    # --- what a test's time needs

    @property
    def has_work(self) -> bool:
        """Whether something is to be decided now. Raises what ended the turns, if something has."""
        if self._turning.done() and not self._turning.cancelled():
            self._turning.result()
        return self._processor is not None and self._processor.has_work(self._clock.now_ms())

    def next_due_ms(self) -> int | None:
        """When the next timer is due."""
        return None if self._processor is None else self._processor.next_due_ms()

    def wake(self) -> None:
        """The clock was moved: decide what is due now."""
        self._wakes.set()

    def skip_backoffs(self) -> bool:
        """Let every attempt that waits for its back-off come now, while the clock stands. Returns whether any did."""
        processor = self._processor
        assert processor is not None, "open() comes first"
        if not has_backoff(processor.engine.state, processor.engine.runs, DEFAULT_ENV):
            return False
        self.post([RetryNow(env=DEFAULT_ENV)])
        return True

    def kill(self) -> None:
        """End as a killed process does: what is not committed is gone, and nothing is handed back."""
        self._processor = None
        self._turning.cancel()

    # --- turns

    async def _run(self, processor: Processor) -> None:
        try:
            while not self._is_stopping:
                self._wakes.clear()
                while processor.has_work(self._clock.now_ms()):
                    await self._turn(processor)
                await self._wakes.wait()
            processor.post(Drain())
            while processor.has_work(self._clock.now_ms()):
                await self._turn(processor)
        except LogUnavailable as error:
            self._lost(error)
            raise
        finally:
            self._processor = None
            self._log.close()

    async def _turn(self, processor: Processor) -> None:
        while not processor.advance(self._clock.now_ms()):
            pass
        await self._log.commit(processor.seal())
        self.turns += 1
        self._receive(processor.committed())
        await asyncio.sleep(0)  # what the driver does now is of the next turn
