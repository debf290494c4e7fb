"""Crons: what can be written, and when it fires where clocks change."""

import subprocess
import sys
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from steplog.engine.cron import MOST_CAUGHT_UP, CronSchedule, fire_at, next_of, parse_cron, tick_origin
from steplog.engine.ids import run_id
from steplog.errors import CronInvalid

DAY_MS = 86_400_000


def ms(text: str) -> int:
    """Read a time with its offset; UTC where it has none."""
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1000


def planned(cron: str, after: str, most: int) -> list[str]:
    """The next ticks, as the clock of the schedule's zone shows them."""
    schedule = parse_cron(cron)
    ticks = schedule.ticks(ms(after), ms("2200-01-01"), most)
    return [datetime.fromtimestamp(tick // 1000, schedule.zone).strftime("%Y-%m-%d %H:%M %z") for tick in ticks]


# The leap of New York on 8 March 2026 is from 02:00 -05:00 to 03:00 -04:00, the fold on 1 November from 02:00 -04:00
# to 01:00 -05:00.
@pytest.mark.spec("FN-05", "FAULT-F1")
@pytest.mark.parametrize(
    ("fields", "after", "expected"),
    [
        ("30 2 * * *", "2026-03-07T12:00-05:00", ["2026-03-08 03:00 -0400", "2026-03-09 02:30 -0400"]),
        ("0 3 * * *", "2026-03-07T12:00-05:00", ["2026-03-08 03:00 -0400", "2026-03-09 03:00 -0400"]),
        ("0,30 2,3 * * *", "2026-03-07T12:00-05:00", ["2026-03-08 03:00 -0400", "2026-03-08 03:30 -0400"]),
        ("*/5 2 * * *", "2026-03-07T12:00-05:00", ["2026-03-08 03:00 -0400", "2026-03-09 02:00 -0400"]),
        ("30 * * * *", "2026-03-08T01:00-05:00",
         ["2026-03-08 01:30 -0500", "2026-03-08 03:00 -0400", "2026-03-08 03:30 -0400"]),
        ("30 1 * * *", "2026-10-31T12:00-04:00", ["2026-11-01 01:30 -0400", "2026-11-02 01:30 -0500"]),
        ("*/30 1 * * *", "2026-11-01T00:30-04:00",
         ["2026-11-01 01:00 -0400", "2026-11-01 01:30 -0400", "2026-11-02 01:00 -0500"]),
        ("0,30 0-2 * * *", "2026-11-01T00:30-04:00",
         ["2026-11-01 01:00 -0400", "2026-11-01 01:30 -0400", "2026-11-01 02:00 -0500"]),
        ("*/30 * * * *", "2026-11-01T00:30-04:00",
         ["2026-11-01 01:00 -0400", "2026-11-01 01:30 -0400", "2026-11-01 01:00 -0500", "2026-11-01 01:30 -0500",
          "2026-11-01 02:00 -0500"]),
        ("15 */1 * * *", "2026-11-01T01:00-04:00", ["2026-11-01 01:15 -0400", "2026-11-01 01:15 -0500"]),
        ("0 1/6 * * *", "2026-11-01T00:00-04:00",
         ["2026-11-01 01:00 -0400", "2026-11-01 01:00 -0500", "2026-11-01 07:00 -0500"]),
        ("30 1 * * *", "2026-11-01T01:10-05:00", ["2026-11-02 01:30 -0500"]),
        ("0 2 * * *", "2026-11-01T01:59:59-05:00", ["2026-11-01 02:00 -0500"]),
        ("0 * * * *", "2026-11-01T01:59:59-05:00", ["2026-11-01 02:00 -0500"]),
        ("0 * * * *", "2026-11-01T01:59:59-04:00", ["2026-11-01 01:00 -0500"]),
    ],
)  # fmt: skip
def test_where_the_clock_of_new_york_changes(fields: str, after: str, expected: list[str]) -> None:
    assert planned(f"TZ=America/New_York {fields}", after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # half an hour
        ("TZ=Australia/Lord_Howe 15 2 * * *", "2026-10-03T00:00",
         ["2026-10-04 02:30 +1100", "2026-10-05 02:15 +1100"]),
        ("TZ=Australia/Lord_Howe 45 1 * * *", "2026-04-04T00:00",
         ["2026-04-05 01:45 +1100", "2026-04-06 01:45 +1030"]),
        ("TZ=Australia/Lord_Howe 45 * * * *", "2026-04-04T14:00",
         ["2026-04-05 01:45 +1100", "2026-04-05 01:45 +1030", "2026-04-05 02:45 +1030"]),
        # a whole day, 30 December 2011
        ("TZ=Pacific/Apia 0 12 * * *", "2011-12-29T12:00-10:00",
         ["2011-12-31 00:00 +1400", "2011-12-31 12:00 +1400"]),
        ("TZ=Pacific/Apia 0 12 30 12 *", "2011-01-01T00:00", ["2011-12-31 00:00 +1400", "2012-12-30 12:00 +1400"]),
        # at midnight
        ("TZ=America/Sao_Paulo 0 0 * * *", "2018-11-03T12:00",
         ["2018-11-04 01:00 -0200", "2018-11-05 00:00 -0200"]),
        ("TZ=America/Sao_Paulo 30 23 17 2 *", "2018-02-17T12:00",
         ["2018-02-17 23:30 -0200", "2019-02-17 23:30 -0300"]),
        ("TZ=Asia/Beirut 15 0 * * *", "2023-03-25T12:00", ["2023-03-26 01:00 +0300", "2023-03-27 00:15 +0300"]),
        # the offset changes outside of DST
        ("TZ=America/Caracas 45 2 * * *", "2016-04-30T12:00", ["2016-05-01 03:00 -0400", "2016-05-02 02:45 -0400"]),
        ("TZ=Asia/Pyongyang 45 23 * * *", "2015-08-14T00:00",
         ["2015-08-14 23:45 +0900", "2015-08-15 23:45 +0830"]),
        # further than any table of changes reaches
        ("TZ=Europe/Paris 30 2 28 3 *", "2060-01-01T00:00", ["2060-03-28 03:00 +0200", "2061-03-28 02:30 +0200"]),
    ],
)  # fmt: skip
def test_zones_whose_rules_are_odd(cron: str, after: str, expected: list[str]) -> None:
    assert planned(cron, after, len(expected)) == expected


@pytest.mark.spec("FN-05", "ATV-08")
def test_friday_noon_in_paris_is_noon_on_both_sides_of_the_change() -> None:
    expected = ["2026-03-27 12:00 +0100", "2026-04-03 12:00 +0200"]
    assert planned("TZ=Europe/Paris 0 12 * * 5", "2026-03-26T00:00", 2) == expected
    assert planned("CRON_TZ=Europe/Paris 0 12 * * FRI", "2026-03-26T00:00", 2) == expected
    assert planned("0 12 * * 5", "2026-03-26T00:00", 1) == ["2026-03-27 12:00 +0000"], "UTC is the default"


@pytest.mark.spec("FN-05")
@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("@hourly", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        ("@daily", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@Midnight", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("TZ=UTC  @annually ", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("0 0 * * 0", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("0 0 * * sat-sun", ["2026-01-03 00:00", "2026-01-04 00:00", "2026-01-10 00:00"]),
        ("0 0 * jun,AUG *", ["2026-06-01 00:00", "2026-06-02 00:00"]),
        ("0 0 13 * 5", ["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00"]),  # either of them
        ("0 0 13 * 0-6", ["2026-01-02 00:00", "2026-01-03 00:00"]),  # neither is a star, though each day is named
        ("0 0 ? * 1", ["2026-01-05 00:00", "2026-01-12 00:00"]),
        ("0 0 13 * ?", ["2026-01-13 00:00", "2026-02-13 00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00", "2026-02-28 00:00", "2026-03-31 00:00"]),
        ("0 0 L,15 2 *", ["2026-02-15 00:00", "2026-02-28 00:00"]),
        ("0 0 * * mon#2", ["2026-01-12 00:00", "2026-02-09 00:00"]),
        ("0 0 * * L5", ["2026-01-30 00:00", "2026-02-27 00:00"]),
        ("0 0 * * L0,1#1", ["2026-01-05 00:00", "2026-01-25 00:00"]),
        ("10/20\t0-23/12   * * *", ["2026-01-01 00:10", "2026-01-01 00:30", "2026-01-01 00:50", "2026-01-01 12:10"]),
        ("0 0 10 * 5#2", ["2026-01-09 00:00", "2026-01-10 00:00", "2026-02-10 00:00", "2026-02-13 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 * 2 1#5", ["2044-02-29 00:00", "2072-02-29 00:00", "2112-02-29 00:00"]),  # 29 February on a Monday
        ("0 0 31 4 1", ["2026-04-06 00:00", "2026-04-13 00:00"]),  # no 31 April, but Mondays
    ],
)
def test_what_can_be_written(cron: str, expected: list[str]) -> None:
    assert planned(cron, "2026-01-01T00:00", len(expected)) == [f"{time} +0000" for time in expected]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "it has 0 fields; write five"),
        ("* * *", "it has 3 fields; write five"),
        ("0 0 0 1 1 *", "it has 6 fields; write five"),
        ("0 0 0 1 1 * 2026", "it has 7 fields; write five"),
        ("TZ=Europe/Paris", "it has 0 fields; write five"),
        ("@every 5m", "@every is no schedule; write five fields, or one of @hourly"),
        ("@reboot", "@reboot is no schedule"),
        ("60 * * * *", "minute '60' is not in 0-59"),
        ("-1 * * * *", "minute '-1' cannot be read"),
        ("0 24 * * *", "hour '24' is not in 0-23"),
        ("0 0 0 * *", "day of the month '0' is not in 1-31"),
        ("0 0 1-32 * *", "day of the month '32' is not in 1-31"),
        ("0 0 1 13 *", "month '13' is not in 1-12 or jan-dec"),
        ("0 0 1 janu *", "month 'janu' is not in 1-12 or jan-dec"),
        ("0 0 * * 8", "weekday '8' is not in 0-7 or sun-sat"),
        ("0 0 * jan-foo *", "month 'foo' is not in 1-12"),
        ("61 25 * * foo", "minute '61' is not in 0-59; hour '25' is not in 0-23; weekday 'foo' is not in 0-7"),
        ("*/0 * * * *", "minute '*/0' has a step of 0; write one of 1-60"),
        ("*/90 * * * *", "minute '*/90' has a step of 90; write one of 1-60"),
        ("5-5 * * * *", "minute '5-5' ends where it begins or before; write a list"),
        ("0 22-2 * * *", "hour '22-2' ends where it begins or before; write a list"),
        ("59/15 * * * *", "minute '59/15' ends where it begins or before"),
        ("0 0 * * 7/2", "weekday '7/2' ends where it begins or before"),
        ("1,,2 * * * *", "minute '' cannot be read"),
        ("R * * * *", "minute 'r' is not in 0-59"),
        ("H(0-29) * * * *", "minute 'h(0-29)' cannot be read"),
        ("٣ * * * *", "minute '٣' cannot be read"),
        ("0 0 15W * *", "day of the month '15w' cannot be read"),
        ("0 0 L-3 * *", "day of the month 'l' is not in 1-31"),
        ("0 0 ?,1 * *", "day of the month '?' cannot be read"),
        ("? * * * *", "minute '?' cannot be read"),
        ("0 0 * * 1#6", "weekday '1#6' cannot be read"),
        ("0 0 * * 9#1", "weekday '9' is not in 0-7"),
        ("0 0 * * Lfri", "weekday 'lfri' is not in 0-7"),
        ("0 0 * * 1#1,2", "does not support mixing"),
        ("0 0 31 2 *", "day 31 never comes in month 2; choose another day or month"),
        ("0 0 31 apr,jun,9,11 *", "day 31 never comes in month apr,jun,9,11"),
        ("0 0 30,31 2 ?", "day 30,31 never comes in month 2"),
        ("TZ=Europe/Pariss 0 0 * * *", "no zone is named 'Europe/Pariss'; did you mean Europe/Paris?"),
        ("TZ=paris 0 0 * * *", "no zone is named 'paris'; did you mean Europe/Paris?"),
        ("TZ=America/New-York 0 0 * * *", "did you mean America/New_York?"),
        ("TZ=qqqqqqqqqqqq 0 0 * * *", "no zone is named 'qqqqqqqqqqqq'; write TZ=Area/City"),
        ("TZ= 0 0 * * *", "no zone is named ''"),
        ("TZ=Europe 0 0 * * *", "no zone is named 'Europe'"),
        ("TZ=../UTC 0 0 * * *", "no zone is named '../UTC'"),
        ("TZ=/etc/passwd 0 0 * * *", "no zone is named '/etc/passwd'"),
        ("TZ=U\0C 0 0 * * *", "no zone is named"),
        ("TZ=right/UTC 0 0 * * *", "no zone is named 'right/UTC'"),
        ("TZ=localtime 0 0 * * *", "no zone is named 'localtime'"),
        ("ZONE=Europe/Paris 0 0 * * *", "it begins with ZONE=; write TZ=Area/City"),
        ("0," * 150 + "0 * * * *", "it has 309 characters, the limit is 255"),
    ],
)
def test_what_cannot_be_written_is_named(cron: str, says: str) -> None:
    with pytest.raises(CronInvalid) as raised:
        parse_cron(cron)
    assert says in raised.value.problem
    assert str(raised.value).startswith("cron '")


