"""Crons beside an oracle that looks at every minute, and beside two other libraries where all agree on the rules."""

import functools
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import islice, pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steplog.engine.cron import CronSchedule, parse_cron, tick_origin
from steplog.errors import CronInvalid

MINUTE_S = 60
DAY_S = 86_400
# (zone, the day on which its clock changes); each is looked at from the day before to the day after.
CHANGES = (
    ("UTC", "2026-03-08"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Europe/Dublin", "2026-10-25"),
    ("Australia/Lord_Howe", "2026-04-05"),  # half an hour
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Antarctica/Troll", "2026-03-29"),  # two hours
    ("Antarctica/Troll", "2026-10-25"),
    ("Pacific/Apia", "2011-12-30"),  # a day that never was
    ("Pacific/Kwajalein", "1969-10-01"),  # nearly a day twice
    ("America/Sao_Paulo", "2018-02-18"),  # midnight
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Havana", "2026-11-01"),
    ("Asia/Beirut", "2023-03-26"),
    ("America/Caracas", "2016-05-01"),  # the offset, outside of DST
    ("Asia/Pyongyang", "2015-08-15"),
    ("Asia/Kathmandu", "1986-01-01"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Europe/Paris", "2060-10-31"),  # by the rule, further than any table of changes
)


class Plain(NamedTuple):
    """A cron, and what it selects as we drew it. ``None`` is any."""

    text: str
    minutes: Sequence[int]
    hours: Sequence[int]
    days: Sequence[int] | None
    weekdays: Sequence[int] | None
    every_hour: bool

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours:
            return False
        day = self.days is None or wall.day in self.days
        weekday = self.weekdays is None or wall.isoweekday() % 7 in self.weekdays
        return (day or weekday) if self.days is not None and self.weekdays is not None else (day and weekday)


def closed(low: int, high: int) -> st.SearchStrategy[tuple[str, list[int]]]:
    """A field of numbers, as text and as numbers: a list or a range."""
    span = range(low, high + 1)
    pair = st.lists(st.sampled_from(span), min_size=2, max_size=2, unique=True).map(sorted)
    return st.one_of(
        st.lists(st.sampled_from(span), min_size=1, max_size=3).map(lambda ns: (",".join(map(str, ns)), ns)),
        pair.map(lambda p: (f"{p[0]}-{p[1]}", list(range(p[0], p[1] + 1)))),
    )


def drawn(low: int, high: int) -> st.SearchStrategy[tuple[str, list[int]]]:
    """As ``closed``, or a range, a start or a star with a step."""
    span = range(low, high + 1)
    pair = st.lists(st.sampled_from(span), min_size=2, max_size=2, unique=True).map(sorted)
    step = st.integers(2, len(span))
    return st.one_of(
        closed(low, high),
        st.tuples(pair, step).map(lambda p: (f"{p[0][0]}-{p[0][1]}/{p[1]}", list(range(p[0][0], p[0][1] + 1, p[1])))),
        st.tuples(pair, step).map(lambda p: (f"{p[0][0]}/{p[1]}", list(range(p[0][0], high + 1, p[1])))),
        step.map(lambda n: (f"*/{n}", list(range(low, high + 1, n)))),
    )


any_number: st.SearchStrategy[tuple[str, None]] = st.just(("*", None))


@st.composite
def crons(draw: st.DrawFn) -> Plain:
    minutes, minute_numbers = draw(drawn(0, 59) | any_number)
    hours, hour_numbers = draw(drawn(0, 23) | closed(0, 4) | any_number)
    days, day_numbers = draw(drawn(1, 31) | any_number | any_number)
    weekdays, weekday_numbers = draw(drawn(0, 6) | any_number | any_number)
    return Plain(
        text=f"{minutes} {hours} {days} * {weekdays}",
        minutes=range(60) if minute_numbers is None else minute_numbers,
        hours=range(24) if hour_numbers is None else hour_numbers,
        days=day_numbers,
        weekdays=weekday_numbers,
        every_hour="*" in hours or "/" in hours,
    )


@functools.cache
def wall_clock(zone: str, day: str) -> list[tuple[int, datetime, list[datetime], bool]]:
    """Each minute of three days: when it is, what the clock shows, what it leapt over, whether it showed it before."""
    begin_s = round(datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()) - DAY_S
    shown: set[int] = set()
    before_s: int | None = None
    minutes = []
    for at_s in range(begin_s - DAY_S, begin_s + 3 * DAY_S, MINUTE_S):  # it may show a whole day twice
        wall = datetime.fromtimestamp(at_s, ZoneInfo(zone)).replace(tzinfo=UTC, fold=0)
        wall_s = round(wall.timestamp())
        leapt = range((wall_s if before_s is None else before_s + MINUTE_S), wall_s, MINUTE_S)
        if at_s >= begin_s:
            minutes.append((at_s, wall, [datetime.fromtimestamp(s, UTC) for s in leapt], wall_s in shown))
        shown.add(wall_s)
        before_s = wall_s
    return minutes


def by_minutes(cron: Plain, zone: str, day: str) -> list[int]:
    return [
        at_s * 1000
        for at_s, wall, leapt, again in wall_clock(zone, day)
        if (cron.matches(wall) and (cron.every_hour or not again)) or any(map(cron.matches, leapt))
    ]


def in_zone(cron: Plain, zone: str) -> CronSchedule:
    return parse_cron(f"TZ={zone} {cron.text}")


@pytest.mark.spec("FN-05", "FAULT-F1")
@given(crons(), st.sampled_from(CHANGES))
def test_ticks_are_those_that_a_look_at_every_minute_finds(cron: Plain, change: tuple[str, str]) -> None:
    expected = by_minutes(cron, *change)
    minutes = wall_clock(*change)
    ticks = in_zone(cron, change[0]).ticks(minutes[0][0] * 1000 - 1, minutes[-1][0] * 1000, len(minutes) + 1)
    assert list(ticks) == expected


@given(crons(), st.sampled_from(CHANGES), st.data())
def test_the_next_tick_is_the_same_from_every_moment_before_it(
    cron: Plain, change: tuple[str, str], data: st.DataObject
) -> None:
    minutes = wall_clock(*change)
    begin_ms, end_ms = minutes[0][0] * 1000, minutes[-1][0] * 1000
    at_ms = data.draw(st.integers(begin_ms, end_ms))
    later = [tick for tick in by_minutes(cron, *change) if tick > at_ms]
    assume(later)
    assert in_zone(cron, change[0]).next_after(at_ms) == later[0]


@pytest.mark.spec("FAULT-F1")
@given(crons(), st.sampled_from(sorted({zone for zone, _ in CHANGES})), st.integers(0, 4_000_000_000_000))
def test_planned_instants_increase_and_are_the_first_of_what_comes(cron: Plain, zone: str, after_ms: int) -> None:
    schedule = in_zone(cron, zone)
    ticks = list(schedule.ticks(after_ms, 2**43, 20))
    assert [after_ms, *ticks] == sorted({after_ms, *ticks})
    assert all(schedule.next_after(tick - 1) == tick for tick in ticks), "next to it, from a millisecond before"
    assert schedule.missed(after_ms, ticks[-1], "all") == ticks
    assert schedule.missed(after_ms, ticks[-1] + 1, "last") == ticks[-1:]


@pytest.mark.spec("FAULT-F1")
@pytest.mark.parametrize(
    "zone",
    ["UTC", "America/New_York", "Europe/Paris", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut", "Africa/Cairo"],
)
def test_five_years_of_ticks_have_one_id_each(zone: str) -> None:
    for fields in ("30 2 * * *", "0 0 * * *", "30 */2 * * *"):
        schedule = parse_cron(f"TZ={zone} {fields}")
        ticks = list(schedule.ticks(1_767_225_600_000, 1_925_000_000_000, 50_000))
        assert len({tick_origin(tick) for tick in ticks}) == len(ticks) > 1800
        assert all(before < after for before, after in pairwise(ticks))
        assert all(schedule.next_after(tick) == after for tick, after in pairwise(ticks))
        if "/" not in fields:
            days = [datetime.fromtimestamp(tick // 1000, schedule.zone).date() for tick in ticks]
            assert len(set(days)) == len(days) == (max(days) - min(days)).days + 1, "one a day, none left out"


# Times at which no clock changes, and none for four months.
QUIET = st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata"])
QUIET_FROM, QUIET_TO = datetime(2026, 11, 10, tzinfo=UTC), datetime(2027, 3, 10, tzinfo=UTC)
quiet_times = st.datetimes(QUIET_FROM.replace(tzinfo=None), datetime(2027, 2, 20), timezones=st.just(UTC))


def ours(text: str, zone: str, after: datetime, before: datetime = QUIET_TO) -> list[datetime]:
    schedule = parse_cron(f"TZ={zone} {text}")
    after_ms, until_ms = (round(moment.timestamp() * 1000) for moment in (after, before))
    return [datetime.fromtimestamp(tick // 1000, schedule.zone) for tick in schedule.ticks(after_ms, until_ms - 1, 10)]


@st.composite
def calendars(draw: st.DrawFn) -> str:
    """The three fields of the date, names and Sunday as 7 included."""
    months = draw(drawn(1, 12).map(lambda p: p[0]) | st.sampled_from(["*", "*", "jan-mar", "feb", "nov,DEC,jan"]))
    days = draw(drawn(1, 28).map(lambda p: p[0]) | st.sampled_from(["*", "*", "29", "31", "1-31"]))
    weekdays = draw(
        drawn(0, 6).map(lambda p: p[0]) | st.sampled_from(["*", "*", "7", "mon-fri", "6-7", "0-7", "5-7/2"])
    )
    return f"{days} {months} {weekdays}"


@given(crons(), calendars(), QUIET, quiet_times)
def test_croniter_agrees_where_no_clock_changes(cron: Plain, calendar: str, zone: str, after: datetime) -> None:
    text = " ".join([*cron.text.split()[:2], calendar])
    days, _, weekdays = calendar.split()
    # a range of everything is a star, it says; POSIX calls that a list
    assume(days == "*" or weekdays not in ("0-6", "0-7"))
    assume(weekdays == "*" or days != "1-31")
    found = ours(text, zone, after)
    if found:
        theirs = croniter(text, after.astimezone(ZoneInfo(zone)), ret_type=datetime)
        assert found == [theirs.get_next() for _ in found]


@pytest.mark.parametrize("text", ["0 0 L * *", "0 0 L,10 * *", "0 0 * * L5", "0 9 * * 1#1,3#5", "5 4 L 2 *"])
@given(st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))
def test_croniter_agrees_on_last_and_nth_days(text: str, after: datetime) -> None:
    theirs = croniter(text, after, ret_type=datetime)
    assert ours(text, "UTC", after, datetime(2300, 1, 1, tzinfo=UTC)) == [theirs.get_next() for _ in range(10)]


@settings(max_examples=50)
@given(
    closed(0, 59),
    closed(0, 23),
    closed(1, 28) | any_number,
    closed(1, 12) | any_number,
    closed(0, 6) | any_number,
    QUIET,
    quiet_times,
)
def test_cronsim_agrees_where_no_clock_changes(
    minutes: tuple[str, object],
    hours: tuple[str, object],
    days: tuple[str, object],
    months: tuple[str, object],
    weekdays: tuple[str, object],
    zone: str,
    after: datetime,
) -> None:
    text = " ".join([minutes[0], hours[0], days[0], months[0], weekdays[0]])
    found = ours(text, zone, after)
    theirs = CronSim(text, after.astimezone(ZoneInfo(zone)).replace(microsecond=0))
    assert found == list(islice(theirs, len(found)))


@given(st.integers(date(1970, 1, 1).toordinal(), date(2400, 1, 1).toordinal()), st.integers(1, 7))
def test_a_leap_day_comes_on_every_weekday(ordinal: int, weekday: int) -> None:
    after_ms = (ordinal - date(1970, 1, 1).toordinal()) * DAY_S * 1000
    tick = datetime.fromtimestamp(parse_cron(f"0 0 * 2 {weekday}#5").next_after(after_ms) // 1000, UTC)
    assert (tick.month, tick.day, tick.isoweekday()) == (2, 29, weekday)
    assert tick.year - date.fromordinal(ordinal).year <= 40


@given(st.text(max_size=30) | st.text("0123456789*/-,#LW?RH @=", max_size=30))
def test_any_text_is_a_schedule_or_is_refused(text: str) -> None:
    try:
        schedule = parse_cron(text)
    except CronInvalid:
        return
    assert schedule.next_after(0) > 0
