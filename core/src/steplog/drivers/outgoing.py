"""Events that a function sends: checked by the rules of the event API before the step reports them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from steplog.engine.events import check_name, check_ts
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid, EventTooLarge
from steplog.event import Event
from steplog.values import encode

MOST_EVENTS = 5_000  # LIM-07


def outgoing_events(events: Sequence[Event[Any]], limit_bytes: int) -> list[EventOut]:
    """Check the events of one call. Raises as ``outgoing_event`` does, and for too many."""
    checked = [outgoing_event(event, limit_bytes) for event in events]
    if len(checked) > MOST_EVENTS:
        raise EventInvalid(f"{len(checked)} events are sent at once, the limit is {MOST_EVENTS}; send them in parts")
    return checked


def outgoing_event(event: Event[Any], limit_bytes: int) -> EventOut:
    """Check an event and write its data.

    Raises ``EventInvalid`` for one that breaks a rule, ``EventTooLarge`` beyond the limit.
    """
    _check_types(event)
    check_name(event.name)
    check_ts(event.ts)
    try:
        data = encode(event.data)
        user = None if event.user is None else encode(event.user)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise EventInvalid(f"the data of event {event.name} cannot be written as JSON: {error}") from error
    if not data.startswith(b"{"):
        raise EventInvalid(f"the data of event {event.name} is not an object: {data[:40].decode(errors='replace')}")
    if len(data) > limit_bytes:
        raise EventTooLarge(len(data), limit_bytes)
    return EventOut(name=event.name, data=data, id=event.id or None, ts=event.ts, v=event.v, user=user)


def _check_types(event: object) -> None:
    """What ``Event`` says of its fields, no constructor checks."""
    if not isinstance(event, Event):
        raise EventInvalid(f"an event is an Event(name=…, data=…), not {type(event).__name__}")
    _check_text("name", event.name)
    if event.id is not None:
        _check_text("id", event.id)
    if event.v is not None:
        _check_text("v", event.v)
    if event.ts is not None and (not isinstance(event.ts, int) or isinstance(event.ts, bool)):
        raise EventInvalid(f"event ts is {event.ts!r}, it must be milliseconds as int")


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise EventInvalid(f"event {field} is {text!r}, it must be text")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EventInvalid(f"event {field} is not Unicode text: {error}") from error
