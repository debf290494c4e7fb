"""Where users' code runs: on the users' loop, or in threads of its own for plain ``def``.

Plain functions and plain steps have a pool each: a function holds its thread while it waits for its step.
"""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from steplog.drivers.call import Call
from steplog.drivers.loop import UsersLoop


class Bodies:
    """The bodies that run in this process. Every method runs on the users' loop."""

    def __init__(self, loop: UsersLoop, *, threads: int, function_threads: int, limit_ms: int) -> None:
        self.loop = loop
        self._limit_s = limit_ms / 1000
        self._alarm: asyncio.TimerHandle | None = None  # one timer for all: the longest time is the same for each
        self._steps = _Pool("steplog-step", threads)
        self._functions = _Pool("steplog-function", function_threads)
        self._relays: set[asyncio.Task[None]] = set()  # nothing else may hold them
        self._are_over: asyncio.Event | None = None  # while somebody waits for it
        self.running: dict[asyncio.Task[Any], Call] = {}  # whose bodies tasks run, in the order in which they began

    def began(self, task: asyncio.Task[Any], call: Call) -> None:
        """A task begins a body. It is cancelled, and the call overdue, when it runs for too long (LIM-02)."""
        call.until_s, call.is_overdue = self.loop.time() + self._limit_s, False
        self.running[task] = call
        if self._alarm is None:
            self._set_alarm(self._limit_s)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """A body that this task ran has ended."""
        self.running.pop(task, None)
        if self._are_over is not None and not self.running:
            self._are_over.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until none runs, or the time is up."""
        if self.running:
            self._are_over = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._are_over.wait()

    def _set_alarm(self, after_s: float) -> None:
        self._alarm = self.loop.call_later(after_s, self._end_overdue, context=contextvars.Context())

    def _end_overdue(self) -> None:
        self._alarm = None
        now_s = self.loop.time()
        for task, call in self.running.items():
            if call.is_overdue:  # it swallows its cancellation
                continue
            if call.until_s > now_s:
                self._set_alarm(call.until_s - now_s)
                return
            call.is_overdue = True
            task.cancel()

    def close(self) -> None:
        """Start no thread any more. Those that run cannot be stopped."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._steps.close()
        self._functions.close()

    async def in_thread(self, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the body of a plain ``def`` step. It may return an awaitable, as a lambda does."""
        value = await self._run_in(self._steps, handler, args, kwargs)
        return await value if inspect.isawaitable(value) else value

    async def call_function(self, handler: Callable[..., Any], *args: Any) -> Any:
        """Run a plain ``def`` function. Its steps are awaited by ``blocking``."""
        return await self._run_in(self._functions, handler, args, {})

    def blocking(self, context: contextvars.Context) -> Callable[[Awaitable[Any]], Any]:
        """Make what a function's thread awaits with: on the users' loop, in the run's context (SDK-06)."""

        def block(awaitable: Awaitable[Any]) -> Any:
            result: ThreadFuture[Any] = ThreadFuture()
            own = context.copy()
            self.loop.call_soon_threadsafe(self._relay, awaitable, result, own, context=own)
            return result.result()

        return block

    def _relay(self, awaitable: Awaitable[Any], result: "ThreadFuture[Any]", context: contextvars.Context) -> None:
        task = asyncio.Task(_pass_on(awaitable, result), loop=self.loop, context=context)
        self._relays.add(task)
        task.add_done_callback(self._relays.discard, context=context)

    async def _run_in(
        self, pool: "_Pool", handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = functools.partial(contextvars.copy_context().run, _in_thread, handler, args, kwargs)
        return await self.loop.run_in_executor(pool.open(), call)


class _Pool:
    """Threads that are made when they are needed first."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._threads: ThreadPoolExecutor | None = None

    def open(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix=self._name)
        return self._threads

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


async def _pass_on(awaitable: Awaitable[Any], result: "ThreadFuture[Any]") -> None:
    """Give a thread what it waits for: the value, or whatever is raised."""
    try:
        value = await awaitable
    except BaseException as error:  # noqa: BLE001 - for the thread
        result.set_exception(error)
    else:
        result.set_result(value)


def _in_thread(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except StopIteration as error:  # no future takes one
        raise RuntimeError("the step raised StopIteration") from error
