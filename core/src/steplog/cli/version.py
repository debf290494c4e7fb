"""``steplog version``."""

import platform
import sqlite3

import click

from steplog import __version__
from steplog.cli.output import echo, print_json


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
        print_json(parts | {"platform": platform.platform()})
    else:
        echo(f"steplog {parts['steplog']} (Python {parts['python']}, SQLite {parts['sqlite']})")
