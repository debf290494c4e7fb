"""Serves HTTP on the loop that runs already, on sockets that are bound already (server/sockets.py)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from steplog.server.patience import Patience, protocol
from steplog.server.sockets import BACKLOG

GRACE_S = 5  # how long requests may go on after a stop
FIRST_READ_S = 0.05  # between a connection and its request, at most, for it to be answered before a stop
KEEP_ALIVE_S = 75  # longer than the clients' own, so that it is they who close


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
        log_level="error",  # what clients do wrong, a thousand times a second if they like, is answered and not logged
        server_header=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S,
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and read what those send whose connection was accepted just before."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await asyncio.sleep(FIRST_READ_S)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
