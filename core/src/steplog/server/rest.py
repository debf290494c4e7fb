"""The REST API, as Starlette routes: what became of events and runs.

A read sees every write that was answered before it; where the projection does not catch up in time, the answer says so.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from steplog import __version__
from steplog.engine.ids import decode_ulid, encode_ulid
from steplog.errors import LogUnavailable, NotFound, Overloaded, TypesUnavailable
from steplog.history.queries import History
from steplog.history.views import RUN_STATES, RunFilter, RunState
from steplog.server import answers
from steplog.server.actions import Actions
from steplog.server.auth import Keys
from steplog.server.backend import Backend
from steplog.server.config import ServerConfig
from steplog.server.event_api import PATH, RETRY_AFTER, EventApi
from steplog.server.http import Problem, encode

MOST_WAIT_S = 60.0
DEFAULT_LIMIT, MOST_LIMIT = 20, 100
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class RestApi:
    """Answers reads. ``stop`` ends the waiting for runs."""

    def __init__(self, backend: Backend, keys: Keys, actions: Actions, config: ServerConfig) -> None:
        self._backend, self._keys, self._actions = backend, keys, actions
        self._is_well = answers.Health(
            mode="dev" if config.is_dev else "start", apps=config.apps if config.is_dev else (),
            since=answers.rfc3339(config.since_ms),
        )  # fmt: skip
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answer those who wait for the end of a run with its present state."""
        self._stopping.set()

    def application(self, event_api: EventApi) -> Starlette:
        """Everything but the hot path of the event API, which is here for its wrong methods."""
        app = Starlette(
            routes=[
                Route("/", _root),
                Route("/health", self._health),
                Route(PATH + "{key:path}", event_api, methods=["POST"]),
                Route("/v1/events/{id}", self._guarded(self._event)),
                Route("/v1/events/{id}/runs", self._guarded(self._runs_of_event)),
                Route("/v1/signals", self._guarded(self._actions.signal), methods=["POST"]),
                Route("/invoke/{function:path}", self._guarded(self._actions.invoke), methods=["POST"]),
                Route("/v1/runs", self._guarded(self._runs)),
                Route("/v1/runs/{id}", self._guarded(self._run)),
                Route("/v1/runs/{id}/steps", self._guarded(self._steps)),
            ],
            exception_handlers={
                HTTPException: _problem,
                NotFound: _not_found,
                Overloaded: _unavailable,
                LogUnavailable: _unavailable,
                TypesUnavailable: _unavailable,
            },
        )
        app.router.redirect_slashes = False
        return app

    async def _health(self, _: Request) -> Response:
        problem = self._backend.problem()
        return _json(self._is_well) if problem is None else _json(Problem(problem, 503), 503)

    async def _event(self, request: Request) -> Response:
        event_id = _ulid(request)
        return await self._read(lambda history: answers.event(history.event(event_id)))

    async def _runs_of_event(self, request: Request) -> Response:
        event_id = _ulid(request)
        return await self._read(lambda history: [answers.run(view) for view in history.runs_of_event(event_id)])

    async def _run(self, request: Request) -> Response:
        run_id = _ulid(request)
        wait_s = _wait_s(request.query_params.get("wait"))
        if wait_s:
            await self._wait_ended(run_id, wait_s)
        return await self._read(lambda history: answers.run(history.run(run_id)))

    async def _steps(self, request: Request) -> Response:
        run_id = _ulid(request)

        def steps(history: History) -> answers.Steps:
            history.run(run_id)
            return answers.steps(history.steps(run_id), history.attempts(run_id))

        return await self._read(steps)

    async def _runs(self, request: Request) -> Response:
        limit, cursor, where = _listing(request.query_params)
        page, metadata = await self._ask(lambda history: history.runs(where, limit=limit, cursor=cursor))
        runs = [answers.run(view) for view in page.runs]
        return _json(answers.Envelope(data=runs, metadata=metadata, page=answers.Page(page.cursor, limit)))

    async def _read(self, query: Callable[[History], object]) -> Response:
        data, metadata = await self._ask(query)
        return _json(answers.Envelope(data=data, metadata=metadata))

    async def _ask(self, query: Callable[[History], T]) -> tuple[T, answers.Metadata]:
        found, is_stale = await self._backend.read(query, at_least=self._backend.position())
        fetched_at = answers.rfc3339(self._backend.now_ms())
        return found, answers.Metadata(fetched_at=fetched_at, stale=is_stale or msgspec.UNSET)

    async def _wait_ended(self, run_id: str, wait_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            waits = [
                tasks.create_task(self._backend.wait_ended(run_id, wait_s)),
                tasks.create_task(self._stopping.wait()),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            if not self._keys.may_read(request.headers.get("authorization")):
                raise HTTPException(401, "No auth found", {"www-authenticate": "Bearer"})
            return await endpoint(request)

        return guarded


async def _root(_: Request) -> Response:
    return PlainTextResponse(f"steplog {__version__}\n")


def _ulid(request: Request) -> str:
    """Read the id of the path, as it is printed."""
    text: str = request.path_params["id"]
    try:
        return encode_ulid(decode_ulid(text))
    except ValueError as error:
        raise HTTPException(400, f"{text[:40]!r} is not an id: {error}") from error


def _wait_s(text: str | None) -> float:
    match = _DURATION.fullmatch(text or "0")
    if match is None:
        raise HTTPException(400, f"wait is {(text or '')[:40]!r}, it must be a duration such as 30s, at most 60s")
    return min(int(match[1]) * _UNIT_S[match[2]], MOST_WAIT_S)


def _listing(given: QueryParams) -> tuple[int, str | None, RunFilter]:
    """Read what a list of runs is asked for: limit, cursor, filter."""
    unknown = sorted(given.keys() - {"limit", "cursor", "status", "function"})
    if unknown:
        raise HTTPException(
            400, f"there is no filter {unknown[0][:40]!r}; there are limit, cursor, status and function"
        )
    limit = given.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MOST_LIMIT):
        raise HTTPException(400, f"limit is {limit[:40]!r}, it must be a number from 1 to {MOST_LIMIT}")
    return int(limit), _cursor(given.get("cursor")), _filter(given)


def _cursor(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return encode_ulid(decode_ulid(text))
    except ValueError as error:
        raise HTTPException(400, f"{text[:40]!r} is not a cursor") from error


def _filter(given: QueryParams) -> RunFilter:
    states: list[RunState] = []
    for word in given.getlist("status"):
        state = next((known for known in RUN_STATES if known == word), None)
        if state is None:
            raise HTTPException(400, f"there is no status {word[:40]!r}; there are {', '.join(RUN_STATES)}")
        states.append(state)
    return RunFilter(states=tuple(states), function=given.get("function"))


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(body), status, headers, media_type="application/json")


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json(Problem(error.detail, error.status_code), error.status_code, dict(error.headers or {}))


async def _not_found(_: Request, error: Exception) -> Response:
    return _json(Problem(str(error), 404), 404)


async def _unavailable(_: Request, error: Exception) -> Response:
    headers = {name.decode(): value.decode() for name, value in RETRY_AFTER}
    return _json(Problem(str(error), 503), 503, headers)
