"""What the API does besides accepting events: it sends a signal, it starts one function (spec: events.md §3)."""

import os
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from steplog import json_text
from steplog.engine.events import INVOKED_EVENT, accept_event
from steplog.engine.functions import DEFAULT_ENV
from steplog.engine.operations import EventOut, signal_problem
from steplog.errors import EventInvalid
from steplog.forwarding import HEADER
from steplog.server.backend import Backend, Misdirected
from steplog.server.config import ServerConfig
from steplog.server.http import BodyTooLarge, Held, Intake, encode, read_body
from steplog.server.ingest import ENTROPY_BYTES, InternalIds
from steplog.server.validation import Validation

T = TypeVar("T")
_NULL = msgspec.Raw(b"null")


class _Signal(msgspec.Struct):
    signal: str
    data: msgspec.Raw = _NULL


class _Call(msgspec.Struct):
    """An event whose name does not count."""

    data: msgspec.Raw = _NULL
    user: msgspec.Raw = _NULL


class _Invoked(msgspec.Struct, frozen=True):
    """The answer to a call: the internal id of its event, whose run is at ``/v1/events/{id}/runs``."""

    id: str
    status: int = 200


_decode_signal = msgspec.json.Decoder(_Signal).decode
_decode_call = msgspec.json.Decoder(_Call).decode


class Actions:
    """Endpoints of the REST API that change something."""

    def __init__(self, backend: Backend, config: ServerConfig, validation: Validation | None, intake: Intake) -> None:
        self._backend, self._config, self._validation, self._intake = backend, config, validation, intake

    async def signal(self, request: Request) -> Response:
        """``POST /v1/signals {signal, data}``: 200 with the run that goes on, 404 where nobody waits (REST-16)."""
        given = _read(await self._body(request), _decode_signal, '{"signal": "…", "data": …}')
        problem = signal_problem(given.signal)
        if problem is not None:
            raise HTTPException(400, f"the signal's name {problem}")
        try:
            resumed = await self._backend.signal(
                given.signal, bytes(given.data), is_forwarded=HEADER in request.headers
            )
        except Misdirected as error:
            raise HTTPException(421, str(error)) from error
        if resumed is None:
            raise HTTPException(404, f"no run waits for the signal {given.signal!r}")
        return Response(encode({"data": {"run_id": resumed}, "run_id": resumed}), media_type="application/json")

    async def invoke(self, request: Request) -> Response:
        """``POST /invoke/{app-function}``: start one function with ``{"data": {…}}``, whatever triggers it (SYS-05).

        With a seed in ``x-inngest-event-id-seed`` the same call starts one run, however often it is sent.
        """
        function: str = request.path_params["function"]
        if not self._backend.is_function(function):
            raise HTTPException(404, f"there is no function {function[:100]!r}; its id is <app>-<function>")
        call = _read(await self._body(request) or b"{}", _decode_call, '{"data": {…}}')
        data = b"{}" if call.data == _NULL else bytes(call.data)
        if not data.startswith(b"{"):
            raise HTTPException(400, f"data is {data[:40].decode(errors='replace')}, it must be an object")
        now_ms = self._backend.now_ms()
        seed = request.headers.get("x-inngest-event-id-seed")
        ids = InternalIds.of_request(seed, now_ms, os.urandom(ENTROPY_BYTES))
        event = accept_event(
            EventOut(name=INVOKED_EVENT, data=data, user=None if call.user == _NULL else bytes(call.user)), ids.nth(0),
            env=DEFAULT_ENV, received_ms=now_ms, source="api", starts=function, is_seeded=ids.is_seeded,
        )  # fmt: skip
        misfit = None if self._validation is None else await self._validation.misfit([event])
        if misfit is not None:
            raise HTTPException(400, misfit.problem)
        await self._backend.submit([event])
        return Response(encode(_Invoked(event.internal_text)), media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length")
        limit = self._config.event_size_bytes
        held = Held(self._intake)
        try:
            return await read_body(request.receive, int(length) if length else None, limit, held)
        except BodyTooLarge as error:
            raise HTTPException(413, str(error)) from error
        finally:
            held.release()


def _read(body: bytes, decode: Callable[[bytes], T], shape: str) -> T:
    """Read a body, and check what is stored of it. Raises 400 for what is not of the shape."""
    try:
        given = decode(body)
        json_text.check(body)
    except (msgspec.MsgspecError, EventInvalid, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body must be {shape}: {error}") from error
    except RecursionError as error:
        raise HTTPException(400, json_text.TOO_DEEP) from error
    return given
