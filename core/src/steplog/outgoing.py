"""Events on their way out, of a function or a client: checked by the rules of the event API before they are sent."""

from collections.abc import Sequence
from typing import Any

import msgspec

from steplog.engine.events import check_name, check_ts
from steplog.engine.ids import text_problem
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid, EventTooLarge
from steplog.event import Event
from steplog.values import encode

MOST_EVENTS = 5_000  # LIM-07


def outgoing_events(events: Sequence[Event[Any]], limit_bytes: int | None) -> list[EventOut]:
    """Check the events of one call. Raises as ``outgoing_event`` does, and for too many."""
    checked = [outgoing_event(event, limit_bytes) for event in events]
    if len(checked) > MOST_EVENTS:
        raise EventInvalid(f"{len(checked)} events are sent at once, the limit is {MOST_EVENTS}; send them in parts")
    return checked


def outgoing_event(event: Event[Any], limit_bytes: int | None) -> EventOut:
    """Check an event and write its data; without a limit, whoever takes it knows the limit.

    Raises ``EventInvalid`` for one that breaks a rule, ``EventTooLarge`` beyond the limit.
    """
    _check_types(event)
    check_name(event.name)
    check_ts(event.ts)
    data = outgoing_data(event.data, f"event {event.name}")
    user = None if event.user is None else written(event.user, f"event {event.name}")
    size_bytes = len(data) + len(user or b"") + len(event.id or "") + len(event.v or "")
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise EventTooLarge(size_bytes, limit_bytes)
    return EventOut(name=event.name, data=data, id=event.id or None, ts=event.ts, v=event.v, user=user)


def outgoing_data(data: object, whose: str) -> bytes:
    """Write an event's data. Raises ``EventInvalid`` for what JSON cannot hold, and for what is no object."""
    text = written(data, whose)
    if not text.startswith(b"{"):
        raise EventInvalid(f"the data of {whose} is not an object: {text[:40].decode(errors='replace')}")
    return text


def written(value: object, whose: str) -> bytes:
    """Write data. Raises ``EventInvalid`` for what JSON cannot hold."""
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise EventInvalid(f"the data of {whose} cannot be written as JSON: {error}") from error


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
    if type(text) is str and text.isascii():
        return
    problem = text_problem(text)
    if problem is not None:
        raise EventInvalid(f"event {field} {problem}")
