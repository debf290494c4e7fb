"""What a server is asked, how often, and how its answers are read (docs/client.md); what carries it is a ``Transport``.

Every send and every start carries a seed that is made once a call, from which the server makes the internal ids: so a
request whose answer was lost is sent again and starts nothing twice (EVTW-05, PY-10).
"""

import binascii
import os
import random
import time
import urllib.parse
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from steplog.client.address import Address
from steplog.engine.operations import ErrorInfo, EventOut
from steplog.errors import (
    EventRefused,
    InvokeTimeout,
    NotFound,
    Refused,
    RunFailed,
    ServerUnreachable,
    SteplogError,
    Unauthorized,
    native_name,
)

TIMEOUT_S = 10.0
RETRIES = 4  # after the first attempt
WAITING_RETRIES = 12  # of who waits for a run: over half a minute, in which a server can start again
BACKOFF_S = 0.1  # doubled by each attempt, and up to as much again by chance
MOST_BACKOFF_S = 5.0
MOST_RETRY_AFTER_S = 30.0
POLL_S = 30.0  # a request that waits for the end of a run; the server allows 60 s
LEAST_POLL_S = 0.05  # between two looks for what is not there yet
MOST_POLL_S = 1.0
HISTORY_S = 30.0  # how long an event may take to get into the history

_NULL = msgspec.Raw(b"null")
T = TypeVar("T")
encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``path`` begins below the server's address."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None = None
    timeout_s: float
    is_wait: bool  # it may take long, and costs the server nothing


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""

    status: int
    body: bytes
    retry_after: str | None = None


class Unanswered(Exception):
    """No answer came. ``is_sent``: the request may have arrived all the same."""

    def __init__(self, *, is_sent: bool, is_late: bool) -> None:
        super().__init__()
        self.is_sent, self.is_late = is_sent, is_late


class Transport(Protocol):
    """Carries requests."""

    async def exchange(self, call: Call) -> Reply:
        """Send a request and read the answer, a redirection too. Raises ``Unanswered``."""
        ...

    async def pause(self, seconds: float) -> None: ...


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to know of a run. ``output`` of a failed one is its error."""

    run_id: str
    function: str
    state: str
    ended_at: str | None
    output: msgspec.Raw = _NULL


class _Ref(msgspec.Struct):
    run: str
    function: str


class _Skip(msgspec.Struct):
    function: str
    reason: str


class _Event(msgspec.Struct):
    """What a client needs to know of an event."""

    runs: list[_Ref]
    skipped: list[_Skip]


class _Wire(msgspec.Struct, omit_defaults=True):
    """An event as it is sent."""

    name: str
    data: msgspec.Raw
    id: str | None = None
    ts: int | None = None
    v: str | None = None
    user: msgspec.Raw | None = None


class _Said(msgspec.Struct):
    """The body of an answer that is no read's."""

    ids: list[str] = []
    error: str | None = None
    id: str = ""
    run_id: str = ""


class _Read(msgspec.Struct, Generic[T]):
    data: T


