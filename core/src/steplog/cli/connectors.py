"""``steplog connectors``: how far those of the configuration have read."""

import os
from pathlib import Path

import click

from steplog.cli.commands import Commands
from steplog.cli.output import echo, print_json, table
from steplog.config.forms import Form
from steplog.config.load import Sources, examine
from steplog.config.problems import refuse
from steplog.config.schema import Config
from steplog.errors import NotFound
from steplog.paths import PREFIX, KafkaAddress

_VERBS = {"lag": ("steplog.cli.connectors", "Show how far each connector has read, and what waits.")}
_READS: tuple[Form, ...] = ("client", "options")


@click.group(cls=Commands, table=_VERBS, short_help=_VERBS["lag"][1])
def connectors() -> None:
    """See how far the connectors of steplog.toml are.

    \b
    Examples:
      steplog connectors lag
      steplog connectors lag --connector payments --json
    """


@click.command()
@click.option("--connector", metavar="NAME", help="Of this connector alone.")
@click.option(
    "--log", envvar="STEPLOG_LOG", help="The log, kafka://HOST:PORT/PREFIX. Default: that of the configuration here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def lag(connector: str | None, log: str | None, as_json: bool) -> None:
    """Show for each partition of the topics that connectors read how far it is, what waits, and who has it.

    What was parked counts as read: steplog dead list shows it.

    \b
    Examples:
      steplog connectors lag
      steplog connectors lag --log kafka://broker:9092/shop --json
    """
    config = _config(log)
    chosen = {name: each for name, each in config.connectors.items() if connector in (None, name)}
    if not chosen:
        which = "" if connector is None else f" {connector!r}"
        raise NotFound(f"there is no connector{which} in the steplog.toml of this directory; write [connectors.NAME]")
    from steplog.connectors.lag import lag_of  # the client comes with it
    from steplog.connectors.running import Cluster

    address = None if config.kafka_log is None else KafkaAddress.parse(config.kafka_log)
    prefix = PREFIX if address is None else address.prefix
    cluster = None if address is None else Cluster(address.servers, dict(address.settings))
    found = [each for name, table_ in chosen.items() for each in lag_of(name, table_, prefix, cluster)]
    if as_json:
        print_json({"partitions": found})
        return
    rows = [
        (each.connector, each.topic, str(each.partition), "–" if each.committed is None else str(each.committed),
         str(each.end), f"{each.waiting:,}", each.client or "nobody")
        for each in found
    ]  # fmt: skip
    echo(table([("connector", "topic", "partition", "read", "end", "waiting", "who"), *rows]))
    echo(f"{sum(each.waiting for each in found):,} waiting in all", err=True)


def _config(log: str | None) -> Config:
    flags = {} if log is None else {"log": log}
    where = Sources(is_dev=True, flags=flags, environment=os.environ, directory=Path.cwd())
    configured, problems = examine(where, reads=_READS)
    refuse(problems, "the configuration")
    return configured.config
