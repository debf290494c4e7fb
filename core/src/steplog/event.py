"""Events as authors see them."""

from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar

D = TypeVar("D", default=dict[str, Any], covariant=True)


class Event(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """Something that happened.

    ``id`` makes sending repeatable: one id starts a function once in 24 hours (EVT-14). ``ts`` is in milliseconds; a
    future one delays the runs that the event starts (EVT-06). Of a received event both are always set.
    """

    name: str
    data: D
    id: str | None = None
    ts: int | None = None
    v: str | None = None
    user: dict[str, Any] | None = None


class _Stored(msgspec.Struct):
    """What a function sees of an event on the log."""

    name: str
    data: dict[str, Any]
    id: str
    ts: int
    v: str | None = None
    user: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Stored).decode


def read_event(body: bytes) -> Event[Any]:
    """Read an event's record on the log."""
    stored = _decode(body)
    return Event(name=stored.name, data=stored.data, id=stored.id, ts=stored.ts, v=stored.v, user=stored.user)
