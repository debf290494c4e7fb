"""``steplog dev`` and ``steplog start``: the engine, the API and the functions of some files, in one process."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from steplog import __version__
from steplog.app import App
from steplog.drivers.live_run import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import RetryPolicy
from steplog.errors import ConfigInvalid
from steplog.loading import load_apps
from steplog.node import Node, NodeConfig, functions_of
from steplog.paths import DEV_LOG, START_LOG, history_path, log_path
from steplog.server.config import DEV_EVENT_BYTES, START_EVENT_BYTES, ServerConfig
from steplog.server.listen import bind
from steplog.shells.process import ProcessEngine
from steplog.tuning import tune_process

DEFAULT_PORT = 8288


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said."""

    is_dev: bool
    files: tuple[str, ...]
    log: str
    host: str
    port: int
    event_keys: tuple[str, ...]
    signing_keys: tuple[str, ...]
    allow_hosts: tuple[str, ...]
    ready_fd: int | None
    retry_interval_s: int | None


_FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
_HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; ::1 comes along.")
_PORT = click.option(
    "--port", "-p", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free one."
)
_ALLOW = click.option("--allow-host", multiple=True, metavar="NAME", help="Another name that requests may be sent to.")
_READY = click.option("--ready-fd", type=int, hidden=True, help="Write one JSON line there when everything serves.")
_RETRY = click.option(
    "--retry-interval", type=click.IntRange(0), metavar="SECONDS", help="How long to wait before each retry."
)
_EVENT_KEYS = click.option("--event-key", multiple=True, envvar="STEPLOG_EVENT_KEY", help="Who sends events needs one.")
_SIGNING_KEYS = click.option("--signing-key", multiple=True, envvar="STEPLOG_SIGNING_KEY", help="Who reads needs one.")


@click.command(short_help="Run the functions of a file on this machine, with the API.")
@_FILES
@click.option("--log", default=DEV_LOG, show_default=True, envvar="STEPLOG_LOG", help="Where everything is kept.")
@_HOST
@_PORT
@_ALLOW
@_RETRY
@_READY
def dev(
    files: tuple[str, ...], log: str, host: str, port: int, allow_host: tuple[str, ...], retry_interval: int | None,
    ready_fd: int | None,
) -> None:  # fmt: skip
    """Run functions on this machine: any key sends events, everyone here may read.

    \b
    Examples:
      steplog dev orders.py
      steplog dev orders.py billing.py:app --port 8300
    """
    run(
        Options(
            is_dev=True, files=files, log=log, host=host, port=port, event_keys=(), signing_keys=(),
            allow_hosts=allow_host, ready_fd=ready_fd, retry_interval_s=retry_interval,
        )
    )  # fmt: skip


@click.command(short_help="Run functions for production: keys are needed.")
@_FILES
@click.option("--log", default=START_LOG, show_default=True, envvar="STEPLOG_LOG", help="Where everything is kept.")
@_HOST
@_PORT
@_EVENT_KEYS
@_SIGNING_KEYS
@_RETRY
@_READY
def start(
    files: tuple[str, ...], log: str, host: str, port: int, event_key: tuple[str, ...], signing_key: tuple[str, ...],
    retry_interval: int | None, ready_fd: int | None,
) -> None:  # fmt: skip
    """Run functions for production. Events need an event key, reads the signing key.

    \b
    Examples:
      STEPLOG_EVENT_KEY=… STEPLOG_SIGNING_KEY=… steplog start orders.py
      steplog start shop.orders --log sqlite:/var/lib/shop/steplog.db --event-key … --signing-key …
    """
    missing = [
        f"{what} is missing: give --{flag}, or set {variable}"
        for what, flag, variable, keys in (
            ("the event key", "event-key", "STEPLOG_EVENT_KEY", event_key),
            ("the signing key", "signing-key", "STEPLOG_SIGNING_KEY", signing_key),
        )
        if not any(keys)
    ]
    if missing:
        raise ConfigInvalid("steplog start", missing)
    run(
        Options(
            is_dev=False, files=files, log=log, host=host, port=port, event_keys=event_key, signing_keys=signing_key,
            allow_hosts=(), ready_fd=ready_fd, retry_interval_s=retry_interval,
        )
    )  # fmt: skip


def run(options: Options) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once."""
    began_s = time.perf_counter()
    path = log_path(options.log)
    sockets = bind(options.port, options.host)
    apps = load_apps(options.files)
    tune_process()
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(_serve(options, path, apps, sockets, began_s))


async def _serve(
    options: Options, path: Path, apps: list[App], sockets: Sequence[socket.socket], began_s: float
) -> None:
    loop = asyncio.get_running_loop()
    serving, stopped = asyncio.Event(), asyncio.Event()
    event_bytes = DEV_EVENT_BYTES if options.is_dev else START_EVENT_BYTES
    interval = options.retry_interval_s
    engine = ProcessEngine(
        [function.spec for function in functions_of(apps).values()],
        EngineConfig(retry=RetryPolicy(interval_ms=None if interval is None else interval * 1000)),
        log_path=path, history_path=history_path(path), sockets=sockets, on_serving=serving.set,
        server=ServerConfig(
            is_dev=options.is_dev, event_keys=options.event_keys, signing_keys=options.signing_keys,
            allow_hosts=options.allow_hosts, event_size_bytes=event_bytes,
        ),
    )  # fmt: skip
    port = sockets[0].getsockname()[1]

    def stop() -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    async with Node(apps, engine, NodeConfig(local=LocalConfig(event_bytes=event_bytes))) as node:
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
    url = f"http://{'127.0.0.1' if options.host in ('localhost', '::1') else options.host}:{port}"
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
