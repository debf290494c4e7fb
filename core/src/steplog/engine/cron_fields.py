"""The five fields of a cron: read, checked, and matched to the days and minutes of a calendar without zones.

croniter expands the fields. Ours are the checks before it: of what it reads in a surprising way (``R`` is a random
minute, ``5-5`` every minute, ``59/15`` depends on its version) nothing reaches it, so that all versions give the same.
Sets of numbers are bits of an ``int``: the next member is one shift away.
"""

import re
from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import msgspec

from steplog.errors import CronInvalid

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MINUTES_A_DAY = 1440
LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
LAST = 0  # in place of the n of an n-th weekday
_SIX_WEEKS = sum(1 << 7 * week for week in range(6))


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY, _WEEKDAY = _Field("day of the month", 1, 31), _Field("weekday", 0, 6, _WEEKDAYS)
_FIELDS = (_Field("minute", 0, 59), _Field("hour", 0, 23), _DAY, _Field("month", 1, 12, _MONTHS), _WEEKDAY)
_ITEM = re.compile(r"(?:\*|([0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?)(?:/([0-9]+))?")
_ONE_WEEKDAY_A_MONTH = re.compile(r"l([0-9]+)|([0-9]+|[a-z]+)#[1-5]")


class CronFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the fields select. A set is an ``int``; its bit n stands for n."""

    times: int  # minutes of the day, 0…1439
    every_hour: bool  # the hour field has a star or a step
    months: int
    days: int  # of the month
    last_day: bool  # of the month, besides those
    weekdays: int  # 0…6 from Sunday
    nth_weekdays: tuple[tuple[int, int], ...]  # (weekday, 1…5 or LAST), besides those
    either: bool  # neither the days nor the weekdays are a star: one of them is enough


def read_fields(text: str) -> CronFields:
    """Read five fields, or a macro such as ``@daily`` (FN-05, CON-18).

    Raises ``CronInvalid``.
    """
    lowered = text.strip().lower()
    words = MACROS.get(lowered, lowered).split()
    if words and words[0].startswith("@"):
        raise CronInvalid(text, f"{words[0]} is no schedule; write five fields, or one of {', '.join(MACROS)}")
    if len(words) != len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS)
        raise CronInvalid(text, f"it has {len(words)} fields; write five: {names}")
    words = [
        "*" if word == "?" and field in (_DAY, _WEEKDAY) else word for field, word in zip(_FIELDS, words, strict=True)
    ]
    checked = [_problem(field, item) for field, word in zip(_FIELDS, words, strict=True) for item in word.split(",")]
    if problems := [problem for problem in checked if problem]:
        raise CronInvalid(text, "; ".join(problems))
    fields = _expand(text, words)
    if not _comes(fields):
        raise CronInvalid(text, f"day {words[2]} never comes in month {words[3]}; choose another day or month")
    return fields


def _problem(field: _Field, item: str) -> str | None:
    """What is wrong with one item of a field's list."""
    if field is _DAY and item == "l":
        return None
    if field is _WEEKDAY and (special := _ONE_WEEKDAY_A_MONTH.fullmatch(item)):
        return _number(field, special[1] or special[2])[1]
    parts = _ITEM.fullmatch(item)
    if parts is None:
        return f"{field.name} {item!r} cannot be read; write a value, a range as 1-5, a step as */10, or a list as 1,15"
    first, last, step = parts.groups()
    size = field.last - field.first + 1
    if step and not 1 <= int(step) <= size:
        return f"{field.name} {item!r} has a step of {step}; write one of 1-{size}"
    if first is None:
        return None
    low, problem = _number(field, first)
    if problem or not (last or step):
        return problem
    high, problem = _number(field, last) if last else (field.last, None)
    if last and field is _WEEKDAY and high == 0:
        high = 7  # sat-sun
    if problem is None and low >= high:
        return f"{field.name} {item!r} ends where it begins or before; write a list of what it should hold"
    return problem


