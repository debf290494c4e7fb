"""``steplog send``: one event, and what becomes of it."""

import time
from collections.abc import Sequence
from datetime import datetime

import click

from steplog.cli.arguments import Duration, read_object
from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.output import Waiting, counted, echo, print_json, shown_id
from steplog.cli.timeline import describe, short_function
from steplog.cli.views import Event as Accepted
from steplog.cli.views import Run
from steplog.errors import NotFound, Refused
from steplog.event import Event

LOOK_S = 1.0  # one request waits for the end of a run so long
SHOWN_RESUMED = 20  # of the runs that an event has let go on


@click.command()
@click.argument("name")
@click.argument("data", default="{}", metavar="[DATA|@FILE|-]")
@click.option("--id", "id_", help="Makes sending repeatable: one id starts a function once in 24 hours.")
@click.option("--ts", help="When it happened: milliseconds, or a time with its zone. A future one delays the runs.")
@click.option("--wait", "wait_s", type=Duration(), default="0s", metavar="DURATION", help="Wait for its runs to end.")
@click.option("--url", envvar="STEPLOG_URL", help=f"The server. Default: {DEFAULT_URL}")
@click.option("--event-key", envvar="STEPLOG_EVENT_KEY", help="dev takes any.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def send(
    name: str,
    data: str,
    id_: str | None,
    ts: str | None,
    wait_s: float,
    url: str | None,
    event_key: str | None,
    as_json: bool,
) -> int:
    """Send an event. DATA is a JSON object: as it is, @FILE to read it from a file, - from standard input.

    Ends with 1 where a run fails within --wait.

    \b
    Examples:
      steplog send shop/order.placed '{"id": "o1", "total": 4200, "email": "ada@example.com"}' --wait 2s
      steplog send shop/order.placed @order.json --id order-o1
    """
    event: Event[object] = Event(name=name, data=read_object(data), id=id_, ts=None if ts is None else _ts_ms(ts))
    server = Server(url, event_key=event_key)
    internal_id = server.send(event)
    try:
        accepted = server.get(f"/v1/events/{internal_id}", Accepted).data
    except (Refused, NotFound) as error:  # it is sent, whatever else is known of it
        if as_json:
            print_json({"id": internal_id, "runs": None})
        else:
            echo(f"{shown_id(internal_id)} accepted")
        echo(f"what became of it is not shown: {error}", err=True)
        return 0
    if not as_json:
        echo(f"{shown_id(internal_id)} accepted: {_outcome(accepted)}")
    went_on = [step.run for step in accepted.resumed[:SHOWN_RESUMED]] if wait_s else []
    _wait([*(ref.run for ref in accepted.runs), *went_on], server, wait_s)
    runs = server.get(f"/v1/events/{internal_id}/runs", list[Run]).data
    others = [server.get(f"/v1/runs/{run_id}", Run).data for run_id in went_on]
    if as_json:
        known = {"id": internal_id, "duplicate": accepted.duplicate, "skipped": accepted.skipped}
        print_json({**known, "resumed": accepted.resumed, "runs": runs})
    elif wait_s:
        _print([*runs, *others])
    return 1 if any(run.state == "failed" for run in (*runs, *others)) else 0


def _wait(run_ids: Sequence[str], server: Server, wait_s: float) -> None:
    """Wait until runs have ended, or the time is up, and show which of them is waited for."""
    deadline_s = time.monotonic() + wait_s
    with Waiting() as waiting:
        for run_id in run_ids:
            while (left_s := deadline_s - time.monotonic()) > 0:
                run = server.get(f"/v1/runs/{run_id}", Run, wait_s=waiting.until_shown_s(min(left_s, LOOK_S))).data
                if run.ended_at is not None:
                    break
                waiting.show(f"{short_function(run)} {shown_id(run_id)}  {describe(run)}")


def _print(runs: Sequence[Run]) -> None:
    columns = max((len(short_function(run)) for run in runs), default=0)
    for run in runs:
        echo(f"  {short_function(run).ljust(columns)}  {shown_id(run.run_id)}  {describe(run)}")


def _outcome(event: Accepted) -> str:
    """What became of an event: ``2 runs, ended 1 wait``."""
    parts = [counted(len(event.runs), "run")] if event.runs or not event.resumed else []
    if event.resumed:
        parts.append(f"ended {counted(len(event.resumed), 'wait')}")
    if event.duplicate:
        parts.append("its id was sent before")
    elif event.skipped:
        parts += [f"{skip.function} skipped ({skip.reason})" for skip in event.skipped]
    elif not event.runs and not event.resumed:
        parts.append(f"no function is started by {event.name}")
    return ", ".join(parts)


def _ts_ms(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.UsageError(f"--ts is {text!r}; give milliseconds, or a time with its zone, as 2026-12-01T08:00Z")
    return round(moment.timestamp() * 1000)
