"""``steplog runs``: list, show and follow."""

import time
from collections.abc import Iterator
from typing import get_args

import click

from steplog.cli import completing
from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.commands import Commands
from steplog.cli.output import clock, echo, print_json, shown_id, styled, table
from steplog.cli.source import ServerRuns, Where, open_source
from steplog.cli.timeline import describe, draw, short_function
from steplog.cli.views import Run
from steplog.errors import ServerUnreachable
from steplog.history.views import RunState
from steplog.paths import history_problem

POLL_S = 0.3
TAILED = 100  # of the newest runs, and of the open ones before them
TERMINAL = ("completed", "failed")

_VERBS = {
    "list": ("steplog.cli.runs", "List the newest runs."),
    "show": ("steplog.cli.runs", "Show a run, its steps and their attempts."),
    "tail": ("steplog.cli.runs", "Print what happens to runs, as it happens."),
}
_URL = click.option("--url", envvar="STEPLOG_URL", help=f"The server. Default: {DEFAULT_URL}")
_LOG = click.option("--log", help="Read this log, sqlite:PATH or kafka://HOST:PORT/PREFIX, and ask no server.")
_HISTORY = click.option(
    "--history", metavar="URL", callback=lambda _, __, url: _checked_history(url),
    help="Read this history, sqlite:PATH or postgresql://…, and ask no server.",
)  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the fields of the REST API.")


@click.group(cls=Commands, table=_VERBS, short_help=_VERBS["list"][1])
def runs() -> None:
    """List, show and follow runs.

    \b
    Examples:
      steplog runs list --status failed
      steplog runs show 8F2KQ
    """


@click.command("list")
@click.option(
    "--status", "states", multiple=True, type=click.Choice(get_args(RunState)), help="May be given several times."
)
@click.option("--function", shell_complete=completing.functions, help="Its id, as the list prints it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@_URL
@_LOG
@_HISTORY
@_JSON
@click.option("--jsonl", "as_jsonl", is_flag=True, help="Print each run as a line of JSON.")
def list_(
    states: tuple[RunState, ...], function: str | None, limit: int, url: str | None, log: str | None,
    history: str | None, as_json: bool, as_jsonl: bool,
) -> None:  # fmt: skip
    """List runs, newest first.

    \b
    Examples:
      steplog runs list --status failed --status running
      steplog runs list --function shop-ship-order --limit 100 --json
    """
    found = open_source(url, log, history).runs(Where(states=states, function=function), limit)
    if as_json:
        print_json({"runs": found})
    elif as_jsonl:
        for run in found:
            print_json(run, in_a_line=True)
    elif found:
        rows = [(clock(run.run_started_at), run.function, shown_id(run.run_id), describe(run)) for run in found]
        echo(table([("started", "function", "run", "state"), *rows]))
    else:
        echo(
            "there are no such runs" if states or function else "there are no runs yet; steplog send makes some",
            err=True,
        )


@click.command()
@click.argument("run", shell_complete=completing.runs)
@_URL
@_LOG
@_HISTORY
@_JSON
def show(run: str, url: str | None, log: str | None, history: str | None, as_json: bool) -> None:
    """Show a run, named by its id or the last characters of it: its steps, when they ran, and what they returned.

    \b
    Examples:
      steplog runs show 8F2KQ
      steplog runs show 01JD4QZ3M0G5W5V0N7T5H8F2KQ --json
    """
    source = open_source(url, log, history)
    found = source.find(run)
    steps = source.steps(found.run_id)
    if as_json:
        print_json({"run": found, **{name: getattr(steps, name) for name in steps.__struct_fields__}})
    else:
        echo(draw(found, steps, source.url))


@click.command()
@click.option("--function", shell_complete=completing.functions, help="Of this function alone.")
@_URL
@click.option("--jsonl", "as_jsonl", is_flag=True, help="Print the run as a line of JSON at each change.")
def tail(function: str | None, url: str | None, as_jsonl: bool) -> None:
    """Print what happens to runs from now on, until Ctrl-C.

    \b
    Examples:
      steplog runs tail
      steplog runs tail --function shop-ship-order --jsonl
    """
    server = Server(url)
    if not server.is_up():
        raise ServerUnreachable(
            f"nothing answers at {server.url}, so nothing happens; start it: steplog dev orders.py"
            "   (or set STEPLOG_URL)"
        )
    echo(f"following {server.url}; Ctrl-C stops", err=True)
    for run in _changes(ServerRuns(server), Where(function=function)):
        if as_jsonl:
            print_json(run, in_a_line=True)
        else:
            at = clock(run.ended_at or run.started_at or run.run_started_at)
            echo(
                f"{at}  run  {styled(short_function(run).ljust(16), bold=True)} {shown_id(run.run_id)}  {describe(run)}"
            )


def _checked_history(url: str | None) -> str | None:
    problem = None if url is None else history_problem(url)
    if problem is not None:
        raise click.UsageError(f"--history {problem}")
    return url


def _changes(source: ServerRuns, where: Where) -> Iterator[Run]:
    """Yield runs that are new, or in another state than before. A state that lasts less than a poll may be missed."""
    known = {run.run_id: run.state for run in source.runs(where, TAILED)}
    while True:
        time.sleep(POLL_S)
        newest = {run.run_id: run for run in source.runs(where, TAILED)}
        older = [id_ for id_, state in known.items() if state not in TERMINAL and id_ not in newest][:TAILED]
        seen = [*(source.find(id_) for id_ in older), *reversed(newest.values())]
        for run in seen:
            if known.get(run.run_id) != run.state:
                yield run
        known = {run.run_id: run.state for run in seen}
