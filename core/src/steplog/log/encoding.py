"""How messages stand in Kafka's topics, and how they are read back.

An event is its record, JSON that any consumer can read; what only the engine needs is in a header. Everything between
partitions is msgpack, for this program alone.
"""

import secrets

import msgspec

from steplog.dead.letters import Entry, Letter
from steplog.engine.functions import ENVIRONMENTS
from steplog.engine.ids import SLOTS, decode_ulid
from steplog.engine.messages import EventAccepted, Message, Unreadable, decode_message
from steplog.engine.operations import Produce
from steplog.log.broker import ANY_PARTITION, Fetched, Headers, Place, Produced
from steplog.log.topics import DEAD, EVENTS, INBOX

HEADER = "steplog"  # of an event
_NUMBERS = {name: number for number, name in ENVIRONMENTS.items()}


class _Event(msgspec.Struct, frozen=True):
    """What the engine reads of an event's record."""

    internal_id: str
    id: str
    name: str
    ts: int
    received_at: int
    env: str
    slot: int


class _Rest(msgspec.Struct, frozen=True, array_like=True):
    """What stands in the header of an event that is not a plain one."""

    is_repeatable: bool
    starts: str | None = None
    origin: bytes | None = None
    parent: tuple[bytes, bytes] | None = None


class _Subject(msgspec.Struct, frozen=True):
    """What a record of the journal is about."""

    run: str = ""
    event: str = ""


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """In the registry: who has loaded a partition last."""

    node: str
    process: str  # of that name


_encode = msgspec.msgpack.Encoder().encode
decode_owner = msgspec.msgpack.Decoder(Owner).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode
_decode_subject = msgspec.json.Decoder(_Subject).decode


def encode_owner(node: str) -> bytes:
    """Write who this process is; another one of the same name is another owner."""
    return _encode(Owner(node, secrets.token_hex(4)))


def produced(partition: int, message: Message) -> Produced:
    """Write a message for a partition to read: an event, or one between owners."""
    if not isinstance(message, EventAccepted):
        return Produced(Place(INBOX, partition), b"", _encode(message))
    rest = _Rest(message.is_repeatable, message.starts, message.origin, message.parent)
    is_plain = rest == _Rest(message.id != message.internal_text)
    headers: Headers = () if is_plain else ((HEADER, _encode(rest)),)
    return Produced(Place(EVENTS, partition), message.id.encode("utf8", "surrogatepass"), message.body, headers)


def event_of(fetched: Fetched) -> EventAccepted | None:
    """Read an event, whatever the partition; None where it makes no sense."""
    message = understood(fetched, None)
    return message if isinstance(message, EventAccepted) else None


def understood(fetched: Fetched, partitions: int | None) -> Message | None:
    """Read a message; one that makes no sense is ``Unreadable``. None: there is nothing to read.

    An event has to stand in the partition of its slot, of ``partitions`` in all, where that is given.
    """
    if fetched.value is None:
        return None
    try:
        if fetched.place.topic == INBOX:
            return decode_message(fetched.value)
        return _event(fetched, fetched.value, partitions)
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError) as error:
        return Unreadable(
            topic=fetched.place.topic, offset=fetched.offset, key=fetched.key, value=fetched.value,
            headers=fetched.headers, reason=f"{type(error).__name__}: {error}",
        )  # fmt: skip


def _event(fetched: Fetched, value: bytes, partitions: int | None) -> EventAccepted:
    event = _decode_event(value)
    header = next((value for name, value in fetched.headers if name == HEADER), None)
    rest = _Rest(event.id != event.internal_id) if header is None else _decode_rest(header)
    if not 0 <= event.slot < SLOTS:
        raise ValueError(f"slot is {event.slot}, it must be from 0 to {SLOTS - 1}")
    if partitions is not None and event.slot % partitions != fetched.place.partition:
        raise ValueError(f"slot {event.slot} is not of partition {fetched.place.partition}")
    return EventAccepted(
        env=_NUMBERS[event.env], internal_id=decode_ulid(event.internal_id), internal_text=event.internal_id,
        id=event.id, name=event.name, ts_ms=event.ts, received_ms=event.received_at, slot=event.slot, body=value,
        is_repeatable=rest.is_repeatable, starts=rest.starts, origin=rest.origin, parent=rest.parent,
    )  # fmt: skip


def journal(place: Place, record: bytes) -> Produced:
    """Write a record of the journal under its run, or the event that it is about."""
    subject = _decode_subject(record)
    return Produced(place, (subject.run or subject.event).encode(), record)


def foreign(record: Produce) -> Produced:
    """Write a record for a topic of others."""
    partition = ANY_PARTITION if record.partition is None else record.partition
    return Produced(Place(record.topic, partition), record.key, record.value, record.headers, is_foreign=True)


def dead(partition: int, unreadable: Unreadable, now_ms: int) -> Produced:
    """Put what could not be read where ``steplog dead`` shows it."""
    from steplog.dead.kafka import to_record  # the client comes with it

    key, value, headers = to_record(letter(partition, unreadable, now_ms))
    return Produced(Place(DEAD, ANY_PARTITION), key, value, tuple([(name, value or b"") for name, value in headers]))


def letter(partition: int, unreadable: Unreadable, now_ms: int) -> Letter:
    """What could not be read: as it was, with where it stood and why."""
    entry = Entry(
        topic=unreadable.topic, partition=partition, offset=unreadable.offset, reason=unreadable.reason,
        parked_ms=now_ms, key=unreadable.key,
    )  # fmt: skip
    return Letter(entry=entry, value=unreadable.value, headers=unreadable.headers)
