"""``steplog dev`` and ``steplog start``: the engine, the API and the functions of some files."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from steplog.cli.output import counted, echo
from steplog.cli.settings import configurable, sources
from steplog.cli.startup import Options, Pending, announce, bind_port, log_file, tell, url_of
from steplog.config.load import Sources, load
from steplog.errors import ConfigInvalid

if TYPE_CHECKING:
    from steplog.app import App

_FILES = click.argument("files", nargs=-1, metavar="[FILE]...")
_READY = click.option("--ready-fd", type=int, hidden=True, help="Write one JSON line there when everything serves.")


@click.command(short_help="Run the functions of a file on this machine, with the API.")
@_FILES
@click.option("--no-reload", is_flag=True, help="Run the functions in this process, as a debugger wants it.")
@click.option("--fresh", is_flag=True, help="Start with an empty log; the one before is kept beside it.")
@click.option("--payloads", is_flag=True, help="Print data of events, and what steps and runs return.")
@configurable
@_READY
def dev(
    files: tuple[str, ...], ready_fd: int | None, no_reload: bool, fresh: bool, payloads: bool, **given: Any
) -> None:
    """Run functions on this machine: any key sends events, everyone here may read. A save reloads the code.

    Without FILE, those of [app] load in steplog.toml; without any, events are accepted and kept.

    \b
    Examples:
      steplog dev orders.py
      steplog dev orders.py billing.py:app --port 8300
    """
    options = _options(files, ready_fd, sources(given, is_dev=True))
    if fresh and options.config.kafka_log is not None:
        problem = "a log on Kafka is not put aside: take another prefix, as in --log kafka://HOST:PORT/OTHER"
        raise ConfigInvalid("--fresh", [problem])
    options = msgspec.structs.replace(options, is_fresh=fresh, payloads=payloads)
    if no_reload:
        run(options)
    else:
        _supervise(options)


@click.command(short_help="Run functions for production: keys are needed.")
@_FILES
@configurable
@_READY
def start(files: tuple[str, ...], ready_fd: int | None, **given: Any) -> None:
    """Run functions for production. Events need an event key, reads the signing key.

    Without FILE, those of [app] load in steplog.toml.

    \b
    Examples:
      STEPLOG_EVENT_KEY=EVENT_KEY STEPLOG_SIGNING_KEY=SIGNING_KEY steplog start orders.py
      steplog start shop.orders --log sqlite:/var/lib/shop/steplog.db --config shop.toml
    """
    run(_options(files, ready_fd, sources(given, is_dev=False)))


def _options(files: tuple[str, ...], ready_fd: int | None, where: Sources) -> Options:
    configured = load(where)
    named = files or configured.config.app.load
    needs_file = not where.is_dev and "engine" in configured.config.server.roles
    if not named and needs_file:
        problem = "no file is named: give one, as in steplog start orders.py, or write [app] load in steplog.toml"
        raise ConfigInvalid("steplog start", [problem])
    log = configured.values["log.url"]
    verb = "is" if len(log.overridden) == 1 else "are"
    overridden = f"; {' and '.join(log.overridden)} {verb} overridden" if log.overridden else ""
    return Options(
        is_dev=where.is_dev, files=named, root=configured.root.absolute(), is_root_searched=not files,
        config=configured.config, ready_fd=ready_fd, log_origin=f"{log.origin}{overridden}",
    )  # fmt: skip


# --- in this process


def run(options: Options) -> None:
    """Serve until SIGINT or SIGTERM; a second one ends at once."""
    from steplog.diagnostics import log_to_stderr
    from steplog.drivers.loop import UsersLoop
    from steplog.loading import load_apps
    from steplog.tuning import tune_process

    began_s = time.perf_counter()
    with log_file(options) as path:
        sockets = bind_port(options)
        log_to_stderr(as_json=options.logs_json)
        if options.is_root_searched and str(options.root) not in sys.path:
            sys.path.insert(0, str(options.root))
        apps = load_apps(options.files)
        tune_process()
        with asyncio.Runner(loop_factory=UsersLoop) as runner:
            runner.run(_serve(options, path, apps, sockets, began_s))


async def _serve(
    options: Options, path: Path, apps: "list[App]", sockets: Sequence[socket.socket], began_s: float
) -> None:
    from steplog.cli.parts import engine_of, node_config
    from steplog.node import Node

    loop = asyncio.get_running_loop()
    serving, stopped = asyncio.Event(), asyncio.Event()
    url, pending = url_of(options, sockets), Pending.of(path, options)
    since_ms = round(time.time() * 1000)
    engine = engine_of(
        options.config, apps, path, is_dev=options.is_dev, sockets=sockets, on_serving=serving.set, since_ms=since_ms
    )  # fmt: skip

    def stop() -> None:
        if stopped.is_set():
            os._exit(130)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    async with Node(apps, engine, node_config(options.config)) as node:
        failed = asyncio.create_task(node.failed())
        await _first(failed, serving)
        if not failed.done():
            counts = [(app.id, len(app.functions)) for app in apps]
            announce(options, path, url, counts, pending, time.perf_counter() - began_s)
            with _told(options, path, pending):
                await _first(failed, stopped)
        if stopped.is_set() and node.executing:
            tell(options, f"stopping: {counted(node.executing, 'step')} still at work; again to stop at once")
    if not options.ready_fd and stopped.is_set():
        tell(options, "stopped")


async def _first(failed: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait until the event is set, or the node has ended by itself."""

    async def wait() -> None:
        await event.wait()

    waiting = asyncio.create_task(wait())
    await asyncio.wait({failed, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextmanager
def _told(options: Options, path: Path, pending: "Pending") -> Iterator[None]:
    """In ``dev``, print what happens: from a thread, because the loop is the functions'."""
    if not options.is_dev or options.ready_fd is not None:
        yield
        return
    import threading

    from steplog.cli.dev.transcript import POLL_S, Transcript

    over = threading.Event()
    transcript = Transcript(
        path,
        options.config.history.address(path),
        lambda line: echo(line, err=True),
        position=pending.position,
        payloads=options.payloads,
        kafka=options.config.kafka_log,
    )

    def follow() -> None:
        while not over.wait(POLL_S):
            transcript.poll()
        transcript.poll()
        transcript.close()

    thread = threading.Thread(target=follow, name="steplog-transcript", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- with a parent that reloads


def _supervise(options: Options) -> None:
    """Serve until SIGINT or SIGTERM, and reload when the code is saved; a second signal ends at once."""
    from steplog.cli.dev.spawn import spawn

    began_s = time.perf_counter()
    with log_file(options) as path:
        sockets = bind_port(options)
        spawned = spawn(sockets)  # it loads while this process does

        from steplog.cli.dev.frames import Load, Loaded
        from steplog.cli.dev.supervisor import Dev, Supervisor

        url, pending = url_of(options, sockets), Pending.of(path, options)

        def loaded_first(loaded: Loaded, has_keys: bool) -> None:
            counts = [(app.id, app.functions) for app in loaded.apps]
            took_s = time.perf_counter() - began_s
            announce(options, path, url, counts, pending, took_s, is_watched=True, has_keys=has_keys)

        load_ = Load(
            files=options.files, root=str(options.root), is_root_searched=options.is_root_searched,
            config=options.config, log_path=str(path), sockets=[sock.fileno() for sock in sockets],
            since_ms=round(time.time() * 1000),
        )  # fmt: skip
        parent = Dev(
            load=load_, url=url, position=pending.position, payloads=options.payloads,
            is_told=options.ready_fd is None, announce=loaded_first,
        )  # fmt: skip
        try:
            asyncio.run(Supervisor(parent, sockets, spawned).run())
        finally:
            for sock in sockets:
                sock.close()
