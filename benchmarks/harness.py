"""A node with its history, in this process, on a log in a temporary directory."""

import asyncio
import os
import resource
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from steplog import App
from steplog.drivers.config import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.engine.processor import Turn
from steplog.log.sqlite import SqliteLog
from steplog.node import Node, NodeConfig
from steplog.paths import file_url, history_path
from steplog.shells.process import ProcessEngine
from steplog.tuning import tune_process


class RecordingLog(SqliteLog):
    """A log that also keeps its turns in memory, to write them again without an engine."""

    def __init__(self, path: Path, turns: list[Turn]) -> None:
        super().__init__(path)
        self._turns = turns

    async def commit(self, turn: Turn) -> None:
        await super().commit(turn)
        self._turns.append(turn)


class Cpu(NamedTuple):
    """CPU seconds so far: of this process, and of those that it has started and that still run."""

    own_s: float
    children_s: float

    @staticmethod
    def now(*others: int) -> "Cpu":
        """``others``: processes that are not to be counted among the children."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = [pid for pid in _below(os.getpid()) if pid not in others]
        return Cpu(own.ru_utime + own.ru_stime, sum(map(cpu_s, children)))

    def since(self, earlier: "Cpu") -> "Cpu":
        return Cpu(self.own_s - earlier.own_s, self.children_s - earlier.children_s)


def _below(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _read(task / "children").split()
    ]
    return children + [below for child in children for below in _below(child)]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # it has ended meanwhile
        return ""


@asynccontextmanager
async def node(
    app: App, path: Path, *, with_history: bool = True, engine: EngineConfig = EngineConfig(),
    local: LocalConfig = LocalConfig(),
) -> AsyncIterator[Node]:  # fmt: skip
    """Run a node as ``start`` does, without HTTP: the engine in a process of its own."""
    specs = [function.spec for function in app.functions.values()]
    history = file_url(history_path(path)) if with_history else None
    hosted = ProcessEngine(specs, engine, log_path=path, history=history)
    async with Node([app], hosted, NodeConfig(local=local)) as running:
        yield running


@asynccontextmanager
async def recorded_node(app: App, path: Path, turns: list[Turn]) -> AsyncIterator[Node]:
    """Run a node with the engine in a thread, and keep its turns."""
    async with Node([app], lambda: RecordingLog(path, turns)) as running:
        yield running


def run(benchmark: Callable[[Path], Awaitable[None]]) -> None:
    """Run a benchmark on the users' loop, with the settings of ``start`` and a directory of its own."""
    tune_process()
    directory = Path(tempfile.mkdtemp(prefix="steplog-bench-"))

    async def body() -> None:
        await benchmark(directory)

    try:
        with asyncio.Runner(loop_factory=UsersLoop) as runner:
            runner.run(body())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def floor_s(path: Path, turns: Iterable[Turn]) -> float:
    """How long it takes to write the same turns to SQLite, one commit each, without an engine."""
    log = SqliteLog(path)
    await log.load()
    began = time.perf_counter()
    for turn in turns:
        await log.commit(turn)
    took = time.perf_counter() - began
    log.close()
    return took


def one_row_commit_ms(path: Path, rounds: int = 300) -> float:
    """The median of committing one small row: what each durable step of a single run has to wait for."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE row (n INTEGER PRIMARY KEY, data BLOB)")
    taken = []
    for n in range(rounds):
        began = time.perf_counter()
        connection.execute("INSERT INTO row VALUES (?, ?)", (n, b"x" * 200))
        taken.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(taken) * 1000


def percentile(values: list[float], percent: float) -> float:
    """Read a percentile of unsorted values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
