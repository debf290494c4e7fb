"""Where the bodies of steps run: on the users' loop, or in threads of their own for plain ``def``."""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from steplog.drivers.loop import UsersLoop


class Bodies:
    """The bodies that run in this process. Every method runs on the users' loop."""

    def __init__(self, loop: UsersLoop, threads: int) -> None:
        self.loop = loop
        self._most_threads = threads
        self._threads: ThreadPoolExecutor | None = None
        self._are_over: asyncio.Event | None = None  # while somebody waits for it
        self.running: set[asyncio.Task[Any]] = set()  # the tasks: nothing else may hold them

    def ended(self, task: asyncio.Task[Any]) -> None:
        """A body that this task ran has ended."""
        self.running.discard(task)
        if self._are_over is not None and not self.running:
            self._are_over.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until none runs, or the time is up."""
        if self.running:
            self._are_over = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._are_over.wait(), timeout_s)

    def close(self) -> None:
        """Start no thread any more. Those that run cannot be stopped."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run plain ``def`` user code: the one place where it happens. It may return an awaitable, as a lambda does."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most_threads, thread_name_prefix="steplog-step")
        call = functools.partial(contextvars.copy_context().run, _in_thread, handler, args, kwargs)
        value = await self.loop.run_in_executor(self._threads, call)
        return await value if inspect.isawaitable(value) else value


def _in_thread(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except StopIteration as error:  # no future takes one
        raise RuntimeError("the step raised StopIteration") from error
