"""The command line. Each command is imported when it is used, so that ``--help`` is there at once."""

import sys

import click

from steplog.cli import output
from steplog.cli.commands import Commands, run

_COMMANDS = {
    "init": ("steplog.cli.init", "Make a project of three files."),
    "dev": ("steplog.cli.serve", "Run the functions of a file on this machine, with the API."),
    "start": ("steplog.cli.serve", "Run functions for production: keys are needed."),
    "send": ("steplog.cli.send", "Send an event."),
    "invoke": ("steplog.cli.invoke", "Start one function, and print what it returns."),
    "signal": ("steplog.cli.signal", "Send a signal to the run that waits for it."),
    "run": ("steplog.cli.run", "One run of a function in this process, without a server."),
    "runs": ("steplog.cli.runs", "List, show and follow runs."),
    "dead": ("steplog.cli.dead", "See, retry and drop what could not be read."),
    "connectors": ("steplog.cli.connectors", "See how far connectors have read."),
    "topics": ("steplog.cli.topics", "Look into the topics of a log on Kafka."),
    "audit": ("steplog.cli.audit", "Account for every accepted event."),
    "migrate": ("steplog.cli.migrate", "Move a log to another place, with what is in flight."),
    "demo": ("steplog.cli.demo", "Kill the engine in the middle of its work, and see that nothing is lost."),
    "config": ("steplog.cli.config", "Show and check the configuration."),
    "completion": ("steplog.cli.completion", "Print the script that completes commands in a shell."),
    "version": ("steplog.cli.version", "Print the version."),
}


@click.group(cls=Commands, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error. May stand anywhere.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto",
    help="Also by NO_COLOR and FORCE_COLOR. Default: on a terminal.", is_eager=True, expose_value=False,
    callback=lambda _context, _option, choice: output.choose_color(choice),
)  # fmt: skip
def commands() -> None:
    """Durable functions on one SQLite file: events, and steps that survive kill -9.

    \b
    Examples:
      steplog demo
      steplog dev orders.py
    """


def main() -> None:
    """Run the command line of this process, and end it."""
    sys.exit(run(commands, sys.argv[1:]))
