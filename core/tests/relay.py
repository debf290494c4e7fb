"""An HTTP server between a client and a steplog server: it counts, it notes, and it fails as a test says."""

import http.client
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

TIMEOUT_S = 90  # of a request that waits


class Fault(Enum):
    """What can become of a request."""

    LOSES_REQUEST = "no answer, and the server knows nothing of it"
    LOSES_ANSWER = "no answer, but the server did it"
    HANGS_UP = "an answer, and then the end of a connection that was to be kept"


LOSES_REQUEST, LOSES_ANSWER, HANGS_UP = Fault


class Seen(msgspec.Struct, frozen=True):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case

    @property
    def seed(self) -> str | None:
        return self.headers.get("x-inngest-event-id-seed")


class Relay:
    """``faults`` are what becomes of the next POSTs: nothing is answered, or that status with ``retry-after: 0``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.faults: list[Fault | int] = []
        self.is_broken_for_reads = False
        self.seen: list[Seen] = []
        self.connections = self.closed = 0

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]


@contextmanager
def relayed(upstream: str, *, host: str = "127.0.0.1") -> Iterator[Relay]:
    """Stand in front of a server until the block ends."""
    target = urllib.parse.urlsplit(upstream)
    assert target.hostname is not None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = TIMEOUT_S

        def setup(self) -> None:
            super().setup()
            relay.connections += 1

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._pass(502 if relay.is_broken_for_reads else None)

        def do_POST(self) -> None:
            self._pass(relay.faults.pop(0) if relay.faults else None)

        def _pass(self, fault: Fault | int | None) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            relay.seen.append(
                Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            )
            if isinstance(fault, int):
                self._answer(fault, b"<h1>Out of order</h1>", {"retry-after": "0"})
                return
            if fault == LOSES_REQUEST:
                self.close_connection = True
                return
            path = urllib.parse.urlsplit(self.path)  # a proxy is asked for a whole address
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=TIMEOUT_S)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, path._replace(scheme="", netloc="").geturl(), body or None, headers)
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
            if fault == LOSES_ANSWER:
                self.close_connection = True
                return
            self.close_connection = fault == HANGS_UP
            kept = {"content-type", "retry-after"}
            self._answer(response.status, answer, {k: v for k, v in response.getheaders() if k.lower() in kept})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            relay.closed += 1

    with Server((host, 0), Handler) as server:
        relay = Relay(f"http://{host}:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
