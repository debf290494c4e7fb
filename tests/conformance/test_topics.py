"""A plain Kafka consumer finds in ``events`` and ``journal`` what docs/journal.md and docs/schema say, and no more.

What is read is what the stories have written (``test_engine.py``), by a client that knows nothing of steplog.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator

from steplog.engine.ids import decode_ulid, run_slot
from steplog.log.topics import EVENTS, JOURNAL, Layout
from tests.kafka_clients import DEADLINE_S, QUICK

from .conftest import Logs
from .places import PARTITIONS

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
JOURNAL_PARTITIONS = 2  # an eighth of the log's
NOT_TOLD = {"step.late", "log.restored"}  # no story has an answer that is late; a log on Kafka is not restored


class Message(NamedTuple):
    """A record as it stands in a topic."""

    partition: int
    key: bytes | None
    value: Any
    headers: list[str]


def read(bootstrap: str, layout: Layout, topic: str) -> list[Message]:
    """Read a topic from its beginning to its end, each partition in order."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.partition.eof": True, **QUICK}
    consumer = Consumer(settings)
    name, found = layout.name(topic), list[Message]()
    try:
        open_ = set(consumer.list_topics(name, DEADLINE_S).topics[name].partitions)
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for partition in open_])
        while open_:
            message = consumer.poll(DEADLINE_S)
            assert message is not None, f"{name} has no end"
            partition, error, value = message.partition(), message.error(), message.value()
            assert partition is not None
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                open_.remove(partition)
                continue
            assert value is not None, "a tombstone"
            headers = [str(header[0]) for header in message.headers() or ()]
            found.append(Message(partition, message.key(), json.loads(value), headers))
    finally:
        consumer.close()
    return found


@pytest.fixture(scope="module")
def topics(logs: Logs) -> dict[str, list[Message]]:
    """The records that the stories have left."""
    assert logs.played("kafka").failures == {}
    return {topic: read(logs.on_kafka.bootstrap, logs.on_kafka.layout, topic) for topic in (EVENTS, JOURNAL)}


def strict(name: str, kind: str | None = None) -> Validator:
    """The schema of a file, or of one kind in it, that takes no field which it does not know."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf8"))
    for struct in schema["$defs"].values():
        struct["additionalProperties"] = False
    if kind is not None:  # or one would be told of all kinds that it is not
        schema["$ref"] = f"#/$defs/{kinds(schema)[kind]}"
        del schema["anyOf"]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def kinds(schema: Mapping[str, Any]) -> dict[str, str]:
    """The name of each kind's schema."""
    structs = {name: struct["properties"].get("kind") for name, struct in schema["$defs"].items()}
    return {kind["enum"][0]: name for name, kind in structs.items() if kind is not None}


def test_every_record_of_the_journal_is_what_its_schema_says(topics: dict[str, list[Message]]) -> None:
    schemas = {kind: strict("journal", kind) for kind in kinds(json.loads((SCHEMAS / "journal.json").read_text()))}
    for message in topics[JOURNAL]:
        schemas[message.value["kind"]].validate(message.value)
    assert schemas.keys() - {message.value["kind"] for message in topics[JOURNAL]} == NOT_TOLD


def test_every_event_is_what_its_schema_says(topics: dict[str, list[Message]]) -> None:
    schema = strict("event")
    for message in topics[EVENTS]:
        schema.validate(message.value)
    assert len(topics[EVENTS]) > 30
    assert {message.value["source"] for message in topics[EVENTS]} == {"process", "step", "engine"}


def test_a_record_is_under_its_run_or_its_event(topics: dict[str, list[Message]]) -> None:
    for message in topics[JOURNAL]:
        about = "event" if message.value["kind"] == "event.routed" else "run"
        assert message.key == message.value[about].encode()
        assert message.headers == []


def test_an_event_is_under_its_id_in_the_partition_of_its_slot(topics: dict[str, list[Message]]) -> None:
    for message in topics[EVENTS]:
        assert message.key == message.value["id"].encode()
        assert message.partition == message.value["slot"] % PARTITIONS
        assert message.headers in ([], ["steplog"])
    assert any(message.headers for message in topics[EVENTS])
    assert {message.partition for message in topics[EVENTS]} > {0}


def test_the_records_of_a_run_are_in_one_partition_in_their_order(topics: dict[str, list[Message]]) -> None:
    runs: dict[str, list[Message]] = {}
    for message in topics[JOURNAL]:
        if "run" in message.value:
            runs.setdefault(message.value["run"], []).append(message)
    for run, messages in runs.items():
        assert [message.value["seq"] for message in messages] == list(range(1, len(messages) + 1))
        partition = run_slot(decode_ulid(run)) % PARTITIONS % JOURNAL_PARTITIONS
        assert {message.partition for message in messages} == {partition}
    assert {message.partition for message in topics[JOURNAL]} == {0, 1}


RECORD = {"kind": "run.completed", "v": 1, "at": 1, "env": "default", "run": "r", "seq": 2, "output": None}


@pytest.mark.parametrize(
    "wrong",
    [
        {**RECORD, "more": 1},
        {field: value for field, value in RECORD.items() if field != "v"},
        {field: value for field, value in RECORD.items() if field != "output"},
        {**RECORD, "at": "1"},
        {**RECORD, "kind": "run.forgotten"},
    ],
    ids=["a field more", "no version", "no output", "a time that is text", "another kind"],
)
def test_the_schema_refuses_what_is_no_record(wrong: dict[str, Any]) -> None:
    strict("journal").validate(RECORD)
    with pytest.raises(ValidationError):
        strict("journal").validate(wrong)
