"""``Client``: what a program uses that sends events and starts functions, and need not be the one that runs them."""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec

from steplog.client.address import address
from steplog.client.api import RETRIES, TIMEOUT_S, Api
from steplog.client.blocking import Blocking, completed
from steplog.client.threaded import Threaded
from steplog.durations import Duration, milliseconds
from steplog.event import Event
from steplog.functions import Function
from steplog.outgoing import outgoing_data, outgoing_events, written
from steplog.values import load

A = TypeVar("A")
R = TypeVar("R")
Events = Event[Any] | Sequence[Event[Any]]


class Client:
    """A server, from outside: one client serves all threads and event loops of a process.

    Without arguments it is the server of ``STEPLOG_URL`` with ``STEPLOG_EVENT_KEY`` and ``STEPLOG_SIGNING_KEY``, else
    ``steplog dev`` on this machine, which takes any key (EVT-21). ``timeout`` is that of one request, 10 s;
    ``retries`` how often a request is sent again that got no answer, or 5xx (PY-10): no event counts twice by it.

    Every method raises ``ServerUnreachable`` where no answer comes, ``Unauthorized`` for a wrong key, and another
    ``Refused`` with what the server says. Connections are kept; ``aclose``, or ``close``, ends them, and the next call
    makes new ones.
    """

    def __init__(
        self, url: str | None = None, *, event_key: str | None = None, signing_key: str | None = None,
        env: str | None = None, timeout: Duration | None = None, retries: int = RETRIES,
    ) -> None:  # fmt: skip
        self._address = address(url, event_key=event_key, signing_key=signing_key, env=env)
        self._timeout_s = TIMEOUT_S if timeout is None else milliseconds(timeout) / 1000
        self._retries = retries
        self._blocking = Blocking(self._address)
        self._blocking_api = self._api_over(self._blocking)
        self._opening = threading.Lock()
        self._threaded: Threaded | None = None
        self._closer: weakref.finalize[..., Client] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return self._address.url

    # --- events

    async def send(self, events: Events) -> list[str]:
        """Send an event or several, in one request; returns their internal ids, in order (EVT-09, PY-08).

        They are durable when it returns. Raises ``EventInvalid`` before anything is sent, for more than 5,000 too, and
        ``EventRefused`` where the server takes none or not all.
        """
        checked = outgoing_events(_listed(events), None)
        threaded, api = self._elsewhere()
        return await threaded.call(api.send(checked))

    def send_sync(self, events: Events) -> list[str]:
        """Do what ``send`` does, and block meanwhile."""
        return completed(self._blocking_api.send(outgoing_events(_listed(events), None)))

    # --- functions

    @overload
    def invoke(
        self, function: Function[A, R], data: A, *, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def invoke(
        self, function: str, data: Any = None, *, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, Any]: ...
    async def invoke(
        self,
        function: Function[Any, Any] | str,
        data: Any = None,
        *,
        timeout: Duration | None = None,  # noqa: ASYNC109
    ) -> Any:
        """Start a function, whatever triggers it, wait for its end, and return what it returns (FN-03).

        ``function`` is one of an app, whose return annotation decodes the result, or an id, ``<app>-<function>``.
        Without ``timeout`` it waits as long as it takes.

        Raises ``RunFailed`` with the run's error, ``InvokeTimeout`` (the run goes on), ``NotFound`` for a function that
        the server does not have.
        """
        id_, text = _id_of(function), _data_of(function, data)
        threaded, api = self._elsewhere()
        return _result(function, await threaded.call(api.invoke(id_, text, _seconds(timeout))))

    @overload
    def invoke_sync(self, function: Function[A, R], data: A, *, timeout: Duration | None = None) -> R: ...
    @overload
    def invoke_sync(self, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    def invoke_sync(
        self, function: Function[Any, Any] | str, data: Any = None, *, timeout: Duration | None = None
    ) -> Any:
        """Do what ``invoke`` does, and block meanwhile."""
        ended = self._blocking_api.invoke(_id_of(function), _data_of(function, data), _seconds(timeout))
        return _result(function, completed(ended))

    # --- signals

    async def send_signal(self, signal: str, data: Any = None) -> str | None:
        """Send a signal to the run that waits for it; returns that run's id, None where none waits (REST-16).

        ``data`` is any JSON value. It is sent again only where it cannot have arrived.
        """
        text = written(data, f"signal {signal}")
        threaded, api = self._elsewhere()
        return await threaded.call(api.signal(signal, text))

    def send_signal_sync(self, signal: str, data: Any = None) -> str | None:
        """Do what ``send_signal`` does, and block meanwhile."""
        return completed(self._blocking_api.signal(signal, written(data, f"signal {signal}")))

    # --- connections

    def close(self) -> None:
        """Close the connections. Calls of other threads and tasks that wait for an answer get ``ServerUnreachable``."""
        with self._opening:
            closer, self._closer, self._threaded = self._closer, None, None
        if closer is not None:
            closer()
        self._blocking.close()

    async def aclose(self) -> None:
        """Do what ``close`` does, without blocking the loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _elsewhere(self) -> tuple[Threaded, Api]:
        """The thread that carries asynchronous calls; it ends with this client, or with the process."""
        with self._opening:
            threaded = self._threaded
            if threaded is None or threaded.pid != os.getpid():  # after a fork it is the parent's
                if self._closer is not None:
                    self._closer.detach()
                    _inherited.append(threaded)
                threaded = self._threaded = Threaded(self._address)
                self._closer = weakref.finalize(self, threaded.close)
        return threaded, self._api_over(threaded)

    def _api_over(self, transport: Blocking | Threaded) -> Api:
        return Api(self._address, transport, timeout_s=self._timeout_s, retries=self._retries)


_inherited: list[Threaded | None] = []  # of a parent: collecting one would close what the parent uses


def _listed(events: Events) -> Sequence[Event[Any]]:
    return [events] if isinstance(events, Event) else events


def _id_of(function: Function[Any, Any] | str) -> str:
    return function if isinstance(function, str) else function.id


def _data_of(function: Function[Any, Any] | str, data: Any) -> bytes:
    return b"{}" if data is None else outgoing_data(data, f"a call of {_id_of(function)}")


def _result(function: Function[Any, Any] | str, output: bytes) -> Any:
    if isinstance(function, str):
        return msgspec.json.decode(output)
    return load(output, function.decode_output, function.id)


def _seconds(timeout: Duration | None) -> float | None:
    return None if timeout is None else milliseconds(timeout) / 1000
