"""A record of a topic, as a consumer reads it."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from confluent_kafka import Message

Headers = tuple[tuple[str, bytes | None], ...]


class Record(NamedTuple):
    """``headers`` are None where the name of one is no text."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int | None


def read_record(message: "Message") -> Record:
    """Take a message apart that is no error."""
    fields: Any = message  # its types allow what only messages that are to be written may have
    try:
        headers = tuple(fields.headers() or ())
    except UnicodeDecodeError:
        headers = None
    kind, timestamp_ms = fields.timestamp()
    return Record(
        fields.topic(), fields.partition(), fields.offset(), fields.key(), fields.value(), headers,
        timestamp_ms if kind else None,
    )  # fmt: skip
