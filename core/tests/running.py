"""Nodes in tests: functions run durably over a log that outlives them, and a process that dies where a test says so."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec

from steplog import App, Context, Event
from steplog.drivers.config import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.engine import records
from steplog.engine.functions import EngineConfig
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.retry import RetryPolicy
from steplog.errors import LogUnavailable
from steplog.log.memory import MemoryLog
from steplog.node import Ended, Node, NodeConfig
from steplog.turns import Log

T = TypeVar("T")
Body = Callable[[Context], Coroutine[Any, Any, Any]]
RecordT = TypeVar("RecordT", bound=records.Record)
DEADLINE_S = 10.0
HOUR_MS = 3_600_000
FAST = EngineConfig(retry=RetryPolicy(interval_ms=1))

_decode = msgspec.json.Decoder(records.Record).decode


def on_users_loop(body: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine as ``steplog dev`` runs functions. It fails where it takes unreasonably long."""

    async def limited() -> T:
        async with asyncio.timeout(60):
            return await body

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        return runner.run(limited())


def config(
    *, engine: EngineConfig = FAST, drain_s: float = DEADLINE_S, evict_after_ms: int = 30_000, **local: Any
) -> NodeConfig:
    """A node's configuration whose retries come at once."""
    return NodeConfig(engine=engine, drain_s=drain_s, local=LocalConfig(evict_after_ms=evict_after_ms, **local))


class MortalLog:
    """A log whose process can die: from then on nothing of it reaches the log.

    ``dies_at`` is the number of this process's own commit at which it happens, counted from 1: just after it, so that
    what it decided is durable but never acted on, or just before it.
    """

    def __init__(self, log: Log, *, dies_at: int = 0, before: bool = False) -> None:
        self._log, self._dies_at, self._before = log, dies_at, before
        self._commits = 0
        self.is_dead = False

    async def load(self) -> LoadedState:
        self._check()
        return await self._log.load()

    async def commit(self, turn: Turn) -> None:
        self._commits += 1
        if self._commits == self._dies_at:
            self.is_dead = True
            if not self._before:
                await self._log.commit(turn)
        self._check()
        await self._log.commit(turn)

    def close(self) -> None:
        if not self.is_dead:
            self._log.close()

    def _check(self) -> None:
        if self.is_dead:
            raise LogUnavailable("the process is dead")


@asynccontextmanager
async def running(
    apps: App | Iterable[App], log: Log | None = None, settings: NodeConfig | None = None
) -> AsyncIterator[Node]:
    """Run a node over a log that the test keeps, and stop it in order."""
    kept = log if log is not None else MemoryLog()
    async with Node([apps] if isinstance(apps, App) else apps, lambda: kept, settings or config()) as node:
        yield node


@asynccontextmanager
async def crashing(
    apps: App | Iterable[App], log: Log, settings: NodeConfig | None = None, *, dies_at: int = 0, before: bool = False
) -> AsyncIterator[tuple[Node, MortalLog]]:
    """Run a node whose process dies at the end of the block, or at a commit: nothing is drained or handed back."""
    mortal = MortalLog(log, dies_at=dies_at, before=before)
    chosen = msgspec.structs.replace(settings or config(), drain_s=0.0)
    logging.getLogger("steplog.turns").setLevel(logging.ERROR)
    try:
        with suppress(LogUnavailable):
            async with running(apps, mortal, chosen) as node:
                try:
                    yield node, mortal
                finally:
                    mortal.is_dead = True
    finally:
        logging.getLogger("steplog.turns").setLevel(logging.NOTSET)


async def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for a condition, with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"{what} did not come within {DEADLINE_S} s") from None


async def run_once(app: App, event: Event[Any], settings: NodeConfig | None = None) -> tuple[Ended, MemoryLog]:
    """Send an event to the app's one function and wait for its run's end."""
    log = MemoryLog()
    async with running(app, log, settings) as node:
        (ended,) = await node.run(event)
    return ended, log


def go(**data: Any) -> Event[dict[str, Any]]:
    """The event that starts the functions of most tests."""
    return Event(name="go", data=data)


def journal(log: MemoryLog) -> list[records.Record]:
    """Every record in the order of the log."""
    return [_decode(data) for _, turn in log.journal for data in turn]


def of(log: MemoryLog, kind: type[RecordT]) -> list[RecordT]:
    """The records of one kind."""
    return [record for record in journal(log) if isinstance(record, kind)]


def steps(log: MemoryLog) -> list[str]:
    """The ids of completed and failed steps, in completion order."""
    return [r.step for r in journal(log) if isinstance(r, records.StepCompleted | records.StepFailed)]


def kinds(log: MemoryLog) -> list[str]:
    """The kinds of a log's records, without those of events."""
    return [r.__struct_config__.tag for r in journal(log) if not isinstance(r, records.EventRouted)]  # type: ignore[misc]


def declare(body: Body, *, retries: int = 2, trigger: str = "go", app: App | None = None) -> App:
    """An app with one function, ``f``."""
    app = app or App("a")
    app.function("f", trigger=trigger, retries=retries)(body)
    return app


def perform(body: Body, *, retries: int = 2, **data: Any) -> tuple[Any, MemoryLog]:
    """Run a function once; what it returned, or the message of what it failed with."""
    ended, log = on_users_loop(run_once(declare(body, retries=retries), go(**data)))
    assert ended.status == "completed", ended.error
    return ended.output, log


def fail(body: Body, *, retries: int = 2) -> tuple[records.RunFailed, MemoryLog]:
    """Run a function that must fail."""
    ended, log = on_users_loop(run_once(declare(body, retries=retries), go()))
    assert ended.status == "failed"
    (failed,) = of(log, records.RunFailed)
    assert failed.error.message == ended.error
    return failed, log


async def value(of: Any) -> Any:
    return of


async def plus_one(number: int) -> int:
    return number + 1


class Heard(logging.Handler):
    """The records of one logger."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)

    def fields(self, message: str) -> list[dict[str, Any]]:
        """The facts of each record with this message."""
        return [vars(record)["fields"] for record in self.heard if message in record.getMessage()]
