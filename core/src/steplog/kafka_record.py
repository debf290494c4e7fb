"""A record of a topic, as a consumer reads it."""

from operator import methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from confluent_kafka import Message

Headers = tuple[tuple[str, bytes | None], ...]

_headers_of = methodcaller("headers")
"""For a name that is no text the client returns a list with a hole in it, and leaves its error pending (seen with
confluent-kafka 2.16). A call in this way has the interpreter notice, and raise; after ``message.headers()`` the error
would strike elsewhere, and touching the hole end the process."""


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
        headers = tuple(_headers_of(message) or ())
    except SystemError:
        headers = None
    kind, timestamp_ms = fields.timestamp()
    return Record(
        fields.topic(), fields.partition(), fields.offset(), fields.key(), fields.value(), headers,
        timestamp_ms if kind else None,
    )  # fmt: skip
