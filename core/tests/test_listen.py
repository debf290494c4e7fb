"""Listening and stopping."""

import asyncio
import http.client
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

import pytest
import uvloop

from steplog.errors import ConfigInvalid, PortInUse
from steplog.server.http import Held, Intake, Receive, Scope, Send, answer_json, read_body
from steplog.server.listen import FIRST_READ_S, serve
from steplog.server.patience import Patience
from steplog.server.sockets import bind

T = TypeVar("T")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def bound(port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = bind(port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def test_both_loopback_addresses_share_a_port() -> None:
    with bound() as sockets:
        names = [sock.getsockname()[:2] for sock in sockets]
        port = names[0][1]
        assert names == [("127.0.0.1", port), ("::1", port)][: 2 if has_ipv6() else 1]


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with bound() as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(PortInUse) as raised:
            bind(port)
    assert str(raised.value) == f"port {port} is taken; take another: --port {port + 2}"


def test_a_port_taken_on_one_address_is_taken() -> None:
    family, address = (socket.AF_INET6, "::1") if has_ipv6() else (socket.AF_INET, "127.0.0.1")
    with closing(socket.socket(family)) as other:
        other.bind((address, 0))
        other.listen()
        with pytest.raises(PortInUse):
            bind(other.getsockname()[1])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"192\.0\.2\.1 port 0"):
        bind(0, "192.0.2.1")


def test_every_address_of_this_machine() -> None:
    (sock,) = bind(0, "0.0.0.0")
    assert sock.getsockname()[0] == "0.0.0.0"
    sock.close()


class Slow:
    """An application whose answer waits until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            self.begun.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
        await answer_json(send, 200, b"{}", [])


async def go_on_when_it_stops(app: Slow, port: int) -> None:
    """Let the slow answer come when nobody is accepted any more and what was accepted has been read."""
    with suppress(OSError):
        while True:
            await asyncio.to_thread(get, port, "/")
    await asyncio.sleep(4 * FIRST_READ_S)
    app.go_on.set()


def get(port: int, path: str) -> tuple[int, http.client.HTTPMessage]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers


def test_a_stop_lets_requests_in_flight_end() -> None:
    async def story() -> None:
        app, sockets = Slow(), bind(0)
        port = sockets[0].getsockname()[1]
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        stops: list[bool] = []
        async with serve(app, sockets, on_stop=lambda: stops.append(app.begun.is_set())):
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
            assert (await asyncio.to_thread(get, port, "/"))[0] == 200
            slow = asyncio.ensure_future(asyncio.to_thread(get, port, "/slow"))
            await app.begun.wait()
            ending = asyncio.ensure_future(go_on_when_it_stops(app, port))
        await ending
        status, headers = await slow
        assert (status, headers["connection"], stops) == (200, "close", [True])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(get, port, "/")

    run(story())


def test_a_request_that_never_ends_does_not_hold_the_stop() -> None:
    async def story() -> None:
        app, sockets = Slow(), bind(0)
        async with serve(app, sockets, grace_s=0):
            slow = asyncio.ensure_future(asyncio.to_thread(get, sockets[0].getsockname()[1], "/slow"))
            await app.begun.wait()
        assert (await slow)[0] == 500
        assert app.was_cancelled

    run(story())


def test_a_service_that_is_cancelled_stops_in_order() -> None:
    async def story() -> None:
        app, sockets = Slow(), bind(0)
        is_ready = asyncio.Event()

        async def service() -> None:
            async with serve(app, sockets):
                is_ready.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(service())
        await is_ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(sock.fileno() == -1 for sock in sockets)

    run(story())


# --- slow clients

IMPATIENT = Patience(head_s=0.1, body_s=0.1, head_bytes=4_000)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"


class Reader:
    """An application that answers with the length of what it was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, None, 1_000, Held(Intake(1_000)))
        await answer_json(send, 200, b"%d" % len(body), [])