def _number(field: _Field, word: str) -> tuple[int, str | None]:
    """The number of a value, and what is wrong with it."""
    if word in field.names:
        return field.names.index(word) + field.first, None
    highest = 7 if field is _WEEKDAY else field.last  # 7 is Sunday again
    if word.isdigit() and field.first <= int(word) <= highest:
        return int(word), None
    names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
    return 0, f"{field.name} {word!r} is not in {field.first}-{highest}{names}"


def _expand(text: str, words: list[str]) -> CronFields:
    from croniter import CroniterBadCronError, croniter  # 90 ms, which a program without crons need not pay

    try:
        (minutes, hours, days, months, weekdays), nth = croniter.expand(" ".join(words))
    except CroniterBadCronError as error:
        raise CronInvalid(text, " ".join(str(error).split())) from error
    minute_bits = _bits(minutes, _FIELDS[0])
    return CronFields(
        times=sum(minute_bits << 60 * hour for hour in range(24) if _bits(hours, _FIELDS[1]) >> hour & 1),
        every_hour="*" in hours or "*" in words[1] or "/" in words[1],
        months=_bits(months, _FIELDS[3]),
        days=_bits([day for day in days if day != "l"], _DAY),
        last_day="l" in days,
        weekdays=_bits([day for day in weekdays if day not in nth], _WEEKDAY),
        nth_weekdays=tuple((int(day), n if isinstance(n, int) else LAST) for day, ns in nth.items() for n in ns),
        either=not any(item in ("*", "*/1") for word in (words[2], words[4]) for item in word.split(",")),
    )


def _bits(values: Sequence[int | str], field: _Field) -> int:
    numbers = range(field.first, field.last + 1) if "*" in values else values
    return sum(1 << int(number) for number in numbers)


def _comes(fields: CronFields) -> bool:
    """Whether some month has a selected day. A weekday, the fifth one too, comes in each month sooner or later."""
    if fields.either or fields.last_day:
        return True
    first = _lowest(fields.days)
    return any(fields.months >> month & 1 and first <= length for month, length in enumerate(LONGEST_MONTHS, 1))


def next_minute(fields: CronFields, minute: int) -> int:
    """The first selected minute that is not before ``minute``; both count from year 1, where day 1 begins at 1440.

    Work grows with months, 40 years of them at most. Raises ``ValueError`` past the year 9999.
    """
    today, minute_of_day = divmod(minute, MINUTES_A_DAY)
    day = _next_day(fields, today)
    if day == today:
        if rest := fields.times >> minute_of_day:
            return minute + _lowest(rest)
        day = _next_day(fields, today + 1)
    return day * MINUTES_A_DAY + _lowest(fields.times)


def _next_day(fields: CronFields, ordinal: int) -> int:
    """The first selected day that is not before ``ordinal``, a proleptic Gregorian ordinal."""
    start = date.fromordinal(ordinal)
    year, month, day = start.year, start.month, start.day
    while True:
        following = (year, month + 1) if month < 12 else (year + 1, 1)
        if fields.months >> month & 1:
            first = date(year, month, 1).toordinal()
            length = date(*following, 1).toordinal() - first
            if rest := _days(fields, first % 7, length) >> day:
                return first - 1 + day + _lowest(rest)
        (year, month), day = following, 1


def _days(fields: CronFields, first: int, length: int) -> int:
    """The selected days of a month that begins on weekday ``first`` and has ``length`` days."""
    by_day = fields.days | fields.last_day << length
    by_weekday = (fields.weekdays * _SIX_WEEKS >> first) << 1
    for weekday, n in fields.nth_weekdays:
        day = (weekday - first) % 7 + 1
        by_weekday |= 1 << day + 7 * ((length - day) // 7 if n == LAST else n - 1)
    selected = by_day | by_weekday if fields.either else by_day & by_weekday
    return selected & (2 << length) - 2


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
