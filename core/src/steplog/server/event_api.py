"""``POST /e/{key}`` as a plain ASGI callable: the hot path, with nothing between it and the server."""

import asyncio
import os

import msgspec

from steplog.engine.functions import DEFAULT_ENV
from steplog.errors import LogUnavailable, Overloaded, TypesUnavailable
from steplog.server.auth import Keys
from steplog.server.backend import Backend
from steplog.server.config import ServerConfig
from steplog.server.http import (
    BodyTooLarge,
    Headers,
    Held,
    Intake,
    Receive,
    Scope,
    Send,
    answer_json,
    encode,
    read_body,
)
from steplog.server.ingest import ENTROPY_BYTES, InternalIds, Parsed, parse, refuse_from
from steplog.server.validation import Validation

PATH = "/e/"
RETRY_AFTER: Headers = [(b"retry-after", b"1")]  # seconds; with it the SDKs' own back-off is enough
_LARGE_BYTES = 256 << 10  # parsed in a thread, so that other requests go on


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an answer: internal ids of what was accepted, in order."""

    ids: list[str]
    status: int
    error: str | None = None


class EventApi:
    """Accepts events."""

    def __init__(
        self, backend: Backend, config: ServerConfig, keys: Keys, validation: Validation | None, intake: Intake
    ) -> None:
        self._backend, self._config, self._keys = backend, config, keys
        self._validation, self._intake = validation, intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises ``Disconnected`` where nobody is left to be answered."""
        held = Held(self._intake)
        try:
            answer = await self._accept(scope, receive, held)
        except (Overloaded, LogUnavailable, TypesUnavailable) as error:
            answer = Accepted([], 503, str(error))
        finally:
            held.release()
        await answer_json(send, answer.status, encode(answer), RETRY_AFTER if answer.status == 503 else [])

    async def _accept(self, scope: Scope, receive: Receive, held: Held) -> Accepted:
        problem = self._keys.event_key_problem(scope["path"].removeprefix(PATH))
        if problem is not None:
            return Accepted([], *problem)
        content_length, seed = None, None
        for name, value in scope["headers"]:
            if name == b"content-length":
                content_length = int(value)  # the server has refused what is not a number
            elif name == b"x-inngest-event-id-seed":
                seed = value.decode("latin1")
            elif name == b"content-encoding" and value.strip().lower() not in (b"identity", b""):
                return Accepted(
                    [], 415, f"Content-Encoding {value.decode('latin1')} is not understood; send plain JSON"
                )
        try:
            body = await read_body(receive, content_length, self._config.request_size_bytes, held)
        except BodyTooLarge as error:
            return Accepted([], 413, str(error))
        parsed = (
            await asyncio.to_thread(self._parse, body, seed) if len(body) > _LARGE_BYTES else self._parse(body, seed)
        )
        if self._validation is not None:
            misfit = await self._validation.misfit(parsed.accepted)
            if misfit is not None:
                parsed = refuse_from(parsed, misfit.index, misfit.problem)
        if parsed.accepted:
            await self._backend.submit(parsed.accepted)
        return Accepted(parsed.ids, parsed.status, parsed.error)

    def _parse(self, body: bytes, seed: str | None) -> Parsed:
        now_ms = self._backend.now_ms()
        ids = InternalIds.of_request(seed, now_ms, os.urandom(ENTROPY_BYTES))
        return parse(
            body, ids, received_ms=now_ms, event_size_bytes=self._config.event_size_bytes, env=DEFAULT_ENV
        )  # fmt: skip