def test_a_time_between_two_seconds() -> None:
    schedule = parse_cron("* * * * *")
    at_ms = ms("2026-01-01T10:00")
    assert schedule.next_after(at_ms - 1) == at_ms, "strictly after, by a millisecond"
    assert schedule.next_after(at_ms) == schedule.next_after(at_ms + 59_999) == at_ms + 60_000


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("fields", ["* * * * *", "30 2 * * *", "* * * 3 *", "0 0 29 2 *"])
def test_after_a_downtime(zone: str, fields: str) -> None:
    schedule = parse_cron(f"TZ={zone} {fields}")
    after_ms, now_ms = ms("2026-03-28T00:00"), ms("2026-04-07T00:00")
    everything = list(schedule.ticks(after_ms, now_ms, 200_000))
    assert schedule.missed(after_ms, now_ms, "all") == everything[-MOST_CAUGHT_UP:]
    assert schedule.missed(after_ms, now_ms, "last") == everything[-1:]
    assert schedule.missed(after_ms, now_ms, "skip") == []


def test_a_tick_that_is_due_now_is_missed_and_the_one_before_is_not() -> None:
    schedule = parse_cron("0 * * * *")
    at_ms = ms("2026-01-01T10:00")
    assert schedule.missed(at_ms, at_ms + 3_600_000, "all") == [at_ms + 3_600_000]
    assert schedule.missed(at_ms, at_ms + 3_599_999, "last") == []
    assert schedule.missed(at_ms, at_ms - DAY_MS, "all") == [], "a clock that went back"


