"""Frames between the functions' process and the engine's: msgpack with its length before it, on a socket pair."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from steplog.config.connectors import Connector
from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, FunctionSpec
from steplog.engine.messages import EventAccepted, Message
from steplog.member import ClusterConfig
from steplog.server.config import ServerConfig
from steplog.server.validation import Misfit

LENGTH_BYTES = 4


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The first frame: what the engine's process is to do. ``sockets`` are inherited file numbers to serve HTTP on."""

    log_path: str  # of a SQLite log
    history: str | None  # its address
    functions: list[FunctionSpec]
    config: EngineConfig
    server: ServerConfig | None = None
    sockets: list[int] = []
    cluster: ClusterConfig | None = None  # of a log on Kafka
    connectors: dict[str, Connector] = {}


class Post(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Messages for the engine."""

    messages: list[Message]


class AskOpen(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Which of these runs are open?"""

    question: int
    runs: list[bytes]


class AnswerFit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The answer to ``AskFit``."""

    question: int
    misfit: Misfit | None


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Hand back what is in flight, and end."""


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The log is open, turns run."""

    record_bytes: int | None = None  # the largest record that the log takes; None: any size


class Serving(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """HTTP requests are answered."""


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Effects of committed turns."""

    effects: list[Effect]


class AnswerOpen(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The answer to ``AskOpen``."""

    question: int
    is_open: list[bool]


class AskFit(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Do the data of these events fit their types?"""

    question: int
    events: list[EventAccepted]


class Unavailable(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The log cannot be written; what was in flight is dropped."""

    reason: str


class Available(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The log can be written again."""


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine ended with an error."""

    code: str
    text: str


class Ended(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine ended in order."""


Down = Open | Post | AskOpen | AnswerFit | Stop
Up = Opened | Serving | Release | AnswerOpen | AskFit | Unavailable | Available | Failed | Ended

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
decode_down: Callable[[bytes], Down] = msgspec.msgpack.Decoder(Down).decode
decode_up: Callable[[bytes], Up] = msgspec.msgpack.Decoder(Up).decode


def pack(frame: msgspec.Struct) -> bytes:
    """Write a frame, with its length before it."""
    body = _encode(frame)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameStream(asyncio.Protocol, Generic[T]):
    """One end of the socket pair."""

    def __init__(self, decode: Callable[[bytes], T], receive: Callable[[T], None], closed: Callable[[], None]) -> None:
        self._decode, self._receive, self._closed = decode, receive, closed
        self._transport: asyncio.Transport
        self._buffer = bytearray()

    def send(self, frame: msgspec.Struct) -> None:
        """Send a frame; it is gathered with others if the other end is slow."""
        self._transport.write(pack(frame))

    def close(self) -> None:
        """Close after what was sent."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write"), "a stream is written to"
        self._transport = transport  # type: ignore[assignment] # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= LENGTH_BYTES:
            stop = start + LENGTH_BYTES + int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if stop > end:
                break
            frame = self._decode(bytes(memoryview(buffer)[start + LENGTH_BYTES : stop]))
            start = stop
            self._receive(frame)
        if start:
            del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed()
