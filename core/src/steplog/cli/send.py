"""``steplog send``: one event, and what becomes of it."""

import time
from datetime import datetime

import click
import msgspec

from steplog.cli.arguments import Duration, read_object
from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.output import counted, echo, shown_id
from steplog.cli.timeline import describe, short_function
from steplog.cli.views import Event as Accepted
from steplog.cli.views import Run, print_json
from steplog.errors import NotFound, Refused
from steplog.event import Event

MOST_WAIT_S = 60.0  # of one request


@click.command()
@click.argument("name")
@click.argument("data", default="{}", metavar="[DATA|@FILE|-]")
@click.option("--id", "id_", help="Makes sending repeatable: one id starts a function once in 24 hours.")
@click.option("--ts", help="When it happened: milliseconds, or a time with its zone. A future one delays the runs.")
@click.option("--wait", "wait_s", type=Duration(), default="0s", metavar="DURATION", help="Wait for the runs to end.")
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
    runs = _wait(server, internal_id, [ref.run for ref in accepted.runs], wait_s)
    if as_json:
        skipped = [msgspec.to_builtins(skip) for skip in accepted.skipped]
        print_json({"id": internal_id, "duplicate": accepted.duplicate, "skipped": skipped, "runs": runs})
    else:
        echo(f"{shown_id(internal_id)} accepted: {_outcome(accepted)}")
        for run in runs if wait_s else []:
            echo(f"  {short_function(run)}  {shown_id(run.run_id)}  {describe(run)}")
    return 1 if any(run.state == "failed" for run in runs) else 0


def _wait(server: Server, event_id: str, run_ids: list[str], wait_s: float) -> list[Run]:
    """Wait until the runs of an event have ended or the time is up, and return them."""
    deadline_s = time.monotonic() + wait_s
    for run_id in run_ids:
        while (left_s := deadline_s - time.monotonic()) > 0:
            if server.get(f"/v1/runs/{run_id}", Run, wait_s=min(left_s, MOST_WAIT_S)).data.ended_at is not None:
                break
    return server.get(f"/v1/events/{event_id}/runs", list[Run]).data


def _outcome(event: Accepted) -> str:
    """What became of an event: ``2 runs, 1 skipped (paused)``."""
    parts = [counted(len(event.runs), "run")]
    if event.duplicate:
        parts.append("its id was sent before")
    elif event.skipped:
        parts += [f"{skip.function} skipped ({skip.reason})" for skip in event.skipped]
    elif not event.runs:
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