class Counting(CronSchedule, frozen=True):
    """Counts how often the next tick is sought."""

    sought: ClassVar[list[int]] = []

    def next_after(self, utc_ms: int) -> int:
        self.sought.append(utc_ms)
        return super().next_after(utc_ms)


def test_the_work_after_a_downtime_does_not_grow_with_it() -> None:
    schedule = parse_cron("* * * * *")
    counting = Counting(text="", zone=schedule.zone, fields=schedule.fields)
    now_ms = ms("2026-01-01T00:00")
    counting.missed(now_ms - 10 * 365 * DAY_MS, now_ms, "last")
    assert len(counting.sought) < 100
    counting.missed(now_ms - 10 * 365 * DAY_MS, now_ms, "all")
    assert len(counting.sought) < 10_000


@pytest.mark.spec("FN-07", "ATV-08")
def test_several_crons_of_a_function_in_one_second_are_one_tick() -> None:
    hourly, half_hourly = parse_cron("0 * * * *"), parse_cron("*/30 * * * *")
    first = next_of([hourly, half_hourly], ms("2026-01-01T09:59"))
    second = next_of([hourly, half_hourly], first[0])
    third = next_of([hourly, half_hourly], second[0])
    assert [first[0], second[0], third[0]] == [ms(f"2026-01-01T{time}") for time in ("10:00", "10:30", "11:00")]
    assert [first[1], second[1], third[1]] == [hourly, half_hourly, hourly]


