"""The shape of every answer: JSON bodies, the headers that all of them carry, and a request's body within its bound."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]  # ASGI's own types: the values differ by key
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_CORS_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-max-age", b"3600"),
]
encode = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True):
    """The body of an error."""

    error: str
    status: int


class BodyTooLarge(Exception):
    """A request's body exceeds its bound."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"request body is over the limit of {limit_bytes} bytes; send fewer events at once")


class Disconnected(Exception):
    """The client went away before its request was complete."""


def common_headers(*, is_dev: bool) -> Headers:
    """The headers of every response: any origin may read it, and the SDKs look at the kind of server."""
    kind = b"dev" if is_dev else b"cloud"
    return [(b"access-control-allow-origin", b"*"), (b"x-inngest-server-kind", kind)]


def preflight_headers(requested: bytes) -> Headers:
    """Answer what a browser asks before it sends; ``*`` would not cover ``Authorization``."""
    return [*_CORS_PREFLIGHT, (b"access-control-allow-headers", requested or b"*")]


async def answer_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a response with a JSON body."""
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive, content_length: int | None, limit_bytes: int) -> bytes:
    """Read a request's body, whatever it says of its length.

    Raises ``BodyTooLarge`` as soon as the body is known to be too large; no more than the limit is ever held.
    """
    if content_length is not None and content_length > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
