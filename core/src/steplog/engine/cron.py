"""Cron schedules: when a function is planned to run (FN-05, GAP-04).

A schedule is walked on the wall clock of its zone. Where the clock leaps forward, a time that does not exist fires
once, at the first instant after the leap. Where it is set back, a schedule with fixed hours fires at the first of two
equal times, and one with a star or a step in the hour field at both. Planned instants strictly increase.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from steplog.engine.cron_fields import MINUTES_A_DAY, CronFields, next_minute, read_fields
from steplog.engine.ids import hash16
from steplog.errors import CronInvalid

CatchUp = Literal["last", "skip", "all"]
MOST_CAUGHT_UP = 100
LONGEST_CHARACTERS = 255
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall clock has no zone
_EPOCH_MINUTE = _EPOCH.toordinal() * MINUTES_A_DAY
_NOT_EVERYWHERE = ("localtime", "posix", "right/")  # names that a machine may have, with meanings of its own


class CronSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. Times are UTC in milliseconds; planned instants are whole seconds."""

    text: str
    zone: ZoneInfo
    fields: CronFields

    def next_after(self, utc_ms: int) -> int:
        """The next planned instant, strictly after ``utc_ms``. Raises ``ValueError`` past the year 9999."""
        now_s = utc_ms // 1000
        local = datetime.fromtimestamp(now_s, self.zone)
        offset_s, other_s = _seconds(local.utcoffset()), _seconds(local.replace(fold=1 - local.fold).utcoffset())
        wall_s = now_s + offset_s
        if offset_s == other_s:
            return self._first_s(wall_s) * 1000
        if local.fold:
            return self._first_in_fold_s(wall_s, other_s, offset_s, second_pass=True) * 1000
        return self._first_in_fold_s(wall_s, offset_s, other_s, second_pass=False) * 1000

    def _first_s(self, wall_s: int) -> int:
        """The first tick whose time on the wall clock is after ``wall_s``."""
        planned_s = self._next_wall_s(wall_s)
        wall = _EPOCH + timedelta(seconds=planned_s)
        before_s = _seconds(self.zone.utcoffset(wall))
        after_s = _seconds(self.zone.utcoffset(wall.replace(fold=1)))
        if before_s < after_s:  # the wall clock leaps over this time
            return _change_s(self.zone, planned_s, before_s, after_s)
        return planned_s - before_s

    def _first_in_fold_s(self, wall_s: int, before_s: int, after_s: int, *, second_pass: bool) -> int:
        """As ``_first_s``, after a time that the wall clock shows twice."""
        change_s = _change_s(self.zone, wall_s, before_s, after_s)
        begin_s, end_s = change_s + after_s, change_s + before_s  # of what it shows twice
        if not second_pass:
            if (planned_s := self._next_wall_s(wall_s)) < end_s:
                return planned_s - before_s
            wall_s = begin_s - 1
        if self.fields.every_hour and (planned_s := self._next_wall_s(wall_s)) < end_s:
            return planned_s - after_s
        return self._first_s(end_s - 1)

    def _next_wall_s(self, wall_s: int) -> int:
        """The next time on the wall clock, strictly after ``wall_s``; both in seconds since 1970 there."""
        return (next_minute(self.fields, wall_s // 60 + 1 + _EPOCH_MINUTE) - _EPOCH_MINUTE) * 60

    def ticks(self, after_ms: int, until_ms: int, most: int) -> Iterator[int]:
        """Give the planned instants after ``after_ms`` up to and with ``until_ms``, ``most`` of them at most."""
        for _ in range(most):
            after_ms = self.next_after(after_ms)
            if after_ms > until_ms:
                return
            yield after_ms

    def missed(self, after_ms: int, now_ms: int, catch_up: CatchUp) -> list[int]:
        """Choose what to run now of the ticks after ``after_ms`` up to and with ``now_ms``, in their order (GAP-04).

        ``last`` is the newest one, ``skip`` none, ``all`` the newest 100. The work does not grow with what was missed.
        """
        if catch_up == "skip":
            return []
        most = 1 if catch_up == "last" else MOST_CAUGHT_UP
        found = list(self.ticks(after_ms, now_ms, most + 1))
        if len(found) <= most:
            return found
        newest: deque[int] = deque()
        while len(newest) < most:
            newest.appendleft(self._newest(after_ms, newest[0] - 1 if newest else now_ms))
        return list(newest)

    def _newest(self, after_ms: int, until_ms: int) -> int:
        """The last tick of a time that has one: by doubling steps back from its end, then by bisection."""
        back_ms = 60_000
        while until_ms - back_ms > after_ms and self.next_after(until_ms - back_ms) > until_ms:
            back_ms *= 2
        low_ms, high_ms = self.next_after(max(until_ms - back_ms, after_ms)), until_ms
        while high_ms - low_ms >= 1000:
            middle_ms = low_ms + (high_ms - low_ms) // 2000 * 1000
            following_ms = self.next_after(middle_ms)
            if following_ms > until_ms:
                high_ms = middle_ms
            else:
                low_ms = following_ms
        return low_ms


def parse_cron(text: str) -> CronSchedule:
    """Read a cron: ``TZ=Area/City `` or ``CRON_TZ=Area/City ``, where it is not UTC, and five fields or a macro.

    Raises ``CronInvalid``: for a date that never comes, too.
    """
    if len(text) > LONGEST_CHARACTERS:
        raise CronInvalid(text[:40] + "…", f"it has {len(text)} characters, the limit is {LONGEST_CHARACTERS}")
    head, *rest = text.split(maxsplit=1) or [""]
    variable, assigned, name = head.partition("=")
    if not assigned:
        return CronSchedule(text=text, zone=ZoneInfo("UTC"), fields=read_fields(text))
    if variable not in ("TZ", "CRON_TZ"):
        raise CronInvalid(text, f"it begins with {variable}=; write TZ=Area/City before the fields, or nothing for UTC")
    return CronSchedule(text=text, zone=_zone(text, name), fields=read_fields("".join(rest)))


def _zone(text: str, name: str) -> ZoneInfo:
    if not name.startswith(_NOT_EVERYWHERE):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, not a name at all, a directory
            pass
    near = _nearest_zone(name)
    raise CronInvalid(
        text, f"no zone is named {name!r}; " + (f"did you mean {near}?" if near else "write TZ=Area/City")
    )


def _nearest_zone(name: str) -> str | None:
    """The zone whose name, or the city of it, is spelled most like ``name``."""
    zones = sorted(zone for zone in available_timezones() if not zone.startswith(_NOT_EVERYWHERE))
    spelled = {zone.rpartition("/")[2].lower(): zone for zone in zones} | {zone.lower(): zone for zone in zones}
    near = get_close_matches(name.lower(), spelled, 1)
    return spelled[near[0]] if near else None


def next_of(schedules: Sequence[CronSchedule], after_ms: int) -> tuple[int, CronSchedule]:
    """The next tick of a function, and the first of its schedules that plans it; several at once are one (FN-07)."""
    planned = [schedule.next_after(after_ms) for schedule in schedules]
    return min(planned), schedules[planned.index(min(planned))]


def fire_at(planned_ms: int, jitter_ms: int, seed: bytes) -> int:
    """When a tick fires: up to ``jitter_ms`` after its planned instant, each time the same for the same ``seed``.

    From 2 s of jitter on a tick fires at least 1 s after that instant and 1 s before the end (acceptance A-44).
    """
    least_ms = 1000 if jitter_ms >= 2000 else 0
    digest = hash16(seed, tick_origin(planned_ms))
    return planned_ms + least_ms + int.from_bytes(digest[:8], "big") % (jitter_ms - 2 * least_ms + 1)


def tick_origin(planned_ms: int) -> bytes:
    """What names a tick within its function, as the ``origin`` of its run's id."""
    return b"cron" + planned_ms.to_bytes(8, "big")


def _change_s(zone: ZoneInfo, wall_s: int, before_s: int, after_s: int) -> int:
    """When the offset changes that makes a time on the wall clock missing, or show twice."""
    low_s, high_s = sorted((wall_s - before_s, wall_s - after_s))
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if _seconds(datetime.fromtimestamp(middle_s, zone).utcoffset()) == after_s:
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s


def _seconds(offset: timedelta | None) -> int:
    assert offset is not None, "a zone has an offset at every time"
    return offset.days * 86_400 + offset.seconds
