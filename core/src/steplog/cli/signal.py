"""``steplog signal``: a signal for the run that waits for it."""

import click

from steplog.cli.arguments import read_json
from steplog.cli.client import DEFAULT_URL, Server
from steplog.cli.output import echo, print_json, shown_id
from steplog.errors import NotFound


@click.command()
@click.argument("name")
@click.argument("data", default="null", metavar="[DATA|@FILE|-]")
@click.option("--url", envvar="STEPLOG_URL", help=f"The server. Default: {DEFAULT_URL}")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def signal(name: str, data: str, url: str | None, as_json: bool) -> None:
    """Send the signal NAME to the run that waits for it, and print which goes on. DATA is any JSON value.

    Ends with 4 where no run waits for it.

    \b
    Examples:
      steplog signal approve/o1
      steplog signal approve/o1 '{"by": "ann"}' --json
    """
    server = Server(url)
    run_id = server.signal(name, read_json(data))
    if run_id is None:
        raise NotFound(f"no run waits for the signal {name!r}; steplog runs list --status waiting shows who waits")
    if as_json:
        print_json({"run_id": run_id})
    else:
        echo(f"run {shown_id(run_id)} goes on")
