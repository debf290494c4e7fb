"""``steplog invoke``: one function, started by its id, and what it returns."""

import time

import click

from steplog.cli import completing
from steplog.cli.arguments import Duration, read_object
from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.output import Waiting, echo, print_json, shown_id
from steplog.cli.timeline import describe, failure, short_function
from steplog.cli.views import Run
from steplog.errors import InvokeTimeout, RunFailed

LOOK_S = 1.0  # one request waits for the end of the run so long


@click.command()
@click.argument("function", shell_complete=completing.functions)
@click.argument("data", default="{}", metavar="[DATA|@FILE|-]")
@click.option(
    "--wait", "wait_s", type=Duration(), metavar="DURATION", help="How long for its end. Default: as long as it takes."
)
@click.option("--url", envvar="STEPLOG_URL", help=f"The server. Default: {DEFAULT_URL}")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON object.")
def invoke(function: str, data: str, wait_s: float | None, url: str | None, as_json: bool) -> int:
    """Start FUNCTION, an id as shop-ship-order, whatever triggers it; wait for its end and print what it returns.

    Ends with 1 where it fails, or has not ended within --wait; its run goes on then, also after Ctrl-C.

    \b
    Examples:
      steplog invoke shop-ship-order '{"id": "o1", "total": 4200, "email": "ada@example.com"}'
      steplog invoke shop-ship-order @order.json --wait 30s --json
    """
    server = Server(url)
    event_id = server.start(function, read_object(data))
    deadline_s = None if wait_s is None else time.monotonic() + wait_s
    run_id: str | None = None
    try:
        run_id = server.run_of(event_id, function, deadline_s=deadline_s)
        run = None if run_id is None else _ended(server, run_id, deadline_s)
    except KeyboardInterrupt:
        where = f"run {run_id} goes on; steplog runs show {run_id}" if run_id else f"event {event_id} is accepted"
        echo(where, err=True)
        raise click.Abort from None
    if run is None:
        raise InvokeTimeout(function, run_id, wait_s or 0)
    if as_json:
        print_json({"run": run})
    elif run.state == "completed":
        print_json(run.output, in_a_line=True)
    else:
        error = failure(run)
        raise RunFailed(function, run.run_id, name=error.name, message=error.message)
    return 0 if run.state == "completed" else 1


def _ended(server: Server, run_id: str, deadline_s: float | None) -> Run | None:
    """Wait for the end of a run, and show that; None where it has not ended by then."""
    with Waiting() as waiting:
        while True:
            left_s = LOOK_S if deadline_s is None else deadline_s - time.monotonic()
            run = server.get(
                f"/v1/runs/{run_id}", Run, wait_s=min(max(left_s, 0.0), waiting.until_shown_s(LOOK_S))
            ).data
            if run.ended_at is not None:
                return run
            if left_s <= 0:
                return None
            waiting.show(f"{short_function(run)} {shown_id(run_id)}  {describe(run)}")
