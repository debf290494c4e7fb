"""``steplog dev`` and ``steplog start``: the engine, the API and the functions of some files, in one process."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from steplog import __version__
from steplog.app import App
from steplog.cli.settings import configurable, sources
from steplog.config.load import Sources, load, secret_values
from steplog.config.schema import Config
from steplog.drivers.live_run import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import RetryPolicy
from steplog.errors import ConfigInvalid
from steplog.loading import load_apps
from steplog.node import Node, NodeConfig, functions_of
from steplog.paths import MEMORY_LOG, history_path, log_path
from steplog.server.config import ServerConfig
from steplog.server.listen import bind
from steplog.shells.process import ProcessEngine
from steplog.tuning import tune_process


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line and the configuration said."""

    is_dev: bool
    files: tuple[str, ...]
    config: Config
    ready_fd: int | None


_FILES = click.argument("files", nargs=-1, metavar="[FILE]...")
_READY = click.option("--ready-fd", type=int, hidden=True, help="Write one JSON line there when everything serves.")


@click.command(short_help="Run the functions of a file on this machine, with the API.")
@_FILES
@configurable
@_READY
def dev(files: tuple[str, ...], ready_fd: int | None, **given: Any) -> None:
    """Run functions on this machine: any key sends events, everyone here may read.

    Without FILE, those of [app] load in steplog.toml.

    \b
    Examples:
      steplog dev orders.py
      steplog dev orders.py billing.py:app --port 8300
    """
    run(_options(files, ready_fd, sources(given, is_dev=True)))


@click.command(short_help="Run functions for production: keys are needed.")
@_FILES
@configurable
@_READY
def start(files: tuple[str, ...], ready_fd: int | None, **given: Any) -> None:
    """Run functions for production. Events need an event key, reads the signing key.

    Without FILE, those of [app] load in steplog.toml.

    \b
    Examples:
      STEPLOG_EVENT_KEY=… STEPLOG_SIGNING_KEY=… steplog start orders.py
      steplog start shop.orders --log sqlite:/var/lib/shop/steplog.db --event-key … --signing-key …
    """
    run(_options(files, ready_fd, sources(given, is_dev=False)))


def _options(files: tuple[str, ...], ready_fd: int | None, where: Sources) -> Options:
    configured = load(where)
    if not files:
        files = configured.config.app.load
        if str(configured.root) not in sys.path:
            sys.path.insert(0, str(configured.root))  # modules are named as seen from steplog.toml
    if not files:
        command = "steplog dev" if where.is_dev else "steplog start"
        problem = f"no file is named: give one, as in {command} orders.py, or write [app] load in steplog.toml"
        raise ConfigInvalid(command, [problem])
    return Options(is_dev=where.is_dev, files=files, config=configured.config, ready_fd=ready_fd)


def run(options: Options) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once."""
    began_s = time.perf_counter()
    with _log_file(options.config.log.url) as path:
        sockets = bind(options.config.server.port, options.config.server.host)
        apps = load_apps(options.files)
        tune_process()
        with asyncio.Runner(loop_factory=UsersLoop) as runner:
            runner.run(_serve(options, path, apps, sockets, began_s))


@contextmanager
def _log_file(url: str) -> Iterator[Path]:
    """The log's file. That of ``memory:`` is in a temporary directory, which goes when the process ends."""
    if url != MEMORY_LOG:
        yield log_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="steplog-") as directory:
        yield Path(directory, "log.db")


async def _serve(
    options: Options, path: Path, apps: list[App], sockets: Sequence[socket.socket], began_s: float
) -> None:
    loop = asyncio.get_running_loop()
    serving, stopped = asyncio.Event(), asyncio.Event()
    config, limits = options.config, options.config.limits
    engine = ProcessEngine(
        [function.spec for function in functions_of(apps).values()],
        EngineConfig(
            live_runs=config.engine.live_runs, steps_per_run=limits.steps, run_state_bytes=limits.run_size_bytes,
            retry=RetryPolicy(interval_ms=config.engine.retry_interval_ms),
        ),
        log_path=path, history_path=history_path(path), sockets=sockets, on_serving=serving.set,
        server=ServerConfig(
            is_dev=options.is_dev, event_keys=secret_values(config.auth.event_keys),
            signing_keys=secret_values(config.auth.signing_keys), allow_hosts=config.server.allow_hosts,
            event_size_bytes=limits.event_size_bytes, request_size_bytes=limits.request_size_bytes,
        ),
    )  # fmt: skip
    local = LocalConfig(
        evict_after_ms=config.engine.evict_after_ms, output_bytes=limits.step_output_bytes,
        event_bytes=limits.event_size_bytes,
    )  # fmt: skip
    port = sockets[0].getsockname()[1]

    def stop() -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    async with Node(apps, engine, NodeConfig(local=local)) as node:
        failed = asyncio.create_task(node.failed())
        await _first(failed, serving)
        if not failed.done():
            _announce(options, path, apps, port, time.perf_counter() - began_s)
            await _first(failed, stopped)
        if stopped.is_set() and node.executing:
            click.echo(f"stopping: {node.executing} steps are running; again to stop at once", err=True)
    if not options.ready_fd and stopped.is_set():
        click.echo("stopped", err=True)


async def _first(failed: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait until the event is set, or the node has ended by itself."""

    async def wait() -> None:
        await event.wait()

    waiting = asyncio.create_task(wait())
    await asyncio.wait({failed, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _announce(options: Options, path: Path, apps: list[App], port: int, took_s: float) -> None:
    host = options.config.server.host
    url = f"http://{'127.0.0.1' if host in ('localhost', '::1') else host}:{port}"
    if options.ready_fd is not None:
        line = json.dumps({"port": port, "url": url, "pid": os.getpid(), "log": str(path)}) + "\n"
        os.write(options.ready_fd, line.encode())
        os.close(options.ready_fd)
        return
    mode = "dev" if options.is_dev else "start"
    key = "dev  (any key does in dev)" if options.is_dev else "<event key>"
    click.echo(f"steplog {__version__} {mode} · ready in {took_s:.1f} s", err=True)
    click.echo(f"  events  {url}/e/{key}", err=True)
    for app in apps:
        count = len(app.functions)
        click.echo(f"  app     {app.id}, {count} function{'' if count == 1 else 's'}", err=True)
    click.echo(f"  log     {path}", err=True)
    click.echo("  Ctrl-C  stops; what is open goes on at the next start", err=True)
