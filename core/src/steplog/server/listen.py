"""Listens for HTTP on the loop that runs already.

On this machine alone it is on both loopback addresses, because clients disagree on what ``localhost`` is.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from steplog.errors import ConfigInvalid, PortInUse
from steplog.server.patience import Patience, protocol

LOOPBACK = ("127.0.0.1", "::1")
BACKLOG = 2048  # connections that wait to be accepted; also over a reload
GRACE_S = 5  # how long requests may go on after a stop
KEEP_ALIVE_S = 75  # longer than the clients' own, so that it is they who close
_TRIES = 20  # to find a port that is free on both addresses


def bind(port: int, host: str = LOOPBACK[0]) -> list[socket.socket]:
    """Listen on a port of ``host``; on 127.0.0.1 and ::1 where that is the loopback. Port 0 takes a free one.

    Connections wait in the sockets until ``serve`` takes them. Raises ``PortInUse``, or ``ConfigInvalid`` for an
    address that is not this machine's.
    """
    if host not in (*LOOPBACK, "localhost"):
        return [_listen(host, port)]
    for _ in range(_TRIES):
        first = _listen(LOOPBACK[0], port)
        try:
            return [first, _listen(LOOPBACK[1], first.getsockname()[1])]
        except PortInUse:  # on ::1 alone
            first.close()
            if port:
                raise
        except ConfigInvalid:  # no IPv6 here
            return [first]
    raise PortInUse(f"no port is free on both {' and '.join(LOOPBACK)}")


@asynccontextmanager
async def serve(
    app: Any,
    sockets: Sequence[socket.socket],
    *,
    on_stop: Callable[[], None] = lambda: None,
    grace_s: int = GRACE_S,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> AsyncIterator[None]:
    """Serve an ASGI application until the block ends; the block begins when requests are answered.

    At the end ``on_stop`` is called, no connection is accepted any more, requests in flight get ``grace_s``, and the
    sockets are closed.
    """
    config = uvicorn.Config(
        app, http=protocol(patience), ws="none", loop="none", lifespan="off", access_log=False, log_config=None,
        log_level="warning", server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s, backlog=BACKLOG,
    )  # fmt: skip
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(list(sockets)))
        await server.is_serving.wait()
        try:
            yield
        finally:
            on_stop()
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """uvicorn's server without its own handling of signals, which belongs to the command."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_serving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_serving.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(host, port, error) from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # here: two can bind one port, but not listen on it
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from error
    sock.setblocking(False)
    return sock


def _refused(host: str, port: int, error: OSError) -> PortInUse | ConfigInvalid:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"port {port} is taken; take another: --port {port + 2}")
    return ConfigInvalid("the address to listen on", [f"{host} port {port}: {error.strerror or error}"])
