"""What the event API accepts: a request's body becomes accepted events (spec: events.md §2.3 to §2.7).

Pure: the time, the randomness and the limit come in. Events are read in order up to the first that breaks a rule; those
before it stay accepted, as one group, and their ids are answered beside the error.
"""

import binascii
import re
from typing import Self

import msgspec

from steplog import json_text
from steplog.engine.events import accept_event, check_name, check_ts
from steplog.engine.ids import MAX_ULID_MS, encode_ulid, ulid
from steplog.engine.messages import EventAccepted
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid, EventTooLarge

MOST_EVENTS = 5_000  # LIM-07
ENTROPY_BYTES = 10
TOGETHER = 64  # events of a request without ids of their own: written to one partition, and their runs decided there
_PRIVATE = "_inngest"  # a key of ``data`` that only the server may write

_NULL = msgspec.Raw(b"null")
_NO_DATA = b"{}"
_SEED = re.compile(r"([0-9]{1,15}),([A-Za-z0-9+/]{14}==)")


class EventIn(msgspec.Struct):
    """An event as it is sent. Unknown keys are dropped; ``meta`` is not stored yet."""

    name: str | None = None
    data: msgspec.Raw = _NULL
    id: str | None = None
    ts: int | None = None
    v: str | None = None
    user: msgspec.Raw = _NULL


_decode_event = msgspec.json.Decoder(EventIn).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class InternalIds(msgspec.Struct, frozen=True):
    """The internal ids of one request's events: ULIDs that differ in a counter, so they keep the events' order."""

    prefix: bytes  # time and the first 6 bytes of the random part
    counter: int
    is_seeded: bool

    @classmethod
    def of_request(cls, seed: str | None, received_ms: int, entropy: bytes) -> Self:
        """Follow the sender's seed; without one, or with one that is malformed, time of receipt and ``entropy``."""
        match = _SEED.fullmatch(seed) if seed else None
        if match and 0 < int(match[1]) <= MAX_ULID_MS:
            value = ulid(int(match[1]), binascii.a2b_base64(match[2]))
            return cls(value[:12], int.from_bytes(value[12:], "big"), is_seeded=True)
        value = ulid(received_ms, entropy)
        return cls(value[:12], int.from_bytes(value[12:], "big") >> 1, is_seeded=False)  # half: the sum never wraps

    def nth(self, number: int) -> bytes:
        """Make the id of event ``number``, counted from 1."""
        return self.prefix + (self.counter + number & 0xFFFF_FFFF).to_bytes(4, "big")


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a request comes to: its accepted events, and why the rest was not accepted."""

    accepted: list[EventAccepted] = []
    ids: list[str] = []  # internal ids, one for each accepted event
    status: int = 200
    error: str | None = None
    place: str = ""  # how an error names the event; its number goes between the braces


def parse(body: bytes, internal_ids: InternalIds, *, received_ms: int, event_size_bytes: int, env: int) -> Parsed:
    """Read the events of a request. Raises nothing, whatever the body."""
    body = body.strip(json_text.WHITESPACE)
    if body.startswith(b"["):
        texts, malformed = json_text.elements(body, MOST_EVENTS)
        place = "events[{}]: "
    elif body.startswith(b"{") or not body:
        texts, malformed, place = [body] if body else [], None, ""
    else:
        return _refused("Request body must contain an event object or an array of event objects")
    if len(texts) > MOST_EVENTS:
        return _refused(f"Cannot have more than {MOST_EVENTS} events in a batch")

    accepted: list[EventAccepted] = []
    ids: list[str] = []
    error: str | None = None
    status = 200
    for text in texts:
        try:
            event = read_event(text, event_size_bytes)
        except (EventInvalid, EventTooLarge) as refusal:
            status = 413 if isinstance(refusal, EventTooLarge) else 400
            error = place.format(len(accepted)) + str(refusal)
            break
        internal_id = internal_ids.nth(len(accepted) + 1)
        message = accept_event(
            event, internal_id, env=env, received_ms=received_ms, source="key", is_seeded=internal_ids.is_seeded,
            is_last=False, placed_with=internal_ids.nth(len(accepted) // TOGETHER * TOGETHER + 1),
        )  # fmt: skip
        accepted.append(message)
        ids.append(message.id if event.id is None else encode_ulid(internal_id))
    else:
        if malformed is not None:
            status, error = 400, place.format(len(accepted)) + malformed
    return Parsed(accepted=_as_group(accepted), ids=ids, status=status, error=error, place=place)


def refuse_from(parsed: Parsed, index: int, problem: str) -> Parsed:
    """Accept what stands before an event that was well-formed, and not that one: it has another problem."""
    error = parsed.place.format(index) + problem
    return Parsed(accepted=_as_group(parsed.accepted[:index]), ids=parsed.ids[:index], status=400, error=error)


def _as_group(accepted: list[EventAccepted]) -> list[EventAccepted]:
    """The events of one request, whose last is marked."""
    if accepted:
        accepted[-1] = msgspec.structs.replace(accepted[-1], is_last=True)
    return accepted


def read_event(text: bytes, limit_bytes: int) -> EventOut:
    """Read and check one event.

    Raises ``EventInvalid`` for one that breaks a rule, ``EventTooLarge`` beyond the limit.
    """
    if len(text) > limit_bytes:
        raise EventTooLarge(len(text), limit_bytes)
    try:
        event = _decode_event(text)
    except RecursionError as error:
        raise EventInvalid(json_text.TOO_DEEP) from error
    except UnicodeDecodeError as error:
        raise EventInvalid("JSON is not UTF-8") from error
    except msgspec.MsgspecError as error:
        raise EventInvalid(str(error)) from error
    json_text.check(text)
    name = event.name or ""
    check_name(name)
    check_ts(event.ts)
    return EventOut(
        name=name, data=_data(event.data), id=event.id or None, ts=event.ts or None, v=event.v, user=_user(event.user)
    )  # fmt: skip


def _data(value: msgspec.Raw) -> bytes:
    """Take an object without what only the server may write; the key of that may be spelled with escapes."""
    text = bytes(value)
    if not text.startswith(b"{"):
        if text == b"null":
            return _NO_DATA
        raise _not_an_object("data", text)
    if b"_inngest" not in text and b"\\u00" not in text:
        return text
    fields = _decode_fields(text)
    if _PRIVATE not in fields:
        return text
    del fields[_PRIVATE]
    return _encode(fields)


def _user(value: msgspec.Raw) -> bytes | None:
    if value is _NULL:
        return None
    text = bytes(value)
    if text.startswith(b"{"):
        return text
    if text == b"null":
        return None
    raise _not_an_object("user", text)


def _not_an_object(field: str, text: bytes) -> EventInvalid:
    return EventInvalid(f"event {field} is not an object: {text[:40].decode(errors='replace')}")


def _refused(error: str) -> Parsed:
    return Parsed(status=400, error=error)
