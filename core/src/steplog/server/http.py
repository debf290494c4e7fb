"""The shape of every answer: JSON bodies, the headers that all of them carry, and a request's body within its bound."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from steplog.errors import Overloaded

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


class Intake:
    """What the server holds of requests' bodies, from their first byte to the commit of their events.

    It is bounded, so that neither slow senders nor a burst that outruns the log can fill the memory (fault A8).
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = self.free_bytes = limit_bytes


class Held:
    """What an intake holds of one request; to be released with it."""

    __slots__ = ("_intake", "_size_bytes")

    def __init__(self, intake: Intake) -> None:
        self._intake, self._size_bytes = intake, 0

    def check(self, size_bytes: int) -> None:
        """Raise ``Overloaded`` where there is no room for so much."""
        if size_bytes > self._intake.free_bytes:
            raise Overloaded(
                f"requests of {self._intake.limit_bytes - self._intake.free_bytes} bytes are being taken in, the limit "
                f"is {self._intake.limit_bytes}; send again later"
            )

    def take(self, size_bytes: int) -> None:
        """Hold more. Raises ``Overloaded`` where there is no room for it."""
        self.check(size_bytes)
        self._intake.free_bytes -= size_bytes
        self._size_bytes += size_bytes

    def release(self) -> None:
        """Hold nothing any more."""
        self._intake.free_bytes += self._size_bytes
        self._size_bytes = 0


class Disconnected(Exception):
    """The client went away before it was answered."""


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


async def read_body(receive: Receive, content_length: int | None, limit_bytes: int, held: Held) -> bytes:
    """Read a request's body, whatever it says of its length.

    Raises ``BodyTooLarge`` as soon as the body is known to be too large; no more than the limit is ever held. Raises
    ``Overloaded`` where the intake has no room for it.
    """
    if content_length is not None:
        if content_length > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        held.check(content_length)
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
        held.take(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
