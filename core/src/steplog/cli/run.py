"""``steplog run``: one run of a function in this process, over a log of its own, without a server."""

import asyncio
import difflib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from steplog.app import App
from steplog.cli.arguments import read_object
from steplog.cli.lines import Lines
from steplog.cli.output import counted, echo, print_json
from steplog.diagnostics import log_to_stderr
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.engine.operations import ErrorInfo
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.records import EventRouted, Record, RunFailed
from steplog.engine.retry import RetryPolicy
from steplog.errors import NotFound
from steplog.errors import RunFailed as RunHasFailed
from steplog.functions import Function
from steplog.loading import load_apps
from steplog.log.memory import MemoryLog
from steplog.log.sqlite import SqliteLog
from steplog.node import Ended, Node, NodeConfig
from steplog.paths import MEMORY_LOG, log_path
from steplog.turns import Log

_decode = msgspec.json.Decoder(Record).decode


@click.command()
@click.argument("target", metavar="FILE::FUNCTION")
@click.argument("data", default="{}", metavar="[DATA|@FILE|-]")
@click.option("--log", default=MEMORY_LOG, help="Keep the run in this log, as sqlite:PATH. Default: in memory.")
@click.option("--retry-interval", type=click.IntRange(0), metavar="SECONDS", help="How long to wait before each retry.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(target: str, data: str, log: str, retry_interval: int | None, as_json: bool) -> int:
    """Run a function of a file once, in this process: its steps on standard error, what it returns on standard output.

    FUNCTION is its id, with or without the app's, or its name in the code. Sleeps take their time. Ends with 1 where
    the function fails.

    \b
    Examples:
      steplog run orders.py::ship-order '{"id": "o1", "total": 4200, "email": "ada@example.com"}'
      steplog run orders.py::ship-order @order.json --log sqlite:orders.db
    """
    file, separator, name = target.partition("::")
    if not separator or not name:
        raise click.UsageError(f"{target!r} names no function; write FILE::FUNCTION, as orders.py::ship-order")
    given = read_object(data)
    open_log: Callable[[], Log] = MemoryLog
    if log != MEMORY_LOG:
        path = log_path(log)
        open_log = lambda: SqliteLog(path)  # noqa: E731 - opened where it is used
    apps = load_apps([file])
    function = find(apps, name, file)
    log_to_stderr(as_json=False)
    told = Told()
    retry = RetryPolicy(interval_ms=None if retry_interval is None else retry_interval * 1000)
    config = NodeConfig(engine=EngineConfig(retry=retry))
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        ended = runner.run(_run(Node(apps, lambda: told.of(open_log()), config), function, given))
    if ended is None:
        if log != MEMORY_LOG:
            echo(f"its run is in {log} and goes on with it: steplog dev {file} --log {log}", err=True)
        raise click.Abort
    error = told.errors.get(ended.run_id)
    if as_json:
        print_json({"run_id": ended.run_id, "state": ended.status, "output": ended.output, "error": error})
    elif error is None:
        print_json(ended.output, in_a_line=True)
    else:
        if error.stack:
            echo(error.stack.rstrip(), err=True)
        raise RunHasFailed(function.id, ended.run_id, name=error.name, message=error.message, stack=error.stack)
    return 0 if error is None else 1


class Told:
    """A log whose records are told as soon as they are durable. ``errors`` are those of failed runs, by run."""

    def __init__(self) -> None:
        self._lines = Lines(lambda _: None)
        self._log: Log
        self.errors: dict[str, ErrorInfo] = {}

    def of(self, log: Log) -> Log:
        """Tell what comes into a log."""
        self._log = log
        return self

    async def load(self) -> LoadedState:
        return await self._log.load()

    async def commit(self, turn: Turn) -> None:
        await self._log.commit(turn)
        for data in turn.records:
            record = _decode(data)
            if isinstance(record, EventRouted):
                continue
            if isinstance(record, RunFailed):
                self.errors[record.run] = record.error
            for line in self._lines.of(record):
                echo(line, err=True)

    def close(self) -> None:
        self._log.close()


def find(apps: Sequence[App], name: str, file: str) -> Function[Any, Any]:
    """The function of some apps that has this id, with or without the app's, or is called so in the code.

    Raises ``NotFound`` with the nearest names.
    """
    named: dict[str, Function[Any, Any]] = {}
    for app in apps:
        for id_, function in app.functions.items():
            short = id_.removeprefix(f"{app.id}-")
            for known in (id_, short, getattr(function.handler, "__name__", short)):
                named.setdefault(known, function)
    if name in named:
        return named[name]
    near = difflib.get_close_matches(name, named, 1)
    ids = ", ".join(id_ for app in apps for id_ in app.functions)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {ids}" if ids else "it declares none"
    raise NotFound(f"{file} has no function {name!r}; {hint}")


async def _run(node: Node, function: Function[Any, Any], data: dict[str, Any]) -> Ended | None:
    """Run it to its end; None where SIGINT or SIGTERM came first. A second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    async with node:
        running, stopping = asyncio.create_task(node.invoke(function.id, data)), asyncio.create_task(stopped.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running.done():
            return running.result()
        running.cancel()
        if node.executing:
            echo(f"stopping: {counted(node.executing, 'step')} still at work; again to stop at once", err=True)
        return None
