"""Durations and times as authors write them (CONV-02): ``timedelta`` or milliseconds in, milliseconds inside."""

from datetime import datetime, timedelta
from typing import TypeAlias

Duration: TypeAlias = timedelta | int
"""A ``timedelta``, or milliseconds."""


def milliseconds(duration: Duration) -> int:
    """Read a duration. Raises ``TypeError`` for anything else, a ``bool`` and a ``float`` included."""
    if isinstance(duration, timedelta):
        return round(duration.total_seconds() * 1000)
    if isinstance(duration, int) and not isinstance(duration, bool):
        return duration
    raise TypeError(f"a duration is a timedelta or milliseconds as int, not {duration!r}")


def epoch_ms(moment: datetime) -> int:
    """Read a moment. Raises ``ValueError`` for one without a zone, which would mean another time on another machine."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no zone; give it one, as in datetime(…, tzinfo=UTC)")
    return round(moment.timestamp() * 1000)
