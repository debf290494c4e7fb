"""Carries requests with aiohttp, on a loop in a thread of its own: for callers on any loop, one after the other too.

A session of aiohttp belongs to one loop and has to be closed on it. Here that loop is ours, and outlives the callers'.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from steplog.client.address import Address
from steplog.client.api import Call, Reply, Unanswered
from steplog.errors import ServerUnreachable

if TYPE_CHECKING:
    import aiohttp

MOST_AT_A_TIME = 100  # requests; those that wait for the end of a run come on top
IDLE_S = 15.0  # as long as connections are kept
CLOSE_S = 5.0
_CLOSED = "the client was closed before the answer came; what was asked may be done"
T = TypeVar("T")


class Threaded:
    """A thread with a loop and its connections, from the first call until ``close``."""

    def __init__(self, address: Address) -> None:
        self._url, self._proxy = address.url, address.proxy
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._calls: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()  # nothing comes after what closes
        self._is_closing = False
        self._stop = asyncio.Event()
        self._places = asyncio.Semaphore(MOST_AT_A_TIME)
        self._session: aiohttp.ClientSession | None = None
        self._thread = threading.Thread(target=self._run, name="steplog-client", daemon=True)
        self._thread.start()

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of ``Api`` over there; cancelling this cancels it."""
        with self._lock:
            if self._is_closing:
                coroutine.close()
                raise ServerUnreachable(_CLOSED)
            answer = asyncio.run_coroutine_threadsafe(self._follow(coroutine), self._loop)
        return await asyncio.wrap_future(answer)

    async def exchange(self, call: Call) -> Reply:
        import aiohttp  # it takes a third of a second, and blocks nobody's loop but this one

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S), auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        body = None if call.body is None else BytesIO(call.body)
        timeout = aiohttp.ClientTimeout(total=call.timeout_s)
        try:
            async with (
                self._places if not call.is_wait else nullcontext(),
                self._session.request(
                    call.method, self._url + call.path, data=body, headers=call.headers, proxy=self._proxy,
                    allow_redirects=False, timeout=timeout,
                ) as response,
            ):  # fmt: skip
                answer = await response.read()
                return Reply(status=response.status, body=answer, retry_after=response.headers.get("retry-after"))
        except (aiohttp.ClientError, OSError) as error:
            is_sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise Unanswered(is_sent=is_sent, is_late=isinstance(error, TimeoutError)) from error

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """End the calls that are under way, close the connections and end the thread."""
        if self._thread.is_alive():
            with self._lock:
                if not self._is_closing:
                    self._is_closing = True
                    self._loop.call_soon_threadsafe(self._stop.set)
            if threading.current_thread() is not self._thread:  # the collector calls from any
                self._thread.join(CLOSE_S)

    async def _follow(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None, "it runs as a task"
        self._calls.add(task)
        try:
            return await coroutine
        except asyncio.CancelledError:
            if self._is_closing:
                raise ServerUnreachable(_CLOSED) from None
            raise
        finally:
            self._calls.discard(task)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        await self._stop.wait()
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        if self._session is not None:
            await self._session.close()
