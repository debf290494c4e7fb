"""A steplog server, as the command line talks to it: over HTTP, with the standard library alone."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from steplog.cli.errors import EventRefused
from steplog.errors import NotFound, Refused, ServerUnreachable
from steplog.server.answers import Metadata, Page

DEFAULT_URL = "http://127.0.0.1:8288"
TIMEOUT_S = 10.0
T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """The body of a REST answer."""

    data: T
    metadata: Metadata
    page: Page | None = None


class _Accepted(msgspec.Struct):
    """The body of the event API's answers."""

    ids: list[str] = []
    status: int = 0
    error: str = ""


class Server:
    """A server by its address. Raises ``ServerUnreachable`` where nothing answers."""

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            self.url = f"http://{self.url}"
        self._signing_key = os.environ.get("STEPLOG_SIGNING_KEY")
        is_local = urllib.parse.urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if is_local else []  # a proxy would look on its own machine
        self._opener = urllib.request.build_opener(*proxies)

    def is_up(self) -> bool:
        """Whether anything answers."""
        try:
            self._request("/health")
        except ServerUnreachable:
            return False
        return True

    def get(
        self, path: str, type_: type[T], *, wait_s: float = 0, **query: str | int | Sequence[str] | None
    ) -> Answer[T]:
        """Read. Raises ``NotFound``, or ``Refused`` with what the server says."""
        given = {name: value for name, value in query.items() if value is not None}
        if wait_s > 0:
            given["wait"] = f"{wait_s * 1000:.0f}ms"
        text = urllib.parse.urlencode(given, doseq=True)
        status, body = self._request(f"{path}?{text}" if text else path, timeout_s=TIMEOUT_S + wait_s)
        if status == 200:
            return msgspec.json.decode(body, type=Answer[type_])  # type: ignore[valid-type]  # a value at run time
        said = _error_of(body)
        if status == 404:
            raise NotFound(said)
        if status == 401:
            raise Refused(f"{self.url} shows this to holders of its signing key alone; set STEPLOG_SIGNING_KEY")
        if status == 503:
            raise ServerUnreachable(f"{self.url} does not read at the moment: {said}")
        raise Refused(f"{status} from {self.url}: {said}")

    def send(self, event_key: str, event: dict[str, Any]) -> str:
        """Send one event, and return its internal id. Raises ``EventRefused``."""
        key = urllib.parse.quote(event_key, safe="")
        status, body = self._request(f"/e/{key}", json.dumps(event).encode())
        if status == 503:
            raise ServerUnreachable(f"{self.url} takes no events at the moment: {_error_of(body)}")
        if status != 200:
            hint = "; give its event key with --event-key, or set STEPLOG_EVENT_KEY" if status == 401 else ""
            raise EventRefused(f"{status} from {self.url}, the event is refused\n  {_error_of(body)}{hint}")
        return msgspec.json.decode(body, type=_Accepted).ids[0]

    def _request(self, path: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        headers = {"content-type": "application/json"} if body is not None else {}
        if self._signing_key:
            headers["authorization"] = f"Bearer {self._signing_key}"
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - http or https, see __init__
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
                raise ServerUnreachable(f"{self.url} did not answer within {timeout_s:.0f} s") from error
            raise ServerUnreachable(
                f"nothing answers at {self.url}; start it: steplog dev orders.py   (or set STEPLOG_URL)"
            ) from error


def _error_of(body: bytes) -> str:
    """What a refusal says."""
    try:
        return msgspec.json.decode(body, type=_Accepted).error
    except msgspec.DecodeError:
        return body[:200].decode(errors="replace")
