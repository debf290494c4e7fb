"""Timestamps and durations: RFC 3339 and ``1h30m`` in, aware datetimes and timedeltas inside, to the microsecond."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from steplog.errors import EvaluationError

Time = TypeVar("Time", datetime, timedelta, datetime | timedelta)
MAX_CHARS = 64  # of a text that is read as a time
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"[+-]?(0|((\d+(\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns))+)", re.ASCII)
_PART = re.compile(r"([\d.]+)([a-zµ]+)")
_UNITS_US = {"h": 3.6e9, "m": 6e7, "s": 1e6, "ms": 1e3, "us": 1.0, "µs": 1.0, "ns": 1e-3}


def checked(compute: Callable[[], Time]) -> Time:
    """Compute a time. Raises ``EvaluationError`` for one outside of the years 1 to 9999."""
    try:
        return compute()
    except (OverflowError, ValueError):
        raise EvaluationError("the time is out of range") from None


def timestamp(text: str) -> datetime:
    """Read ``2026-01-31T12:00:00Z``."""
    if len(text) > MAX_CHARS or not _TIMESTAMP.fullmatch(text):
        raise EvaluationError("a timestamp is written as 2026-01-31T12:00:00Z")
    return checked(lambda: datetime.fromisoformat(text).astimezone(UTC))


def from_seconds(seconds: float) -> datetime:
    """Count from 1970."""
    return checked(lambda: EPOCH + timedelta(seconds=seconds))


def to_seconds(moment: datetime) -> int:
    """Count from 1970, rounded down."""
    return (moment - EPOCH) // timedelta(seconds=1)


def duration(text: str) -> timedelta:
    """Read ``1h30m``, ``-1.5s`` or ``250ms``."""
    if len(text) > MAX_CHARS or not _DURATION.fullmatch(text):
        raise EvaluationError("a duration is written as 1h30m, 45s or 250ms; there are no days")
    microseconds = sum(float(number) * _UNITS_US[unit] for number, unit in _PART.findall(text))
    return checked(lambda: timedelta(microseconds=-microseconds if text.startswith("-") else microseconds))


def timestamp_text(moment: datetime) -> str:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")  # the year without zeros on some systems
    return f"{text}{_fraction(moment.microsecond)}Z"


def duration_text(span: timedelta) -> str:
    seconds, microseconds = divmod(abs(span) // _MICROSECOND, 1_000_000)
    return f"{'-' if span < timedelta(0) else ''}{seconds}{_fraction(microseconds)}s"


def _fraction(microseconds: int) -> str:
    return f".{microseconds:06d}".rstrip("0") if microseconds else ""


def _in_zone(moment: datetime, zone: str | None) -> datetime:
    if zone is None:
        return moment
    try:
        return checked(lambda: moment.astimezone(ZoneInfo(zone)))
    except (LookupError, OSError):
        raise EvaluationError("there is no such time zone") from None


PARTS: dict[str, Callable[[datetime], int]] = {
    "getFullYear": lambda t: t.year,
    "getMonth": lambda t: t.month - 1,
    "getDate": lambda t: t.day,
    "getDayOfMonth": lambda t: t.day - 1,
    "getDayOfWeek": lambda t: t.isoweekday() % 7,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1,
    "getHours": lambda t: t.hour,
    "getMinutes": lambda t: t.minute,
    "getSeconds": lambda t: t.second,
    "getMilliseconds": lambda t: t.microsecond // 1000,
}
_SPANS = {
    "getHours": timedelta(hours=1), "getMinutes": timedelta(minutes=1), "getSeconds": timedelta(seconds=1),
}  # fmt: skip


def part(name: str, time: datetime | timedelta, zone: str | None = None) -> int:
    """Read a part of a timestamp, in UTC or a zone; or count a duration in whole hours, minutes, seconds."""
    if isinstance(time, datetime):
        return PARTS[name](_in_zone(time, zone))
    if name == "getMilliseconds":
        return abs(time) % timedelta(seconds=1) // timedelta(milliseconds=1)
    if name not in _SPANS or zone is not None:
        raise EvaluationError(f"a duration has no {name}")
    whole = abs(time) // _SPANS[name]
    return whole if time >= timedelta(0) else -whole
