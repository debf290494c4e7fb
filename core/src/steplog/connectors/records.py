"""Records of topics as events. Pure: what no event can be made of is ``Poison``, with its reason."""

from base64 import b64encode
from typing import Any

import msgspec

from steplog import json_text
from steplog.config.connectors import KafkaConnector
from steplog.engine.events import LEAST_TS_MS, MOST_TS_MS
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid
from steplog.kafka_record import Record

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


class Poison(Exception):
    """No event can be made of a record; the text says why."""


class RecordData(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event. Bytes that are no text are ``{"base64": "…"}``; of a header that is repeated the last."""

    topic: str
    partition: int
    offset: int
    key: Any
    value: msgspec.Raw
    headers: dict[str, Any]
    timestamp: int | None


def event_id(record: Record, incarnation: str) -> str:
    """The same at each reading of a record, and another one in a topic that was made anew."""
    return f"kafka:{record.topic}/{record.partition}/{record.offset}@{incarnation}"


def to_event(record: Record, config: KafkaConnector, incarnation: str, limit_bytes: int) -> EventOut:
    """Make a record into an event. Raises ``Poison``."""
    if record.headers is None:
        raise Poison("the name of a header is not UTF-8")
    data = _encode(
        RecordData(
            topic=record.topic, partition=record.partition, offset=record.offset, key=_shown(record.key),
            value=msgspec.Raw(_value(record.value, config.format)),
            headers={name: _shown(value) for name, value in record.headers}, timestamp=record.timestamp_ms,
        )
    )  # fmt: skip
    if len(data) > limit_bytes:
        raise Poison(f"the event would be {len(data)} bytes, the limit is {limit_bytes} (limits.event_size)")
    try:
        json_text.check(data)
    except EventInvalid as error:
        raise Poison(f"the value cannot be data of an event: {error}") from error
    ts_ms = record.timestamp_ms
    return EventOut(
        name=config.event_name(record.topic), data=data, id=event_id(record, incarnation),
        ts=ts_ms if ts_ms is not None and LEAST_TS_MS <= ts_ms < MOST_TS_MS else None,
    )  # fmt: skip


def _value(value: bytes | None, form: str) -> bytes:
    """The value as JSON; ``null`` for a tombstone."""
    if value is None:
        return b"null"
    match form:
        case "json":
            return _json(value)
        case "text":
            try:
                return _encode(value.decode())
            except UnicodeDecodeError as error:
                raise Poison(f"the value is not UTF-8: byte {error.start} is 0x{value[error.start]:02x}") from error
        case _:
            return _encode(b64encode(value).decode())


def _json(value: bytes) -> bytes:
    text = value.strip(json_text.WHITESPACE)
    try:
        _decode_raw(text)
    except RecursionError as error:
        raise Poison(json_text.TOO_DEEP) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Poison(f"the value is not JSON: {error}") from error
    return text


def _shown(value: bytes | None) -> Any:
    """Bytes in JSON: text where they are."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
