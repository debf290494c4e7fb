"""``steplog version``."""

import json
import platform
import sqlite3

import click

from steplog import __version__
from steplog.cli.output import echo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(as_json: bool) -> None:
    """Print the version of steplog, and of what it stands on.

    \b
    Examples:
      steplog version
      steplog version --json
    """
    parts = {"steplog": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    if as_json:
        echo(json.dumps(parts | {"platform": platform.platform()}, indent=2))
    else:
        echo(f"steplog {parts['steplog']} (Python {parts['python']}, SQLite {parts['sqlite']})")
