"""Settings of librdkafka, as tables have them: ``[kafka] client`` for the log's own clients, ``options`` of connectors.

What steplog decides for the log's clients is not to be set: positions, groups and transactions are its promises.
"""

from collections.abc import Iterable, Iterator, Mapping

from steplog.config.secrets import Secret

Option = Secret | str | int | float | bool

_ADDRESS = "the brokers are named in log.url"
_GROUP = "nodes share a log's partitions by it"
_POSITIONS = "how far a log is decided stands in its state"
_WRITES = "what is accepted is written once, to every replica that is in sync"
_SIZES = "how much is sent and read at once is made for what steplog does"
_RECOVERY = 'it is "none": with another one transactions were seen to hang after connections broke'
RESERVED: Mapping[str, str] = {
    name: why
    for why, names in (
        (_ADDRESS, ("bootstrap.servers", "metadata.broker.list")),
        (_GROUP, ("group.id", "group.instance.id", "group.protocol", "group.protocol.type", "group.remote.assignor",
                  "partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms",
                  "max.poll.interval.ms")),
        (_POSITIONS, ("enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms", "enable.auto.offset.store",
                      "auto.offset.reset", "offset.store.method", "isolation.level", "enable.partition.eof")),
        (_WRITES, ("transactional.id", "transaction.timeout.ms", "enable.idempotence", "enable.gapless.guarantee",
                   "acks", "request.required.acks", "retries", "message.send.max.retries", "delivery.timeout.ms",
                   "message.timeout.ms", "max.in.flight", "max.in.flight.requests.per.connection",
                   "delivery.report.only.error", "allow.auto.create.topics")),
        (_SIZES, ("message.max.bytes", "linger.ms", "queue.buffering.max.ms", "queue.buffering.max.messages",
                  "queue.buffering.max.kbytes", "fetch.message.max.bytes", "max.partition.fetch.bytes",
                  "queued.max.messages.kbytes", "fetch.wait.max.ms", "fetch.error.backoff.ms",
                  "fetch.queue.backoff.ms")),
        (_RECOVERY, ("metadata.recovery.strategy",)),
    )
    for name in names
}  # fmt: skip
"""Settings that the log's clients have already, and why they are not to be others."""


def as_settings(options: Mapping[str, Option]) -> dict[str, str]:
    """Options for a client, with what their secrets refer to."""
    return {name: _text(option) for name, option in options.items()}


def _text(option: Option) -> str:
    if isinstance(option, Secret):
        return option.value or ""
    return str(option).lower() if isinstance(option, bool) else str(option)


def reserved_problems(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What a log's clients are not to be told: a setting, and why."""
    for name in names:
        if name in RESERVED:
            yield name, f"{name} is not to be set: {RESERVED[name]}"


def client_problem(settings: Mapping[str, str]) -> str | None:
    """Why librdkafka takes no such settings, as one that it does not know, or a certificate that is not there."""
    from confluent_kafka import KafkaException  # for those whose log is there
    from confluent_kafka.admin import AdminClient

    try:
        AdminClient({**settings, "log_level": 0})
    except KafkaException as error:
        return str(error.args[0].str()).removeprefix("Failed to create admin client: ")
    return None
