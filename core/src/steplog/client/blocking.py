"""Carries requests with the standard library, in the thread that calls: for synchronous calls and the command line.

Its methods are coroutines because ``Api`` has one form; they never wait for a loop, so ``completed`` runs them.
"""

import os
import select
import threading
import time
import urllib.parse
import weakref
from collections.abc import Coroutine
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, TypeVar

from steplog.client.address import Address
from steplog.client.api import Call, Reply, Unanswered

IDLE_S = 15.0  # a connection that nobody used for longer is not used again: the other side may be closing it
T = TypeVar("T")
_Idle = tuple[HTTPConnection, float]  # and since when, by the monotonic clock


def completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose awaits all block, to its end."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a blocking transport does not suspend")


class Blocking:
    """Connections that are kept and used again, each by one thread at a time."""

    def __init__(self, address: Address) -> None:
        parts = urllib.parse.urlsplit(address.url)
        proxy = urllib.parse.urlsplit(address.proxy or "")
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._proxy = (proxy.hostname, proxy.port) if proxy.hostname else None
        self._prefix = address.url if self._proxy and not self._is_tls else parts.path
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)
        self._pid = os.getpid()

    async def exchange(self, call: Call) -> Reply:
        connection = self._take(call.timeout_s)
        is_sent = False
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(call.timeout_s)
            is_sent = True
            connection.request(call.method, self._prefix + call.path, call.body, call.headers)
            response = connection.getresponse()
            reply = Reply(
                status=response.status, body=response.read(), retry_after=response.getheader("retry-after")
            )  # fmt: skip
        except (OSError, HTTPException) as error:
            connection.close()
            raise Unanswered(is_sent=is_sent, is_late=isinstance(error, TimeoutError)) from error
        except BaseException:  # an interrupt: its answer may still come
            connection.close()
            raise
        if connection.sock is not None:  # the server keeps it
            with self._lock:
                self._idle.append((connection, time.monotonic()))
        return reply

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - as everything here

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            _close(self._idle)

    def _take(self, timeout_s: float) -> HTTPConnection:
        """The connection that was used last, or a new one."""
        with self._lock:
            if self._pid != os.getpid():  # after a fork they are the parent's
                self._pid = os.getpid()
                _close(self._idle)
            while self._idle:
                connection, since_s = self._idle.pop()
                if time.monotonic() - since_s < IDLE_S and not _is_gone(connection):
                    return connection
                connection.close()
        kind = HTTPSConnection if self._is_tls else HTTPConnection
        if self._proxy is None:
            return kind(self._host, self._port, timeout=timeout_s)
        connection = kind(*self._proxy, timeout=timeout_s)
        if self._is_tls:
            connection.set_tunnel(self._host, self._port)
        return connection


def _is_gone(connection: HTTPConnection) -> bool:
    """Whether the other side has closed a connection that nobody uses: then there is something to read, its end."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _close(idle: list[_Idle]) -> None:
    while idle:
        idle.pop()[0].close()