@pytest.mark.spec("FN-07")
def test_a_tick_has_one_id_in_its_function() -> None:
    at_ms = ms("2026-01-01T10:00")
    runs = [run_id(at_ms, 7, 0, function, tick_origin(at_ms + later)) for function in "fg" for later in (0, 1000)]
    assert len(set(runs)) == 4
    assert run_id(at_ms, 7, 0, "f", tick_origin(at_ms)) == runs[0]


def test_jitter_is_strictly_inside_its_window_and_each_time_the_same() -> None:
    minute_ms = 60_000
    fired = {tick: fire_at(tick, 10_000, b"seed") for tick in range(0, 1000 * minute_ms, minute_ms)}
    late_ms = [at_ms - tick for tick, at_ms in fired.items()]
    assert 1000 <= min(late_ms) < 1500
    assert 8500 < max(late_ms) <= 9000
    assert fired == {tick: fire_at(tick, 10_000, b"seed") for tick in fired}
    assert fired != {tick: fire_at(tick, 10_000, b"other") for tick in fired}
    assert fire_at(minute_ms, 0, b"seed") == minute_ms
    assert fire_at(minute_ms, 2000, b"seed") == minute_ms + 1000
    assert {fire_at(tick, 2, b"seed") - tick for tick in fired} == {0, 1, 2}


def test_a_program_without_crons_does_not_pay_for_croniter() -> None:
    code = "import sys, steplog.engine.cron; sys.exit('croniter' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
