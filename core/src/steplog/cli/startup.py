"""What ``dev`` and ``start`` do before they serve, and what they print when they do."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from steplog import __version__
from steplog.cli.output import counted, echo, is_terminal
from steplog.config.schema import Config
from steplog.errors import LogUnavailable, PortInUse
from steplog.paths import MEMORY_LOG, KafkaAddress, is_kafka, log_path, masked
from steplog.server.sockets import LOOPBACK, bind


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line and the configuration said."""

    is_dev: bool
    files: tuple[str, ...]
    root: Path  # of the project
    is_root_searched: bool  # modules are named as seen from there: steplog.toml names them
    config: Config
    ready_fd: int | None
    log_origin: str  # what has named it, and what was overridden by that
    is_fresh: bool = False
    payloads: bool = False

    @property
    def logs_json(self) -> bool:
        """Whether what it says on the way goes to a program: that of ``start`` where there is no terminal."""
        return not self.is_dev and not is_terminal(err=True)


class Pending(msgspec.Struct, frozen=True):
    """What a log holds before it is opened."""

    open_runs: int
    position: int

    @classmethod
    def of(cls, path: Path, options: Options) -> "Pending":
        """Look into a log. One that is to be fresh is put aside first."""
        if not path.exists():
            return cls(0, 0)
        if options.is_fresh:
            from steplog.cli.dev.fresh import put_aside

            put_aside(path)
            return cls(0, 0)
        from steplog.cli.dev.transcript import open_runs

        return cls(*open_runs(path, options.config.history.address(path)))


_ANOTHER = "        another one: --log sqlite:OTHER.db"


def copies_path(config: Config) -> Path:
    """Where this node's copies of a log on Kafka are: their names begin like this."""
    from steplog.cli.parts import node_name

    return Path(config.kafka.data, node_name(config), KafkaAddress.parse(config.log.url).prefix)


def shown_log(options: Options, path: Path) -> str:
    """A log as people are told of it."""
    url = options.config.log.url
    return masked(url) if is_kafka(url) else str(path)


@contextmanager
def log_file(options: Options) -> Iterator[Path]:
    """The log's file. That of ``memory:`` is in a temporary directory, which goes when the process ends.

    Where it is unavailable, who has named it is added to the error.
    """
    url = options.config.log.url
    if url != MEMORY_LOG:
        try:
            yield copies_path(options.config) if is_kafka(url) else log_path(url)
        except LogUnavailable as error:
            another = "        without Kafka: --log sqlite:steplog.db" if is_kafka(url) else _ANOTHER
            raise LogUnavailable(f"{error}\n  log.url from {options.log_origin}{another}") from error
        return
    with tempfile.TemporaryDirectory(prefix="steplog-") as directory:
        yield Path(directory, "log.db")


def bind_port(options: Options) -> list[socket.socket]:
    """Listen. Raises ``PortInUse``, which names another steplog, if it is one."""
    server = options.config.server
    try:
        return bind(server.port, server.host)
    except PortInUse:
        from steplog.cli.port import free_port, holder_of

        verb = "dev" if options.is_dev else "start"
        another = " ".join(["steplog", verb, *options.files, "--port", str(free_port(server.port, server.host))])
        host = _host(server.host)
        holder = holder_of(host, server.port)
        use = f"use it: http://{host}:{server.port}        or take another:" if holder.is_steplog else "take another:"
        raise PortInUse(f"port {server.port} is taken by {holder.name}\n  {use} {another}") from None


def _host(host: str) -> str:
    """A host as clients of this machine write it."""
    return LOOPBACK[0] if host in ("localhost", "::1") else host


def url_of(options: Options, sockets: Sequence[socket.socket]) -> str:
    """Where clients of this machine find the server."""
    return f"http://{_host(options.config.server.host)}:{sockets[0].getsockname()[1]}"


def announce(
    options: Options, path: Path, url: str, apps: list[tuple[str, int]], pending: Pending, took_s: float, *,
    is_watched: bool = False, has_keys: bool = False,
) -> None:  # fmt: skip
    """Tell people, or the program that waits at ``ready_fd``, that everything serves. ``apps``: ids, and how many
    functions each has."""
    if options.ready_fd is not None:
        port = int(url.rpartition(":")[2])
        line = json.dumps({"port": port, "url": url, "pid": os.getpid(), "log": shown_log(options, path)}) + "\n"
        os.write(options.ready_fd, line.encode())
        os.close(options.ready_fd)
        return
    if options.logs_json:
        functions = dict(apps)
        tell(options, "ready", version=__version__, url=url, log=shown_log(options, path), functions=functions,
             open_runs=pending.open_runs)  # fmt: skip
        return
    mode = "dev" if options.is_dev else "start"
    key = "dev  (any key does in dev)" if options.is_dev else "<event key>"
    lines = [f"steplog {__version__} {mode} · ready in {took_s:.1f} s", f"  events  {url}/e/{key}"]
    origin = f" from {options.files[0]}" if len(options.files) == 1 else ""
    watched = ", watched" if is_watched else ""
    lines += [f"  app     {id_}, {counted(count, 'function')}{origin}{watched}" for id_, count in apps]
    if not apps:
        lines.append("  app     none: events are accepted and kept; name a file: steplog dev orders.py")
    lines.append(f"  log     {shown_log(options, path)}{_goes_on(pending.open_runs, is_dev=options.is_dev)}")
    if has_keys:
        lines.append("  keys    s send again · r retry now · l level · ? all · Ctrl-C stop")
    else:
        lines.append("  Ctrl-C  stops; what is open goes on at the next start")
    for line in lines:
        echo(line, err=True)


def tell(options: Options, text: str, **facts: object) -> None:
    """Say something on the way: a line, or where a program collects them a record of the log."""
    if options.logs_json:
        import logging

        logging.getLogger(__name__).info(text, extra={"fields": facts})
    else:
        echo(text, err=True)


def _goes_on(open_runs: int, *, is_dev: bool) -> str:
    if not open_runs:
        return ""
    verb = "goes" if open_runs == 1 else "go"
    return f", {counted(open_runs, 'open run')} {verb} on" + (" (--fresh: start empty)" if is_dev else "")
