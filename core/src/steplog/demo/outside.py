"""The world that the shop's steps ask: a bank, a warehouse and a mail service, over HTTP on a loopback port.

It lives in the demo's own process, which is never killed, and notes every request: this is the probe that tells which
step bodies ran twice. Like a real bank it acts once for each idempotency key, and answers the same when asked again.
"""

import asyncio
import json
import random
import threading
import time
from concurrent.futures import Future
from types import TracebackType
from typing import NamedTuple, Self

AT_A_TIME = 10  # requests that each service works on; the others queue
BACKLOG = 512  # connections; every open order may ask at once
SETTLES_S = 5.0
STARTS_S = 5.0


class Service(NamedTuple):
    """One of those who are asked."""

    step: str  # that asks it
    path: str
    variable: str  # names its address to the shop
    takes_ms: int  # on average


SERVICES = (
    Service("charge", "/bank", "BANK_URL", 40),
    Service("pack", "/warehouse", "WAREHOUSE_URL", 60),
    Service("notify", "/mail", "MAIL_URL", 5),
)


class Body(NamedTuple):
    """A step of an order, whose body asks for something."""

    step: str
    order: str


class Call(NamedTuple):
    """A request that arrived: a body has begun."""

    body: Body
    key: str
    attempt: int


class Outside:
    """Serves from a thread of its own while the context is open. ``calls`` has what arrived, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.acted: dict[str, str] = {}  # idempotency key: what was answered
        self._random = random.Random(0)  # noqa: S311 - no secret
        self._open = 0
        self._address: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="outside", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def environment(self) -> dict[str, str]:
        """The addresses, as the shop's functions look for them."""
        return {service.variable: self._address.result(STARTS_S) + service.path for service in SERVICES}

    def settle(self) -> None:
        """Wait until every request of a client that is gone has been let go."""
        deadline_s = time.monotonic() + SETTLES_S
        while self._open and time.monotonic() < deadline_s:
            time.sleep(0.005)

    def __enter__(self) -> Self:
        self._thread.start()
        self._address.result(STARTS_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._loop is not None, "it has started"
        self.settle()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STARTS_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        queues = {service.path: (service, asyncio.Semaphore(AT_A_TIME)) for service in SERVICES}

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open += 1
            try:
                path, call, order = await _read(reader)
                service, queue = queues[path]
                self.calls.append(Call(Body(service.step, order), *call))
                async with queue:
                    if not reader.at_eof():
                        writer.write(_response(await self._act(service, order, call[0])))
                        await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                pass  # the client is gone: that is what the demo is about
            finally:
                self._open -= 1
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=BACKLOG)
        async with server:
            self._address.set_result(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await self._stop.wait()

    async def _act(self, service: Service, order: str, key: str) -> str:
        """Do what is asked for, once for each key."""
        await asyncio.sleep(service.takes_ms / 1000 * self._random.uniform(0.7, 1.3))  # nobody answers in step
        return self.acted.setdefault(key, f"{service.step}-{order}")


async def _read(reader: asyncio.StreamReader) -> tuple[str, tuple[str, int], str]:
    """Read a request: its path, its key and attempt, and the order that it is about."""
    request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    return request.split(" ")[1], (headers["idempotency-key"], int(headers["x-attempt"])), body["order"]


def _response(text: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
    return (head + text).encode("latin1")
