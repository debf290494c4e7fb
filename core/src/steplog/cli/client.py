"""A steplog server, as the command line talks to it: over HTTP, with the standard library alone."""

import urllib.parse
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from steplog.client.address import DEFAULT_URL, address
from steplog.client.api import Api
from steplog.client.blocking import Blocking, completed
from steplog.event import Event
from steplog.outgoing import outgoing_data, outgoing_event, written
from steplog.server.answers import Metadata, Page

__all__ = ["DEFAULT_URL", "Answer", "Server"]

RETRIES = 1  # who watches would rather know
T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """The body of a REST answer."""

    data: T
    metadata: Metadata
    page: Page | None = None


class Server:
    """A server by its address. Its methods raise what those of ``Api`` raise."""

    def __init__(self, url: str | None = None, *, event_key: str | None = None) -> None:
        where = address(url, event_key=event_key)
        self.url = where.url
        self._api = Api(where, Blocking(where), retries=RETRIES)

    def is_up(self) -> bool:
        """Whether anything answers."""
        return completed(self._api.is_up())

    def get(
        self, path: str, type_: type[T], *, wait_s: float = 0, **query: str | int | Sequence[str] | None
    ) -> Answer[T]:
        """Read. Raises ``NotFound``."""
        given = {name: value for name, value in query.items() if value is not None}
        if wait_s > 0:
            given["wait"] = f"{wait_s * 1000:.0f}ms"
        text = urllib.parse.urlencode(given, doseq=True)
        return completed(self._api.read(f"{path}?{text}" if text else path, Answer[type_], wait_s))  # type: ignore[valid-type]  # a value at run time

    def send(self, event: Event[object]) -> str:
        """Send one event, and return its internal id. Raises ``EventInvalid`` or ``EventRefused``."""
        return completed(self._api.send([outgoing_event(event, None)]))[0]

    def start(self, function: str, data: object) -> str:
        """Start a function, and return the internal id of its event. Raises ``NotFound``."""
        return completed(self._api.start(function, outgoing_data(data, f"a call of {function}")))

    def run_of(self, event_id: str, function: str, *, deadline_s: float | None) -> str | None:
        """Wait until an event has started a function, and return the run; None where it has not by then."""
        return completed(self._api.run_of(event_id, function, deadline_s))

    def signal(self, name: str, data: object) -> str | None:
        """Send a signal, and return the run that goes on; None where none waits."""
        return completed(self._api.signal(name, written(data, f"signal {name}")))
