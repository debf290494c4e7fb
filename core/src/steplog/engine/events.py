"""The rules of an event, and the message that an accepted one becomes (spec: events.md §2.7)."""

import msgspec

from steplog.engine import records
from steplog.engine.functions import ENVIRONMENTS
from steplog.engine.ids import encode_ulid, hash16, slot_of
from steplog.engine.messages import EventAccepted
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid

MAX_NAME_CHARACTERS = 256  # LIM-05
RESERVED_PREFIX = "inngest/"
FAILED_EVENT, FINISHED_EVENT = "inngest/function.failed", "inngest/function.finished"
INVOKED_EVENT, TIMER_EVENT = "inngest/function.invoked", "inngest/scheduled.timer"
LEAST_TS_MS, MOST_TS_MS = 315_532_800_000, 4_102_444_800_000  # 1980-01-01 to 2100-01-01

_encode = msgspec.json.Encoder().encode


def check_name(name: str) -> None:
    """Raise ``EventInvalid`` for a name that nobody may send (EVT-08)."""
    if not name:
        raise EventInvalid("event name is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise EventInvalid(f"event name has {len(name)} characters, the limit is {MAX_NAME_CHARACTERS}")
    if name[: len(RESERVED_PREFIX)].lower() == RESERVED_PREFIX:
        raise EventInvalid(f"event name is reserved for internal use: {name}")


def check_ts(ts_ms: int | None) -> None:
    """Raise ``EventInvalid`` for a time outside 1980 … 2100; 0 and None mean now (CONV-07)."""
    if ts_ms and not LEAST_TS_MS <= ts_ms < MOST_TS_MS:
        raise EventInvalid(f"event ts is {ts_ms}, it must be milliseconds between 1980-01-01 and 2100-01-01")


def accept_event(
    event: EventOut, internal_id: bytes, *, env: int, received_ms: int, source: str, is_seeded: bool = False,
    ticket: int | None = None, is_last: bool = True, starts: str | None = None, origin: bytes | None = None,
    parent: tuple[bytes, bytes] | None = None, placed_with: bytes | None = None,
) -> EventAccepted:  # fmt: skip
    """Make the message of an accepted event, and its record on the log.

    ``placed_with``: the internal id of another, which it is written beside unless it has an id of its sender's.
    """
    env_bytes = env.to_bytes(4, "big")
    sender_id = event.id or None
    internal_text = encode_ulid(internal_id)
    slot = slot_of(hash16(env_bytes + (sender_id.encode("utf8") if sender_id else placed_with or internal_id)))
    ts_ms = event.ts or received_ms
    stored = records.StoredEvent(
        internal_id=internal_text, id=sender_id or internal_text, name=event.name, data=msgspec.Raw(event.data),
        ts=ts_ms, received_at=received_ms, env=ENVIRONMENTS[env], source=source, slot=slot,
        user=msgspec.UNSET if event.user is None else msgspec.Raw(event.user),
        v=msgspec.UNSET if event.v is None else event.v,
    )  # fmt: skip
    return EventAccepted(
        env=env, internal_id=internal_id, internal_text=internal_text, id=stored.id, name=event.name, ts_ms=ts_ms,
        received_ms=received_ms, slot=slot, body=_encode(stored),
        is_repeatable=sender_id is not None or is_seeded, ticket=ticket, is_last=is_last, starts=starts,
        origin=origin, parent=parent,
    )  # fmt: skip
