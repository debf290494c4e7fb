"""Records of a log's topics as values that a person, or JSON, can take: for tools."""

import string
from typing import Any

import msgspec

from steplog.dead.kafka import RETRY, of_record
from steplog.engine import keys
from steplog.engine.messages import Unreadable
from steplog.kafka_record import Record
from steplog.log.broker import Fetched, Place
from steplog.log.encoding import understood
from steplog.log.redo import decode_redo
from steplog.log.table import named
from steplog.log.topics import INBOX, REGISTRY, STATE

RUN_KEY_BYTES = 21
_NAMES = (
    b"app/",
    b"node/",
    b"owner/",
    b"process/",
    b"redo/",
    b"topic/",
)  # in the registry; its other keys are those of the state
_POSITION = keys.position("")
_PRINTABLE = frozenset(string.printable)


def readable_key(topic: str, key: bytes | None) -> str:
    """A record's key: a state key by its parts, any other as it is."""
    if key is None:
        return ""
    if topic == STATE or (topic == REGISTRY and not key.startswith(_NAMES)):
        return named(key)
    return key.decode(errors="replace")


def readable_value(topic: str, record: Record) -> Any:
    """What a record says; None for a tombstone. What cannot be read stands there as text, or in hexadecimal."""
    key, value = record.key or b"", record.value
    if value is None:
        return None
    match topic:
        case "inbox":
            return _message(record, value)
        case "dead":
            return _letter(record, value)
        case "redo":
            return _redo(value)
        case "state" if key == keys.HEAD:
            turn, now_ms = msgspec.msgpack.decode(value)
            return {"turn": turn, "at": now_ms}
        case "state" if key.startswith(_POSITION):
            return int.from_bytes(value, "big")
        case "registry" if key.startswith(b"redo/"):
            return int.from_bytes(value, "big")
        case "registry" if key.startswith(_NAMES):
            return _plain(msgspec.msgpack.decode(value))
        case _:
            return _plain(value)


def _redo(value: bytes) -> Any:
    """A turn, and how many keys it has changed; those that last come to ``state`` in time."""
    try:
        redo = decode_redo(value)
    except (msgspec.MsgspecError, ValueError):
        return _plain(value)
    shown = {"partition": redo.partition, "turn": redo.turn, "at": redo.now_ms, "redo_from": redo.redo_from}
    return {**shown, "changes": len(redo.changes)}


def _message(record: Record, value: bytes) -> Any:
    message = understood(Fetched(Place(INBOX, record.partition), record.offset, record.key or b"", value), None)
    if isinstance(message, Unreadable):
        return {"unreadable": message.reason, "value": _plain(value)}
    return _plain(message)


def _letter(record: Record, value: bytes) -> Any:
    if (record.key or b"").startswith(RETRY.encode()):
        return "to be read again"
    try:
        letter = of_record(record)
    except (ValueError, msgspec.MsgspecError):
        return _plain(value)
    return {**msgspec.to_builtins(letter.entry), "value": _plain(letter.value)}


def _plain(value: Any, name: str = "") -> Any:
    if isinstance(value, msgspec.Struct):
        fields = {field: _plain(getattr(value, field), field) for field in value.__struct_fields__}
        return {"type": type(value).__name__, **{field: each for field, each in fields.items() if each is not None}}
    if isinstance(value, bytes):
        return _bytes(value, name)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _bytes(value: bytes, name: str) -> Any:
    if name == "key" or (len(value) == RUN_KEY_BYTES and value[0] == keys.RUN):
        return named(value)
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError):
        pass
    text = value.decode(errors="replace")
    return text if _PRINTABLE.issuperset(text) else value.hex()