def exchange(app: Any, *parts: bytes, patience: Patience = IMPATIENT) -> bytes:
    """Send parts, a moment apart, and read until the server closes."""

    async def story() -> bytes:
        sockets = bind(0)
        async with serve(app, sockets, patience=patience):
            reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.02)
            try:
                return await reader.read()
            except ConnectionResetError:
                return b"reset"
            finally:
                writer.close()

    return run(story())


@pytest.mark.spec("FAULT-I3")
@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"POST / HT"],
        [b"POST / HTTP/1.1\r\n", b"host: x\r\n", b"a: b\r\n"],
        [HEAD],
        [HEAD, b"12345"],
        [b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"5\r\n12345\r\n"],
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_cut_off(parts: list[bytes]) -> None:
    assert exchange(Reader(), *parts) in (b"", b"reset")


def test_a_second_request_is_waited_for_no_longer_than_the_first() -> None:
    answers = exchange(Reader(), HEAD + b"1234567890", HEAD + b"1")
    assert answers.count(b"HTTP/1.1 200") == 1


@pytest.mark.spec("FAULT-I3")
def test_a_head_is_bounded() -> None:
    patient = Patience(head_bytes=4_000)
    for parts in ([b"GET /" + b"x" * 5_000], [b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 1_000 + b"\r\n"] * 5]):
        assert exchange(Reader(), *parts, patience=patient) in (b"", b"reset")


def test_pieces_that_come_in_time_are_one_request() -> None:
    parts = [HEAD[:20], HEAD[20:], b"12345", b"67890"]
    answers = exchange(
        Reader(), *parts, HEAD + b"1234567890" + HEAD.replace(b"host", b"connection: close\r\nhost"), b"x" * 10
    )
    assert answers.count(b"HTTP/1.1 200") == 3


class Large:
    """An application whose answer fills every buffer on its way."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 10_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.ended.set()


GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.spec("FAULT-I3")
def test_an_answer_that_nobody_reads_is_dropped() -> None:
    async def story() -> bytes:
        app, sockets = Large(), bind(0)
        async with serve(app, sockets, patience=Patience(answer_s=0.1)):
            reader, writer = await asyncio.open_connection(*sockets[0].getsockname(), limit=1_000)
            writer.write(GET)
            await app.ended.wait()  # it waited for the client, who is gone now
            answer = await _rest(reader)
            writer.close()
            return answer

    assert run(story()).count(b"x") < 30_000_000


@pytest.mark.spec("FAULT-I3")
def test_an_answer_that_is_read_in_time_comes_whole() -> None:
    async def story() -> bytes:
        sockets = bind(0)
        async with serve(Large(), sockets, patience=Patience(answer_s=5)):
            reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
            writer.write(GET)
            answer = await reader.read()
            writer.close()
            return answer

    assert run(story()).count(b"x") >= 30_000_000


@pytest.mark.spec("FAULT-I3")
def test_more_connections_than_the_bound_are_closed_as_they_come() -> None:
    async def story() -> None:
        sockets = bind(0)
        address = sockets[0].getsockname()
        async with serve(Reader(), sockets, patience=Patience(connections=3)):
            held = [await asyncio.open_connection(*address) for _ in range(3)]
            await asyncio.sleep(0.02)
            reader, writer = await asyncio.open_connection(*address)
            assert await _rest(reader) == b""
            writer.close()
            for _, one in held:  # those that were there are served
                one.write(HEAD.replace(b"host", b"connection: close\r\nhost") + b"1234567890")
            for reader, one in held:
                assert b"HTTP/1.1 200" in await _rest(reader)
                one.close()
            assert (await asyncio.to_thread(get, address[1], "/"))[0] == 200

    run(story())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.spec("FAULT-I3")
def test_slow_clients_do_not_hold_others() -> None:
    async def story() -> None:
        sockets = bind(0)
        address = sockets[0].getsockname()
        async with serve(Reader(), sockets):
            slow = [await asyncio.open_connection(*address) for _ in range(200)]
            for _, writer in slow:
                writer.write(HEAD + b"1")
            for _ in range(20):
                assert (await asyncio.to_thread(get, address[1], "/"))[0] == 200
            for _, writer in slow:
                writer.close()

    run(story())


def run(story: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(story, 10))
