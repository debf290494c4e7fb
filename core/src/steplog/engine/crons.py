"""When the crons of functions are due: one planned tick of each function is kept, with its timer (GAP-04, FN-07)."""

from datetime import UTC, datetime

import msgspec

from steplog.engine import keys
from steplog.engine.cron import CronSchedule, fire_at, next_of, parse_cron, tick_origin
from steplog.engine.draft import Draft, encode
from steplog.engine.events import TIMER_EVENT, accept_event
from steplog.engine.functions import CronTrigger, FunctionSpec, Registry
from steplog.engine.ids import hash16, slot_of, ulid
from steplog.engine.messages import TimerFired
from steplog.engine.operations import EventOut

MISSED_AFTER_MS = 60_000  # a tick that is later than this was missed: what runs then is said by ``catch_up``


class _Planned(msgspec.Struct, array_like=True):
    """The value of ``cron/…``."""

    function: str
    crons: list[CronTrigger]
    planned_ms: int
    due_ms: int  # with jitter


_decoder = msgspec.json.Decoder(_Planned)


class Crons:
    """Starts functions at the ticks of their crons."""

    def __init__(self, draft: Draft, registry: Registry) -> None:
        self._draft, self._registry = draft, registry
        self._schedules: dict[str, CronSchedule] = {}

    def plan(self, env: int) -> None:
        """Plan the first tick of crons that are new or have changed; forget those of before."""
        state = self._draft.state
        for function in self._registry.by_id.values():
            crons, key = _crons_of(function), keys.cron(env, function.id)
            if not self._draft.is_here(slot_of(keys.cron_hash(key))):
                continue
            value = state.get(key)
            before = None if value is None else _decoder.decode(value)
            if before is not None and before.crons != crons:
                state.delete(keys.cron_timer(before.due_ms, key))
                state.delete(key)
            if crons and (before is None or before.crons != crons):
                self._put(key, function.id, crons, self._draft.now_ms)

    def fire(self, message: TimerFired) -> None:
        """A tick is due, or was missed: start the function, and plan the next.

        It is due by the plan of before where the crons have changed since (FAULT-F7).
        """
        key = keys.cron_of(message.run)
        value = self._draft.state.get(key)
        if value is None:
            return
        tick = _decoder.decode(value)
        function = self._registry.by_id.get(tick.function)
        crons = [] if function is None else _crons_of(function)
        if not crons:  # it is planned anew when it comes back
            self._draft.state.delete(key)
            return
        now_ms = self._draft.now_ms
        was_missed = now_ms - tick.due_ms > MISSED_AFTER_MS
        for planned_ms in self._missed(tick, now_ms) if was_missed else [tick.planned_ms]:
            self._start(keys.env_of(key), tick, planned_ms)
        is_current = crons == tick.crons and not was_missed
        self._put(key, tick.function, crons, tick.planned_ms if is_current else now_ms)

    def _missed(self, tick: _Planned, now_ms: int) -> list[int]:
        found: set[int] = set()
        for cron in tick.crons:
            found.update(self._schedule(cron).missed(tick.planned_ms - 1, now_ms, cron.catch_up))
        return sorted(found)

    def _start(self, env: int, tick: _Planned, planned_ms: int) -> None:
        """Accept the event of a tick. Its id, and the run's, are made from the planned instant: it starts one run."""
        now_ms, origin = self._draft.now_ms, tick_origin(planned_ms)
        cron = next(c for c in tick.crons if self._schedule(c).next_after(planned_ms - 1000) == planned_ms)
        data = {"cron": cron.cron, "scheduledAt": _rfc3339(planned_ms), "fireAt": _rfc3339(now_ms)}
        self._draft.accept(
            accept_event(
                EventOut(name=TIMER_EVENT, data=encode(data), id=_rfc3339(planned_ms), ts=now_ms),
                ulid(now_ms, hash16(tick.function.encode(), origin)[:10]), env=env, received_ms=now_ms, source="cron",
                starts=tick.function, origin=origin,
            )
        )  # fmt: skip

    def _put(self, key: bytes, function: str, crons: list[CronTrigger], after_ms: int) -> None:
        planned_ms, schedule = next_of([self._schedule(cron) for cron in crons], after_ms)
        jitter_ms = next(cron.jitter_ms for cron in crons if self._schedule(cron) is schedule)
        due_ms = fire_at(planned_ms, jitter_ms, function.encode())
        self._draft.state.put(key, encode(_Planned(function, crons, planned_ms, due_ms)))
        self._draft.state.put(keys.cron_timer(due_ms, key), b"")

    def _schedule(self, cron: CronTrigger) -> CronSchedule:
        found = self._schedules.get(cron.cron)
        if found is None:
            found = self._schedules[cron.cron] = parse_cron(cron.cron)
        return found


def _crons_of(function: FunctionSpec) -> list[CronTrigger]:
    return [trigger for trigger in function.triggers if isinstance(trigger, CronTrigger)]


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
