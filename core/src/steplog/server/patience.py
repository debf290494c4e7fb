"""Ends connections whose client sends or reads too slowly, or whose head is too large; uvicorn waits for ever (I3).

A request that is there at once, as nearly all are, costs no timer. A body's size is bounded where it is read.
"""

import asyncio
from typing import Any, Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client may take to send a request and to read the answer, how large a head may be, how many come."""

    head_s: float = 10.0
    body_s: float = 30.0
    answer_s: float = 60.0
    head_bytes: int = 64 << 10
    connections: int = 8_192  # at once; further ones are closed as they come


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
    _unread: asyncio.TimerHandle | None = None  # while the client leaves an answer unread

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._patience.connections:
            transport.abort()
            return
        self._watch("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._forget_unread()
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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._patience.answer_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_unread()
        super().resume_writing()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self, what: Literal["head", "body"]) -> None:
        wait_s = self._patience.head_s if what == "head" else self._patience.body_s
        self._deadline = self.loop.call_later(wait_s, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
