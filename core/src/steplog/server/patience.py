"""Ends connections whose request arrives too slowly, or whose head is too large; uvicorn waits for ever (fault I3).

A request that is there at once, as nearly all are, costs no timer. A body's size is bounded where it is read.
"""

import asyncio
from typing import Any, Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client may take to send a request, and how large its head may be."""

    head_s: float = 10.0
    body_s: float = 30.0
    head_bytes: int = 64 << 10


def protocol(patience: Patience) -> type[asyncio.Protocol]:
    """Make the class of connections with a patience: uvicorn wants a class."""

    class Connection(_Connection):
        _patience = patience

    return Connection


class _Connection(HttpToolsProtocol):
    _patience: Patience
    _expects: Literal["head", "body"] | None = "head"
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._expects
        super().data_received(data)
        if self._expects != before or self._expects is None:
            self._unwatch()
        if self._expects is not None and self._deadline is None:
            self._watch(self._expects)
        if self._expects == "head":
            self._head_bytes += len(data)
            if self._head_bytes > self._patience.head_bytes:
                self.transport.abort()

    def on_message_begin(self) -> None:
        self._expects, self._head_bytes = "head", 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._expects = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expects = None
        super().on_message_complete()

    def _watch(self, what: Literal["head", "body"]) -> None:
        wait_s = self._patience.head_s if what == "head" else self._patience.body_s
        self._deadline = self.loop.call_later(wait_s, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
