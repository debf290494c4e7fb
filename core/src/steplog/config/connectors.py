"""The tables of connectors, ``[connectors.NAME]``: one struct a type, one line in ``TYPES``."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Literal

from msgspec import Meta, field

from steplog.config.client import Option
from steplog.config.forms import Key, Table, form, keys_of
from steplog.engine.events import check_name
from steplog.engine.operations import topic_problem
from steplog.errors import EventInvalid

CONNECTORS = "connectors"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
TOPIC = "{topic}"  # in the name of an event
OWN_OPTIONS = {
    "auto.offset.reset": "start", "bootstrap.servers": "brokers", "group.id": "group",
    "metadata.broker.list": "brokers",
}  # fmt: skip
"""Options of the client that have a key here, and that key."""
KEPT_OPTIONS = ("enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof", "isolation.level")


class KafkaConnector(Table, frozen=True, kw_only=True, tag_field="type", tag="kafka"):
    """Makes the records of topics into events."""

    topics: Annotated[tuple[str, ...], form("texts"), Meta(description="Whose records become events.")] = ()
    brokers: Annotated[
        tuple[str, ...], form("texts"), Meta(description="`HOST:PORT` of some; those of the log where it is on Kafka.")
    ] = ()
    group: Annotated[
        str | None, form("text"),
        Meta(description="The consumer group, whose offsets say what was read; `PREFIX.connector.NAME` unless given."),
    ] = None  # fmt: skip
    event: Annotated[
        str, form("text"), Meta(description="The name of the events; `{topic}` stands for the topic of each.")
    ] = f"kafka/{TOPIC}"
    format: Annotated[
        Literal["json", "text", "bytes"], form("word"),
        Meta(description="What `data.value` is: the record's JSON, its text, or its bytes in base64."),
    ] = "json"  # fmt: skip
    start: Annotated[
        Literal["latest", "earliest"], form("word"),
        Meta(description="Where a group begins that has read nothing yet: with what comes from now on, or with all."),
    ] = "latest"  # fmt: skip
    on_poison: Annotated[
        Literal["park", "stop"], form("word"),
        Meta(description="A record that is no event: put it aside, with what follows of its key, or read no further."),
    ] = "park"  # fmt: skip
    options: Annotated[
        dict[str, Option], form("options"),
        Meta(description="Settings of librdkafka: security, above all. Secrets are references, as `env:NAME`."),
    ] = field(default_factory=dict)  # fmt: skip

    def event_name(self, topic: str) -> str:
        """The name of the events of a topic."""
        return self.event.replace(TOPIC, topic)

    def problems(self, log_url: str) -> Iterator[tuple[str, str]]:
        """What cannot work: a key, and what is wrong with it."""
        if not self.topics:
            yield "topics", 'is missing: topics = ["orders"]'
        for topic in self.topics:
            if (problem := topic_problem(topic)) is not None:
                yield "topics", f"the name of a topic {problem}"
                continue
            try:
                check_name(self.event_name(topic))
            except EventInvalid as error:
                yield "event", str(error)
        if not self.brokers and not log_url.startswith("kafka:"):
            yield "brokers", 'is missing, and the log is not on Kafka: brokers = ["localhost:9092"]'
        for name in self.options:
            if name in OWN_OPTIONS:
                yield "options", f"{name} is set by {OWN_OPTIONS[name]}"
            elif name in KEPT_OPTIONS:
                yield "options", f"{name} is not to be set: offsets are committed when the events are accepted"


Connector = KafkaConnector
"""Every table of a connector; a union, tagged with ``type``."""

TYPES: Mapping[str, type[Connector]] = {"kafka": KafkaConnector}


@cache
def connector_keys(name: str, type_: str) -> Mapping[str, Key]:
    """The keys of a connector by their names, ``connectors.NAME.topics``; ``type`` is the first."""
    table = f"{CONNECTORS}.{name}"
    type_key = Key(
        name=f"{table}.type", field="type", form="word", default=name, words=tuple(TYPES),
        description="What it connects to; the connector's name unless given.",
    )  # fmt: skip
    return {key.name: key for key in (type_key, *keys_of(table, TYPES[type_]))}
