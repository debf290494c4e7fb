"""``steplog migrate``: a log to another place, with everything that is in flight."""

import click
import msgspec

from steplog.cli.output import Waiting, counted, echo, is_terminal, print_json
from steplog.cli.source import connected
from steplog.errors import MigrationRefused
from steplog.migrate.copying import Counts
from steplog.migrate.migration import Migration
from steplog.paths import is_kafka, masked

_ADDRESS = "sqlite:PATH or kafka://HOST:PORT/PREFIX"


@click.command()
@click.option("--from", "source", required=True, metavar="LOG", help=f"The log to move: {_ADDRESS}.")
@click.option("--to", "target", required=True, metavar="LOG", help=f"Where to: {_ADDRESS}. There must be no log yet.")
@click.option("--partitions", type=click.IntRange(1, 4096), help="Of a log on Kafka that is made. Default: 16.")
@click.option("--replication", type=click.IntRange(1), help="Copies of its topics. Default: 3, or as brokers allow.")
@click.option("--resume", is_flag=True, help="Go on with a migration that was interrupted.")
@click.option("--abort", is_flag=True, help="Take it back: what was copied is deleted, the log stays where it is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def migrate(
    source: str, target: str, partitions: int | None, replication: int | None, resume: bool, abort: bool, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Move a log to another place, or to another number of partitions, with everything that is in flight.

    Stop every engine first. Wherever it is interrupted, one log has the runs, and the other refuses to start.

    \b
    Examples:
      steplog migrate --from sqlite:steplog.db --to kafka://localhost:9092/shop --partitions 32
      steplog migrate --from kafka://localhost:9092/shop --to kafka://localhost:9092/shop2 --partitions 64
    """
    if resume and abort:
        raise click.UsageError("--resume goes on, --abort goes back; give one of them")
    if partitions is not None and not is_kafka(target):
        raise click.UsageError("--partitions is of a log on Kafka; a file has one")
    if resume and partitions is not None:
        raise click.UsageError("--resume goes on with the partitions that were given at first")
    _ask(source, target, is_back=abort, yes=yes)
    with Waiting() as waiting:
        migration = Migration(
            source, target, partitions=partitions or PARTITIONS, replication=replication,
            connected=connected, tell=lambda what, counts: waiting.show(f"{what}  {counts.total:,} copied"),
        )  # fmt: skip
        if abort:
            migration.abort()
        else:
            result = migration.resume() if resume else migration.start()
    if abort:
        back = masked(source)
        if as_json:
            print_json({"aborted": True, "log": back})
        else:
            echo(f"taken back: {back} is as it was; start there")
    elif as_json:
        print_json({"moved": True, **msgspec.to_builtins(result)})
    else:
        _tell(result.counts)
        echo(f"  from here on the log is {result.target}")
        partitions_set = f", with kafka.partitions = {result.partitions}" if result.partitions else ""
        echo(f"  start there: steplog start FILE --log {result.target}{partitions_set}")


PARTITIONS = 16


def _ask(source: str, target: str, *, is_back: bool, yes: bool) -> None:
    if yes:
        return
    if not is_terminal(err=True):
        raise MigrationRefused("this stops what the log does until it is over; say that with --yes")
    verb = "take the migration back" if is_back else "move the log"
    click.confirm(f"{verb}: {masked(source)} → {masked(target)}?", abort=True, err=True)


def _tell(counts: Counts) -> None:
    rows = [
        (counts.runs, "open run"), (counts.keys, "key"), (counts.events, "event"),
        (counts.unrouted, "event that was not routed yet"), (counts.records, "record"),
        (counts.messages, "message"), (counts.dead, "dead letter"),
    ]  # fmt: skip
    told = [counted(count, noun) for count, noun in rows if count]
    if told:
        echo(f"moved {', '.join(told)}")
    if counts.left_out:
        echo(f"  left out: {counted(counts.left_out, 'record')} that could not be read, or told of lost commits")
