"""The flags that set configuration, of ``dev``, ``start`` and ``config``; and how a command reads it all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from steplog.cli import completing
from steplog.config.flags import FLAGS
from steplog.config.load import Sources

F = TypeVar("F", bound=Callable[..., Any])

_VALUES: dict[str, Any] = {"metavar": "VALUE", "hidden": True}
_OPTIONS = (
    click.option(
        "--log",
        metavar="URL",
        help="Where everything is kept: sqlite:PATH or kafka://HOST:PORT/PREFIX. Default: sqlite:.steplog/dev.db in "
        "dev, else sqlite:steplog.db",
    ),
    click.option(
        "--role", multiple=True, metavar="ROLE", help="On Kafka: api, engine, or both: api,engine. Default: both."
    ),
    click.option(
        "--history",
        metavar="URL",
        help="Where reads are answered from. Default: a file beside the log; else postgresql://…",
    ),
    click.option("--host", help="Address to listen on; ::1 comes along. Default: 127.0.0.1"),
    click.option("--port", "-p", type=click.IntRange(0, 65_535), help="0 takes a free one. Default: 8288"),
    click.option("--allow-host", multiple=True, metavar="NAME", help="Another name that dev may be addressed by."),
    click.option("--event-key", multiple=True, help="With start, who sends events needs one. Also STEPLOG_EVENT_KEY."),
    click.option("--signing-key", multiple=True, help="With start, who reads needs one. Also STEPLOG_SIGNING_KEY."),
    click.option(
        "--retry-interval", type=click.IntRange(0), metavar="SECONDS", help="How long to wait before each retry."
    ),
    click.option("--config", metavar="FILE", help="Default: steplog.toml in this directory or above."),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key, as in --set limits.steps=500.",
        shell_complete=completing.keys,
    ),
    click.option("--sqlite-dir", metavar="DIR", hidden=True),
    click.option("--sdk-url", "-u", multiple=True, **_VALUES),
    click.option("--redis-uri", **_VALUES),
    click.option("--postgres-uri", **_VALUES),
    click.option("--poll-interval", **_VALUES),
    click.option("--queue-workers", **_VALUES),
    click.option("--tick", **_VALUES),
    click.option("--no-discovery", is_flag=True, hidden=True),
    click.option("--no-poll", is_flag=True, hidden=True),
)


def configurable(command: F) -> F:
    """Give a command the flags; what was given comes in ``**given``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sources(given: Mapping[str, Any], *, is_dev: bool) -> Sources:
    """What a command reads its configuration from, by the flags that ``configurable`` gave it."""
    values = {name: given.get(name.replace("-", "_")) for name in FLAGS}
    flags = {name: value for name, value in values.items() if not (value is None or value is False or value == ())}
    return Sources(
        is_dev=is_dev, config=given["config"], flags=flags, sets=given["sets"], environment=os.environ,
        directory=Path.cwd(),
    )  # fmt: skip