class Api:
    """A server. Its methods raise ``ServerUnreachable``, ``Unauthorized`` and other ``Refused``."""

    def __init__(
        self, address: Address, transport: Transport, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ) -> None:
        self.address, self._transport = address, transport
        self._timeout_s, self._retries = timeout_s, retries

    async def send(self, events: Sequence[EventOut]) -> list[str]:
        """Send events that were checked; returns their internal ids, in order. Raises ``EventRefused`` (EVT-09)."""
        if not events:
            return []
        key = urllib.parse.quote(self.address.event_key, safe="")
        reply = await self._ask("POST", f"/e/{key}", encode([_wire(event) for event in events]), seed=new_seed())
        said = _said(reply)
        if reply.status == 200:
            if len(said.ids) != len(events):
                raise self._is_no_server()
            return said.ids
        if reply.status == 401:
            raise self._unauthorized(said.error, "STEPLOG_EVENT_KEY")
        raise self._event_refused(reply, said, len(events))

    async def start(self, function: str, data: bytes) -> str:
        """Start a function by its qualified id; returns the internal id of its event (SYS-05). Raises ``NotFound``."""
        path = f"/invoke/{urllib.parse.quote(function, safe='')}"
        said = self._checked(await self._ask("POST", path, b'{"data":%b}' % data, seed=new_seed()))
        if not said.id:
            raise self._is_no_server()
        return said.id

    async def signal(self, name: str, data: bytes) -> str | None:
        """Send a signal; returns the run that goes on, None where none waits (REST-16).

        It is sent again only where it cannot have arrived: a second one would find nobody, or another run.
        """
        body = b'{"signal":%b,"data":%b}' % (encode(name), data)
        reply = await self._ask("POST", "/v1/signals", body, is_repeatable=False)
        if reply.status == 404:
            return None
        said = self._checked(reply)
        if not said.run_id:
            raise self._is_no_server()
        return said.run_id

    async def invoke(self, function: str, data: bytes, timeout_s: float | None) -> bytes:
        """Start a function, wait for its end, and return its output as JSON.

        Raises ``RunFailed``, ``NotFound``, and ``InvokeTimeout``: the time counts from the moment the call is accepted.
        Where the server is away when the time is up, that is ``ServerUnreachable``.
        """
        event_id = await self.start(function, data)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        run_id = await self.run_of(event_id, function, deadline_s)
        run = None if run_id is None else await self.ended(run_id, deadline_s)
        if run is None:
            assert timeout_s is not None, "it is waited for until it ends"
            raise InvokeTimeout(function, run_id, timeout_s)
        return output_of(run)

    async def run_of(self, event_id: str, function: str, deadline_s: float | None) -> str | None:
        """The run that an event has started of a function; None where none has begun when the time is up.

        Raises ``Refused`` where the function is not started.
        """
        began_s = time.monotonic()
        pause_s = LEAST_POLL_S
        while True:
            try:
                event = await self.get(f"/v1/events/{event_id}", _Event, retries=WAITING_RETRIES, deadline_s=deadline_s)
            except NotFound:  # the history is behind
                if time.monotonic() - began_s > HISTORY_S:
                    raise
            else:
                for ref in event.runs:
                    if ref.function == function:
                        return ref.run
                for skip in event.skipped:
                    if skip.function == function:
                        raise Refused(f"{function} was not started: {skip.reason}")
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return None
            await self._transport.pause(pause_s)
            pause_s = min(2 * pause_s, MOST_POLL_S)

    async def ended(self, run_id: str, deadline_s: float | None) -> Run | None:
        """The run when it has ended; None where it has not when the time is up."""
        while True:
            left_s = POLL_S if deadline_s is None else deadline_s - time.monotonic()
            wait_s = max(0.0, min(left_s, POLL_S))
            path = f"/v1/runs/{run_id}?wait={wait_s * 1000:.0f}ms"
            run = await self.get(path, Run, wait_s, retries=WAITING_RETRIES, deadline_s=deadline_s)
            if run.ended_at is not None:
                return run
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return None
            await self._transport.pause(LEAST_POLL_S)  # a server that stops answers at once

    async def is_up(self) -> bool:
        """Whether anything answers."""
        try:
            await self._ask("GET", "/health", retries=0)
        except ServerUnreachable:
            return False
        return True

    async def get(
        self, path: str, type_: type[T], wait_s: float = 0, *, retries: int | None = None,
        deadline_s: float | None = None,
    ) -> T:  # fmt: skip
        """Read the ``data`` of an answer. Raises ``NotFound``."""
        envelope: type[_Read[T]] = _Read[type_]  # type: ignore[valid-type]  # a value at run time
        return (await self.read(path, envelope, wait_s, retries=retries, deadline_s=deadline_s)).data

    async def read(
        self, path: str, type_: type[T], wait_s: float = 0, *, retries: int | None = None,
        deadline_s: float | None = None,
    ) -> T:  # fmt: skip
        """Read an answer, which may come after ``wait_s``. Raises ``NotFound``."""
        reply = await self._ask("GET", path, wait_s=wait_s, retries=retries, deadline_s=deadline_s)
        self._checked(reply)
        try:
            return msgspec.json.decode(reply.body, type=type_)
        except msgspec.DecodeError as error:
            raise self._is_no_server() from error

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, seed: str | None = None, wait_s: float = 0,
        is_repeatable: bool = True, retries: int | None = None, deadline_s: float | None = None,
    ) -> Reply:  # fmt: skip
        """Send a request, again where that can help; returns the answer, if it is not the server's failure.

        None of ``retries``, which are those of this object unless given, begins after the deadline.
        """
        headers = dict(self.address.headers)
        if body is not None:
            headers["content-type"] = "application/json"
        if seed is not None:
            headers["x-inngest-event-id-seed"] = seed
        call = Call(
            method=method, path=path, headers=headers, body=body, timeout_s=self._timeout_s + wait_s,
            is_wait=wait_s > 0,
        )  # fmt: skip
        most = self._retries if retries is None else retries
        attempt = 0
        while True:
            is_last = attempt == most or (deadline_s is not None and time.monotonic() >= deadline_s)
            try:
                reply = await self._transport.exchange(call)
            except Unanswered as error:
                if is_last or (error.is_sent and not is_repeatable):
                    raise self._unreachable(error, call) from error.__cause__
                retry_after = None
            else:
                if reply.status < 500:
                    return reply
                if is_last or not is_repeatable:
                    said = f"{reply.status} {_said(reply).error or ''}".rstrip()
                    raise ServerUnreachable(f"{self.address.url} cannot do it at the moment: {said}")
                retry_after = reply.retry_after
            await self._transport.pause(pause_s(attempt, retry_after))
            attempt += 1

    def _unreachable(self, error: Unanswered, call: Call) -> ServerUnreachable:
        url = self.address.url
        if error.is_late:
            return ServerUnreachable(f"{url} did not answer within {call.timeout_s:g} s")
        if error.is_sent:
            return ServerUnreachable(f"{url} closed the connection before it answered; what was asked may be done")
        return ServerUnreachable(f"nothing answers at {url}; start it: steplog dev orders.py   (or set STEPLOG_URL)")

    def _checked(self, reply: Reply) -> _Said:
        """What an answer says that is a success."""
        if reply.status == 200:
            return _said(reply)
        said = _said(reply).error or "it says no more"
        if reply.status == 401:
            raise self._unauthorized(said, "STEPLOG_SIGNING_KEY")
        if reply.status == 404:
            raise NotFound(said)
        raise Refused(f"{reply.status} from {self.address.url}: {said}")

    def _unauthorized(self, said: str | None, variable: str) -> Unauthorized:
        return Unauthorized(f"401 from {self.address.url}: {said}; set {variable} to a key that it knows")

    def _event_refused(self, reply: Reply, said: _Said, count: int) -> EventRefused:
        reason = said.error or "it says no more"
        place = f"events[{len(said.ids)}]: "
        index = len(said.ids) if reason.startswith(place) else None
        text = reason.removeprefix(place)
        where = "" if index is None else f"event {index}  "
        refused = f"{reply.status} from {self.address.url}, {count - len(said.ids)} of {count} refused"
        return EventRefused(f"{refused}\n  {where}{text}", ids=said.ids, index=index, reason=text)

    def _is_no_server(self) -> Refused:
        return Refused(f"{self.address.url} does not answer as a steplog server does; look at STEPLOG_URL")


