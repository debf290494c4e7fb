"""Listening and stopping."""

import asyncio
import http.client
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from steplog.errors import ConfigInvalid, PortInUse
from steplog.server.http import Receive, Scope, Send, answer_json
from steplog.server.listen import bind, serve


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


@pytest.mark.skipif(not has_ipv6(), reason="needs ::1")
def test_a_port_taken_on_one_address_is_taken() -> None:
    with closing(socket.socket(socket.AF_INET6)) as other:
        other.bind(("::1", 0))
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
            asyncio.get_running_loop().call_later(0.15, app.go_on.set)
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


def run(story: Any) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(story, 10))
