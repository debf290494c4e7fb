"""Where runs are read: from the server, or, where none runs, from the log; the same answers from both."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import click
import msgspec

from steplog.cli.client import Server
from steplog.cli.output import echo
from steplog.cli.views import Run, Steps
from steplog.config.forms import Form
from steplog.config.load import Sources, examine
from steplog.config.problems import refuse
from steplog.config.schema import Config
from steplog.errors import NotFound, ServerUnreachable
from steplog.history.offline import open_offline
from steplog.history.queries import PAGE, ULID_CHARACTERS, History, open_history
from steplog.history.views import RunFilter, RunState
from steplog.paths import MEMORY_LOG, file_url, history_path, is_kafka, log_path, masked
from steplog.server import answers

SEARCHED_PAGES = 20  # of the newest runs, for the one whose id ends so
CLIENT: tuple[Form, ...] = ("client",)
SHOWN = 5  # ids, where one was ambiguous
T = TypeVar("T")


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs."""

    states: tuple[RunState, ...] = ()
    function: str | None = None


class Source(Protocol):
    """Where runs are read."""

    url: str | None

    def runs(self, where: Where, limit: int) -> list[Run]: ...

    def find(self, id_: str) -> Run:
        """The run whose id ends so."""
        ...

    def steps(self, run_id: str) -> Steps: ...


class ServerRuns:
    """Runs of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url: str | None = server.url

    def runs(self, where: Where, limit: int) -> list[Run]:
        """Read runs, newest first."""
        runs: list[Run] = []
        for page in self._pages(where, limit):
            runs += page
            if len(runs) >= limit:
                break
        return runs[:limit]

    def find(self, id_: str) -> Run:
        """Read a run by its id, or by the last characters of one of the newest."""
        wanted = id_.lstrip("….").upper()
        if len(wanted) == ULID_CHARACTERS:
            return self._server.get(f"/v1/runs/{wanted}", Run).data
        found: list[Run] = []
        for number, page in enumerate(self._pages(Where(), PAGE)):
            found += [run for run in page if run.run_id.endswith(wanted)]
            if found or number + 1 == SEARCHED_PAGES:
                break
        if not wanted or not found:
            raise NotFound(f"there is no run whose id ends with {wanted!r}; steplog runs list shows those there are")
        if len(found) > 1:
            ids = ", ".join(run.run_id for run in found[:SHOWN])
            raise NotFound(f"more than one run has an id that ends with {wanted!r}; give more characters: {ids}")
        return found[0]

    def steps(self, run_id: str) -> Steps:
        """Read a run's steps."""
        return self._server.get(f"/v1/runs/{run_id}/steps", Steps).data

    def _pages(self, where: Where, limit: int) -> Iterator[list[Run]]:
        cursor: str | None = None
        while True:
            answer = self._server.get(
                "/v1/runs", list[Run], limit=min(limit, PAGE), cursor=cursor, status=where.states,
                function=where.function,
            )  # fmt: skip
            yield answer.data
            cursor = answer.page.cursor if answer.page is not None else None
            if cursor is None:
                return


class LogRuns:
    """Runs in a log, or in a history."""

    url: str | None = None

    def __init__(self, history: History) -> None:
        self._history = history

    def runs(self, where: Where, limit: int) -> list[Run]:
        """Read runs, newest first."""
        runs: list[Run] = []
        cursor: str | None = None
        filter_ = RunFilter(states=where.states, function=where.function)
        while len(runs) < limit:
            page = self._history.runs(filter_, limit=limit - len(runs), cursor=cursor)
            runs += [_decoded(answers.run(view), Run) for view in page.runs]
            cursor = page.cursor
            if cursor is None:
                break
        return runs

    def find(self, id_: str) -> Run:
        """Read a run by the last characters of its id."""
        return _decoded(answers.run(self._history.find_run(id_)), Run)

    def steps(self, run_id: str) -> Steps:
        """Read a run's steps."""
        shown = answers.steps(self._history.steps(run_id), self._history.attempts(run_id))
        return _decoded(shown, Steps)


def open_source(url: str | None, log: str | None, history: str | None = None) -> Source:
    """Open the history or log that is named, else the server, else the log from here, which stderr says."""
    if history is not None:
        return _runs_of(open_history(history))
    if log is not None:
        return _open_log(log)
    server = Server(url)
    if url is not None or server.is_up():
        return ServerRuns(server)
    local = local_log()
    if local is None:
        raise ServerUnreachable(
            f"nothing answers at {server.url}, and there is no log here; start it: steplog dev orders.py"
            "   (or set STEPLOG_URL)"
        )
    echo(f"nothing answers at {server.url}: read from {shown_log(local)}", err=True)
    return _open_log(local)


def local_log() -> str | None:
    """The address of the log that ``dev`` or ``start`` has from here: the configured one, else theirs that is here."""
    urls = [_config(is_dev=is_dev).log.url for is_dev in (True, False)]
    return next((url for url in urls if url != MEMORY_LOG and (is_kafka(url) or log_path(url).exists())), None)


def shown_log(log: str) -> str:
    """A log as people are told of it: its file, or its address."""
    return masked(log) if is_kafka(log) else str(log_path(log))


def connected(log: str) -> str:
    """The address of a log as clients need it: on Kafka with the settings of ``[kafka] client`` from here.

    Not to be printed: it may hold passwords.
    """
    if not is_kafka(log):
        return log
    where = Sources(is_dev=True, flags={"log": log}, environment=os.environ, directory=Path.cwd())
    configured, problems = examine(where, reads=CLIENT)
    refuse([problem for problem in problems if problem.key in ("", "log.url", "kafka.client")], "the configuration")
    return configured.config.kafka_log or log


def _config(*, is_dev: bool, log: str | None = None) -> Config:
    flags = {} if log is None else {"log": log}
    where = Sources(is_dev=is_dev, flags=flags, environment=os.environ, directory=Path.cwd())
    reads: tuple[Form, ...] = () if log is None else ("history",)
    configured, problems = examine(where, reads=reads)
    refuse(problems, "the configuration")
    return configured.config


def _open_log(log: str) -> LogRuns:
    return _runs_of(open_offline(connected(log), _history_of(log)))


def _history_of(log: str) -> str:
    """Where the history of a log is, if it is here."""
    if not is_kafka(log):
        return file_url(history_path(log_path(log)))
    from steplog.cli.startup import copies_path  # the server comes with it

    config = _config(is_dev=False, log=log)
    return config.history.address(copies_path(config))


def _runs_of(history: History) -> LogRuns:
    """The runs of a history, which is closed when the command ends."""
    click.get_current_context().call_on_close(history.close)
    return LogRuns(history)


def _decoded(answer: object, type_: type[T]) -> T:
    """Read an answer as it comes from a server."""
    return msgspec.json.decode(msgspec.json.encode(answer), type=type_)
