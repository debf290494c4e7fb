"""Events that a function sends: checked by the rules of the event API before the step reports them."""

from typing import Any

import msgspec

from steplog.engine.events import check_name, check_ts
from steplog.engine.operations import EventOut
from steplog.errors import EventInvalid, EventTooLarge
from steplog.event import Event

_encode = msgspec.json.Encoder().encode


def outgoing_event(event: Event[Any], limit_bytes: int) -> EventOut:
    """Check an event and write its data.

    Raises ``EventInvalid`` for one that breaks a rule, ``EventTooLarge`` beyond the limit.
    """
    check_name(event.name)
    check_ts(event.ts)
    try:
        data = _encode(event.data)
        user = None if event.user is None else msgspec.Raw(_encode(event.user))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise EventInvalid(f"the data of event {event.name} cannot be written as JSON: {error}") from error
    if not data.startswith(b"{"):
        raise EventInvalid(f"the data of event {event.name} is not an object: {data[:40].decode(errors='replace')}")
    if len(data) > limit_bytes:
        raise EventTooLarge(len(data), limit_bytes)
    return EventOut(name=event.name, data=msgspec.Raw(data), id=event.id or None, ts=event.ts, v=event.v, user=user)
