"""The ASGI application: the event API on its hot path, everything else by Starlette.

Every response, errors included, is JSON and carries the headers of ``http.common_headers``.
"""

import asyncio
import logging

from steplog.server.actions import Actions
from steplog.server.auth import Keys
from steplog.server.backend import Backend
from steplog.server.config import ServerConfig
from steplog.server.event_api import PATH, EventApi
from steplog.server.http import (
    Disconnected,
    Intake,
    Message,
    Problem,
    Receive,
    Scope,
    Send,
    answer_json,
    common_headers,
    encode,
    preflight_headers,
)
from steplog.server.rest import RestApi
from steplog.server.validation import Validation

logger = logging.getLogger(__name__)

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_FOREIGN_HOST = (
    "the request is addressed to host {!r}, which is not one of this machine's: a page elsewhere may be behind it; "
    "if the name is yours, allow it with --allow-host"
)


class Application:
    """Everything that the server answers."""

    def __init__(self, backend: Backend, config: ServerConfig) -> None:
        keys = Keys(config)
        validation = None if config.typed is None else Validation(config.typed, backend.ask)
        intake = Intake(config.intake_bytes)
        self._event_api = EventApi(backend, config, keys, validation, intake)
        self._rest = RestApi(backend, keys, Actions(backend, config, validation, intake), config)
        self._rest_app = self._rest.application(self._event_api)
        self._headers = common_headers(is_dev=config.is_dev)
        self._names = {name.lower().encode() for name in (*LOCAL_NAMES, *config.allow_hosts)} if config.is_dev else None

    def stop(self) -> None:
        """Answer at once those who wait: the server is about to end."""
        self._rest.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the server is told to speak nothing else"
        is_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                message["headers"] += self._headers
            try:
                await send(message)
            except RuntimeError as error:  # uvloop's, where uvicorn has not heard yet that the client is gone
                if "the handler is closed" not in str(error):
                    raise
                raise Disconnected from error

        problem = 500, "the server failed; its log says why"
        try:
            await self._answer(scope, receive, send_with_headers)
        except Disconnected:
            return
        except Exception:
            logger.exception("request failed", extra={"fields": {"method": scope["method"]}})
        except asyncio.CancelledError:  # by the server alone, which stops and has waited long enough
            problem = 503, "the server stops; send again later"
        if not is_begun:
            await _answer_problem(send_with_headers, *problem)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = _header(scope, b"host")
        if self._names is not None and _name(host) not in self._names:
            await _answer_problem(send, 403, _FOREIGN_HOST.format(host.decode("latin1")[:100]))
        elif scope["method"] == "POST" and scope["path"].startswith(PATH):
            await self._event_api(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            headers = preflight_headers(_header(scope, b"access-control-request-headers"))
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._rest_app(scope, receive, send)


async def _answer_problem(send: Send, status: int, error: str) -> None:
    await answer_json(send, status, encode(Problem(error, status)), [])


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def _name(host: bytes) -> bytes:
    """Take the name of a ``Host`` header, without the port."""
    if host.startswith(b"["):
        return host.partition(b"]")[0].lower() + b"]"
    return host.partition(b":")[0].lower()
