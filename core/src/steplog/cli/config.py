"""``steplog config``: what is configured and by what, whether it is right, and how it is written."""

from typing import Any

import click
import msgspec

from steplog.cli.commands import Commands
from steplog.cli.output import counted, echo, print_json, table
from steplog.cli.settings import configurable, sources
from steplog.config.load import SECRETS, Configured, examine, missing_keys
from steplog.config.problems import Problem, in_order, refuse
from steplog.config.schema import json_schema

_VERBS = {
    "show": ("steplog.cli.config", "Print each value with its origin."),
    "check": ("steplog.cli.config", "Name every problem; ends with 2 if there is one."),
    "schema": ("steplog.cli.config", "Print the JSON Schema of steplog.toml, for editors."),
}
_START = click.option("--start", is_flag=True, help="As steplog start sees it; otherwise as steplog dev does.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(cls=Commands, table=_VERBS)
def config() -> None:
    """Look at the configuration: steplog.toml, the environment and flags, later ones over earlier ones.

    \b
    Examples:
      steplog config show
      steplog config check --start
    """


@click.command()
@_START
@_JSON
@configurable
def show(start: bool, as_json: bool, **given: Any) -> None:
    """Print each value with its origin. Secrets are shown by their reference.

    \b
    Examples:
      steplog config show
      STEPLOG_LIMITS__STEPS=500 steplog config show --start --json
    """
    configured, problems = examine(sources(given, is_dev=not start), reads=())
    refuse(problems, "the configuration")
    if as_json:
        values = {
            name: {"value": value.key.show(value.value), "origin": value.origin, "overridden": value.overridden}
            for name, value in configured.values.items()
        }
        print_json({"files": configured.files, "values": values})
        return
    rows = [("key", "value", "origin")]
    for name, value in configured.values.items():
        shown = value.key.show(value.value)
        over = f" (over {', '.join(value.overridden)})" if value.overridden else ""
        rows.append((name, "-" if shown is None else msgspec.json.encode(shown).decode(), value.origin + over))
    echo(table(rows))


@click.command()
@_START
@_JSON
@configurable
def check(start: bool, as_json: bool, **given: Any) -> int:
    """Name every problem of the configuration with its line. What secrets refer to has to be there.

    Ends with 2 if there is a problem. With --start, keys have to be there, and not in plain.

    \b
    Examples:
      steplog config check
      steplog config check --start --config steplog.prod.toml
    """
    configured, problems = examine(sources(given, is_dev=not start), reads=SECRETS)
    if start:
        problems += missing_keys(configured, problems)
    if not as_json:
        refuse(problems, "steplog start")
        echo(_summary(configured))
        return 0
    print_json({"ok": not problems, "files": configured.files, "problems": [_row(each) for each in in_order(problems)]})
    return 2 if problems else 0


@click.command()
def schema() -> None:
    """Print the JSON Schema of steplog.toml, by which editors complete and check it.

    \b
    Examples:
      steplog config schema > steplog.schema.json
      steplog config schema | jq .properties.limits
    """
    print_json(json_schema())


def _summary(configured: Configured) -> str:
    """What was read, and that it is right."""
    written = sum(value.setting is not None for value in configured.values.values())
    return f"{' and '.join(configured.files) or 'no steplog.toml'}: {counted(written, 'value')} set, no problems"


def _row(problem: Problem) -> dict[str, str | int | None]:
    place = problem.place
    return {
        "place": None if place is None else place.name, "line": None if place is None else place.line,
        "key": problem.key or None, "problem": problem.problem,
    }  # fmt: skip
