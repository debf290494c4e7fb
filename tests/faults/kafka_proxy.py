"""A TCP proxy between clients and one broker: it counts requests by their api, and fails as a test says (B2, B15, F3).

The broker has to name the proxy's port to its clients: ``Cluster(proxies=…)``. A request's frame is its size in four
bytes, api key and version in two each, a correlation id in four, and then what a proxy need not know; the answer's
frame is its size and the correlation id. Nothing is changed, and of one connection nothing is put in another order.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from enum import IntEnum
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from compose.kafka_local import Broker
from compose.kafka_local.ports import HOST

CALL_S = 30  # of what a test asks of the proxy's thread
_REQUEST = struct.Struct(">hhi")
_SIZE = struct.Struct(">i")
T = TypeVar("T")


class Api(IntEnum):
    """The requests of Kafka's protocol that steplog's clients send."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32
    CREATE_PARTITIONS = 37


At = Literal["request", "answer"]  # before the broker has it, or after it acted


class Fault:
    """What becomes of the next ``times`` requests of one api, or of all. ``fired`` counts them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, api: Api, at: At, *, times: int | None, delay_s: float | None = None,
        hangs_up: bool = False,
    ) -> None:  # fmt: skip
        self.api, self.at, self.hangs_up = api, at, hangs_up
        self._loop, self._left, self._delay_s = loop, times, delay_s
        self._released = asyncio.Event()
        self._has_fired = threading.Condition()
        self.fired = 0

    def wait_until_fired(self, times: int = 1, within_s: float = CALL_S) -> None:
        """Wait until so many requests have met it; it is an error where they do not come."""
        with self._has_fired:
            assert self._has_fired.wait_for(lambda: self.fired >= times, within_s), f"{self.api.name} did not come"

    def release(self) -> None:
        """Let what it holds go on, and all that comes."""
        self._left = 0
        self._loop.call_soon_threadsafe(self._released.set)

    def takes(self, api: int, at: At) -> bool:
        """Whether this frame meets it; if so, that is counted."""
        if api != self.api or at != self.at or self._left == 0:
            return False
        self._left = None if self._left is None else self._left - 1
        with self._has_fired:
            self.fired += 1
            self._has_fired.notify_all()
        return True

    async def hold(self) -> None:
        """Wait as long as it says."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._delay_s):
                await self._released.wait()


class KafkaProxy:
    """Stands in front of a broker until the context ends, in a thread of its own.

    What a test asks for is in force when the call returns.
    """

    def __init__(self, broker: Broker) -> None:
        assert broker.ports.proxy is not None, "the cluster was started without ports of proxies"
        assert broker.ports.proxied is not None, "it listens for the proxy too"
        self.port, self._upstream = broker.ports.proxy, broker.ports.proxied
        self.counts: Counter[int] = Counter()  # requests that came, by api
        self._faults: list[Fault] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kafka-proxy", daemon=True)
        self._flows = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- faults

    def delay(self, api: Api, delay_s: float, *, at: At = "request", times: int | None = None) -> Fault:
        """Pass each of these on later, and with it what follows on its connection."""
        return self._add(Fault(self._loop, api, at, times=times, delay_s=delay_s))

    def hold(self, api: Api, *, at: At = "request", times: int | None = 1) -> Fault:
        """Keep these until ``release``."""
        return self._add(Fault(self._loop, api, at, times=times))

    def hang_up(self, api: Api, *, at: At = "request", times: int | None = 1) -> Fault:
        """Reset the connection of these: unseen by the broker, or after it acted but before its answer is passed on."""
        return self._add(Fault(self._loop, api, at, times=times, delay_s=0, hangs_up=True))

    def reset(self) -> int:
        """Reset all connections; returns how many clients had."""
        return self._call(self._reset())

    def stall(self) -> None:
        """Pass on no byte in either direction, with all connections open, until ``resume``."""
        self._loop.call_soon_threadsafe(self._flows.clear)
        self._call(asyncio.sleep(0))

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._flows.set)
        self._call(asyncio.sleep(0))

    def clear(self) -> None:
        """Forget all faults: what is held goes on, and what is stalled."""
        for fault in self._faults:
            fault.release()
        self._faults = []
        self.resume()

    def _add(self, fault: Fault) -> Fault:
        self._faults = [*self._faults, fault]
        return fault

    # --- its thread

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.clear()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _listen(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        assert self._server is not None, "it listens"
        self._server.close()
        while self._tasks:  # one that is about to connect is not open yet
            await self._reset()
            await asyncio.wait(self._tasks, timeout=0.01)

    async def _reset(self) -> int:
        for writer in self._open:
            _reset(writer)
        return len(self._open) // 2

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Pass frames on between a client and the broker until one of them hangs up."""
        task = asyncio.current_task()
        assert task is not None, "a server's callback runs in a task"
        self._tasks.add(task)
        try:
            await self._flows.wait()
            broker, to_broker = await asyncio.open_connection(HOST, self._upstream)
        except OSError:
            _reset(to_client)
            self._tasks.discard(task)
            return
        asked: dict[int, int] = {}  # correlation id: api
        self._open |= {to_client, to_broker}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(client, to_broker, "request", asked))
                group.create_task(self._pass(broker, to_client, "answer", asked))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= {to_client, to_broker}
            _reset(to_client)
            _reset(to_broker)
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at: At, asked: dict[int, int]
    ) -> None:
        while True:
            size = await reader.readexactly(_SIZE.size)
            frame = await reader.readexactly(*_SIZE.unpack(size))
            if at == "request":
                api, _, correlation = _REQUEST.unpack_from(frame)
                self.counts[api] += 1
                asked[correlation] = api
            else:
                api = asked.pop(*_SIZE.unpack_from(frame))
            for fault in self._faults:
                if fault.takes(api, at):
                    await fault.hold()
                    if fault.hangs_up:
                        raise ConnectionAbortedError
            await self._flows.wait()
            writer.writelines((size, frame))
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Hang up as a network does that breaks: the other side gets a reset, and what was on its way is lost."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
