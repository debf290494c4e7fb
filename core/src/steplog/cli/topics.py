"""``steplog topics``: what a log's topics on Kafka hold, how they are set, and how far everybody is."""

import time
from collections.abc import Iterable
from typing import Any

import click
import msgspec

from steplog.cli.commands import Commands
from steplog.cli.lines import NAME_COLUMNS, KnownRun, Lines, at, shown
from steplog.cli.output import duration, echo, print_json, styled, table
from steplog.cli.source import connected, local_log
from steplog.engine.ids import decode_ulid, ulid_ms
from steplog.engine.records import Record as JournalRecord
from steplog.engine.records import StoredEvent
from steplog.errors import ConfigInvalid, NotFound
from steplog.kafka_record import Record
from steplog.log.inspecting import HOLDS, HangingTransaction, InputLag, Inspector, PartitionLag, Setting, TopicSummary
from steplog.log.readable import readable_key, readable_value
from steplog.log.topics import EVENTS, JOURNAL
from steplog.paths import KafkaAddress, is_kafka

_VERBS = {
    "list": ("steplog.cli.topics", "List the log's topics, and what each holds."),
    "describe": ("steplog.cli.topics", "Show a topic's settings beside those that steplog makes it with."),
    "tail": ("steplog.cli.topics", "Print a topic's newest records, decoded."),
    "lag": ("steplog.cli.topics", "Show how far each partition is, and whose it is."),
}
_LOG = click.option(
    "--log", envvar="STEPLOG_LOG", help="The log, kafka://HOST:PORT/PREFIX. Default: that of the configuration here."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_TOPIC = click.argument("topic", type=click.Choice(list(HOLDS)))
_decode_record = msgspec.json.Decoder[JournalRecord](JournalRecord).decode
_decode_event = msgspec.json.Decoder(StoredEvent).decode


@click.group(cls=Commands, table=_VERBS, short_help=_VERBS["list"][1])
def topics() -> None:
    """Look into the topics of a log on Kafka.

    \b
    Examples:
      steplog topics lag
      steplog topics tail journal --follow
    """


@click.command("list")
@_LOG
@_JSON
def list_(log: str | None, as_json: bool) -> None:
    """List the log's topics. Records are offsets: marks of transactions are among them.

    \b
    Examples:
      steplog topics list
      steplog topics list --log kafka://broker:9092/shop --json
    """
    with _inspector(log) as inspector:
        found = inspector.topics()
    if as_json:
        print_json({"topics": found})
        return
    head = ("topic", "partitions", "replicas", "records", "kept", "holds")
    rows = [
        (each.name, str(each.partitions), str(each.replicas), f"{each.records:,}", _kept(each), each.holds)
        for each in found
    ]
    echo(table([head, *rows]))


@click.command()
@_TOPIC
@_LOG
@_JSON
def describe(topic: str, log: str | None, as_json: bool) -> int:
    """Show a topic's settings and partitions. Ends with 1 where a setting loses what steplog needs.

    \b
    Examples:
      steplog topics describe state
      steplog topics describe events --log kafka://broker:9092/shop --json
    """
    with _inspector(log) as inspector:
        found = inspector.describe(topic)
    is_well = all(each.is_same or not each.is_needed for each in found.settings)
    if as_json:
        print_json({"ok": is_well, "topic": found})
        return 0 if is_well else 1
    echo(f"{found.name}: {HOLDS[topic]}")
    rows = [(each.name, each.value, each.made_with, _judged(each)) for each in found.settings]
    echo(table([("setting", "is", "made with", ""), *rows]))
    places = [
        (str(p.partition), "none" if p.leader is None else str(p.leader), f"{p.in_sync} of {p.replicas}", str(p.first),
         str(p.end)) for p in found.partitions
    ]  # fmt: skip
    echo(table([("partition", "leader", "in sync", "first", "end"), *places]))
    return 0 if is_well else 1


@click.command()
@_TOPIC
@click.option("--partition", type=click.IntRange(0), help="Of this partition alone.")
@click.option("-n", "count", type=click.IntRange(0), default=10, show_default=True, help="How many of the newest.")
@click.option("--follow", "-f", is_flag=True, help="And what comes from now on, until Ctrl-C.")
@_LOG
@_JSON
@click.option("--jsonl", "as_jsonl", is_flag=True, help="Print each record as a line of JSON.")
def tail(
    topic: str, partition: int | None, count: int, follow: bool, log: str | None, as_json: bool, as_jsonl: bool
) -> None:  # fmt: skip
    """Print a topic's newest records: where each stands, when it was written, and what it says.

    \b
    Examples:
      steplog topics tail journal --follow
      steplog topics tail state --partition 3 -n 50 --jsonl
    """
    if follow and as_json:
        raise click.UsageError("--follow has no end, so it is no one object; take --jsonl")
    with _inspector(log) as inspector:
        found = inspector.last(topic, count, partition)
        if as_json:
            print_json({"records": [_shown(topic, record) for record in found]})
            return
        show = _Printer(topic, as_jsonl=as_jsonl).show
        for record in found:
            show(record)
        for record in inspector.follow(topic, partition) if follow else ():
            show(record)


@click.command()
@_LOG
@_JSON
def lag(log: str | None, as_json: bool) -> int:
    """Show for each partition which node has it, how far it has decided events and messages, and what waits.

    Positions are those of the log's state. The group's offsets, which Kafka's own tools show, follow them. Ends with 1
    where a transaction hangs open, and says whose.

    \b
    Examples:
      steplog topics lag
      steplog topics lag --log kafka://broker:9092/shop --json
    """
    with _inspector(log) as inspector:
        found, hanging = inspector.lag(), inspector.hanging(round(time.time() * 1000))
    if as_json:
        print_json({"ok": not hanging, "partitions": found, "hanging": hanging})
        return 1 if hanging else 0
    head = ("partition", "node", "address", "events", "waiting", "inbox", "waiting", "history behind")
    echo(table([head, *[_lag_row(each) for each in found]]))
    echo(f"{sum(each.events.waiting + each.inbox.waiting for each in found):,} waiting in all", err=True)
    for each in hanging:
        echo(_told_hanging(each))
    return 1 if hanging else 0


def _told_hanging(each: HangingTransaction) -> str:
    cross = styled("✗", fg="red", bold=True)
    whose = (
        f"of {', '.join(each.nodes)} ({', '.join(each.transactional_ids)})" if each.nodes else "of a program unknown"
    )
    return (
        f"{cross} txn.hanging: {each.name} [{each.partition}]: a transaction {whose} has been open for "
        f"{duration(each.open_ms)}; from offset {each.offset} on nothing can be read"
    )


def _inspector(log: str | None) -> Inspector:
    log = log or local_log()
    if log is None:
        raise NotFound("no log is configured here; name it with --log kafka://HOST:PORT/PREFIX")
    if not is_kafka(log):
        raise ConfigInvalid("--log", [f"{log!r} has no topics: they are of a log on Kafka, kafka://HOST:PORT/PREFIX"])
    return Inspector(KafkaAddress.parse(connected(log)))


def _kept(topic: TopicSummary) -> str:
    if topic.is_compacted:
        return "last of each key"
    return "for ever" if topic.retention_ms is None else duration(topic.retention_ms)


def _judged(setting: Setting) -> str:
    if setting.is_same:
        return styled("✓", fg="green")
    return styled("✗ it must be so", fg="red", bold=True) if setting.is_needed else "another one"


def _lag_row(each: PartitionLag) -> tuple[str, ...]:
    node = "nobody yet" if each.owner is None else each.owner + ("" if each.is_member else " (gone)")
    history = "–" if each.history is None else f"{each.history:,}"
    return (
        str(each.partition), node, each.address or "–", _position(each.events), f"{each.events.waiting:,}",
        _position(each.inbox), f"{each.inbox.waiting:,}", history,
    )  # fmt: skip


def _position(lag: InputLag) -> str:
    return f"{lag.position}/{lag.end}"


# --- records


class _Printer:
    """Prints records as they come."""

    def __init__(self, topic: str, *, as_jsonl: bool) -> None:
        self._topic, self._as_jsonl = topic, as_jsonl
        self._lines = Lines(lambda run: KnownRun("", ulid_ms(decode_ulid(run))), payloads=True)

    def show(self, record: Record) -> None:
        if self._as_jsonl:
            print_json(_shown(self._topic, record), in_a_line=True)
            return
        place = styled(f"{record.partition}@{record.offset}".ljust(9), dim=True)
        for line in self._told(record):
            echo(f"{place} {line}")

    def _told(self, record: Record) -> Iterable[str]:
        try:
            if self._topic == JOURNAL and record.value is not None:
                return list(self._lines.of(_decode_record(record.value))) or [self._plain(record)]
            if self._topic == EVENTS and record.value is not None:
                return [_event(_decode_event(record.value))]
        except ValueError:
            pass
        return [self._plain(record)]

    def _plain(self, record: Record) -> str:
        time = "–" if record.timestamp_ms is None else at(record.timestamp_ms)
        value = readable_value(self._topic, record)
        text = "deleted" if record.value is None else msgspec.json.encode(value).decode()
        return f"{time}  {readable_key(self._topic, record.key)}  {text}"


def _event(event: StoredEvent) -> str:
    name = styled(event.name.ljust(NAME_COLUMNS), bold=True)
    return f"{at(event.received_at)}  event  {name} {shown(event.internal_id)}  {bytes(event.data).decode()}"


def _shown(topic: str, record: Record) -> dict[str, Any]:
    return {
        "topic": topic, "partition": record.partition, "offset": record.offset, "timestamp": record.timestamp_ms,
        "key": readable_key(topic, record.key), "value": readable_value(topic, record),
    }  # fmt: skip
