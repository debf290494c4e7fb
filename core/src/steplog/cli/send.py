"""``steplog send``: one event, and what becomes of it."""

import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.output import counted, echo, shown_id
from steplog.cli.timeline import describe, short_function
from steplog.cli.views import Event, Run
from steplog.errors import EventInvalid, NotFound, Refused

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
MOST_WAIT_S = 60.0  # of one request


class _Duration(click.ParamType[float]):
    """A duration with its unit, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; give it its unit, as 2s, 500ms or 1m", param, ctx)
        return float(match[1]) * _UNIT_S[match[2]]


@click.command()
@click.argument("name")
@click.argument("data", default="{}", metavar="[DATA|@FILE|-]")
@click.option("--id", "id_", help="Makes sending repeatable: one id starts a function once in 24 hours.")
@click.option("--ts", help="When it happened: milliseconds, or a time with its zone. A future one delays the runs.")
@click.option("--wait", "wait_s", type=_Duration(), default="0s", metavar="DURATION", help="Wait for the runs to end.")
@click.option("--url", envvar="STEPLOG_URL", help=f"The server. Default: {DEFAULT_URL}")
@click.option("--event-key", envvar="STEPLOG_EVENT_KEY", default="dev", help="dev takes any.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def send(
    name: str, data: str, id_: str | None, ts: str | None, wait_s: float, url: str | None, event_key: str, as_json: bool
) -> int:
    """Send an event. DATA is a JSON object: as it is, @FILE to read it from a file, - from standard input.

    Ends with 1 where a run fails within --wait.

    \b
    Examples:
      steplog send shop/order.placed '{"id": "o1", "total": 4200, "email": "ada@example.com"}' --wait 2s
      steplog send shop/order.placed @order.json --id order-o1
    """
    event: dict[str, Any] = {"name": name, "data": _data(data)}
    if id_ is not None:
        event["id"] = id_
    if ts is not None:
        event["ts"] = _ts_ms(ts)
    server = Server(url)
    internal_id = server.send(event_key, event)
    try:
        accepted = server.get(f"/v1/events/{internal_id}", Event).data
    except (Refused, NotFound) as error:  # it is sent, whatever else is known of it
        if as_json:
            _print_json({"id": internal_id, "runs": None})
        else:
            echo(f"{shown_id(internal_id)} accepted")
        echo(f"what became of it is not shown: {error}", err=True)
        return 0
    runs = _wait(server, internal_id, [ref.run for ref in accepted.runs], wait_s)
    if as_json:
        skipped = [msgspec.to_builtins(skip) for skip in accepted.skipped]
        _print_json({"id": internal_id, "duplicate": accepted.duplicate, "skipped": skipped, "runs": runs})
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


def _outcome(event: Event) -> str:
    """What became of an event: ``2 runs, 1 skipped (paused)``."""
    parts = [counted(len(event.runs), "run")]
    if event.duplicate:
        parts.append("its id was sent before")
    elif event.skipped:
        parts += [f"{skip.function} skipped ({skip.reason})" for skip in event.skipped]
    elif not event.runs:
        parts.append(f"no function is started by {event.name}")
    return ", ".join(parts)


def _data(text: str) -> dict[str, Any]:
    """Read DATA. Raises ``EventInvalid`` for what is no JSON object."""
    where = ""
    if text == "-":
        text, where = sys.stdin.read(), "standard input"
    elif text.startswith("@"):
        where = text[1:]
        try:
            text = Path(where).read_text(encoding="utf8")
        except OSError as error:
            raise click.UsageError(f"{where}: {error.strerror}") from error
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EventInvalid(f"{where or 'DATA'} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise EventInvalid(f"""{where or "DATA"} is no JSON object; write one, as '{{"id": "o1"}}'""")
    return data


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


def _print_json(value: dict[str, Any]) -> None:
    echo(msgspec.json.format(msgspec.json.encode(value)).decode())