def new_seed() -> str:
    """Make a seed: milliseconds and 10 random bytes (spec: events.md §2.6)."""
    return f"{time.time_ns() // 1_000_000},{binascii.b2a_base64(os.urandom(10), newline=False).decode()}"


def pause_s(attempt: int, retry_after: str | None) -> float:
    """How long to wait after an attempt, from 0: the back-off, or longer where the server says so in seconds."""
    backoff_s = min(BACKOFF_S * (1 << attempt), MOST_BACKOFF_S) + random.uniform(0, BACKOFF_S)  # noqa: S311 - no secret
    asked_s = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdecimal() else 0.0
    return max(backoff_s, min(asked_s, MOST_RETRY_AFTER_S))


def output_of(run: Run) -> bytes:
    """The output of a run that has ended. Raises ``RunFailed``."""
    if run.state == "completed":
        return bytes(run.output)
    raise failure_of(run)


def failure_of(run: Run) -> SteplogError:
    """The error of a run that has ended without success."""
    try:
        error = msgspec.json.decode(run.output, type=ErrorInfo)
    except msgspec.DecodeError:  # it did not fail by an error of its own
        error = ErrorInfo(name=run.state, message="")
    name = native_name(error.name)
    return RunFailed(run.function, run.run_id, name=name, message=error.message, stack=error.stack)


def _wire(event: EventOut) -> _Wire:
    return _Wire(
        name=event.name, data=msgspec.Raw(event.data), id=event.id, ts=event.ts, v=event.v,
        user=None if event.user is None else msgspec.Raw(event.user),
    )  # fmt: skip


def _said(reply: Reply) -> _Said:
    """Read what an answer says, whoever gave it: a proxy may have."""
    try:
        return msgspec.json.decode(reply.body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said(error=" ".join(reply.body[:200].decode(errors="replace").split()))
