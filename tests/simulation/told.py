"""What an event starts, and what the engine tells by itself: failures, ends and the ticks of crons.

P2: an event starts each function that is registered for it, and no other. Every failed run is told once in the commit
that ends it (ERR-13); so is every end, where a function asks for it (SYS-04). A cron starts its function once at each
tick, in order, and leaves out only what its ``catch_up`` says (GAP-04). A function's version counts its configurations
(FN-22).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from steplog.engine import events, keys, records
from steplog.engine.crons import MISSED_AFTER_MS
from steplog.engine.events import FAILED_EVENT, FINISHED_EVENT
from steplog.engine.functions import CronTrigger, EventTrigger, FunctionSpec

ODD = "event.data.n == 1"  # the condition of triggers
PERIODS_MS = {"* * * * *": 60_000, "*/5 * * * *": 300_000, "0 */4 * * *": 14_400_000}  # cron → between two ticks


class Planned(msgspec.Struct, array_like=True):
    """What the state has of a cron's next tick."""

    function: str
    crons: msgspec.Raw
    planned_ms: int
    due_ms: int


class Version(msgspec.Struct, array_like=True):
    """What the state has of a function's newest configuration."""

    number: int
    configuration: msgspec.Raw


_decode_planned = msgspec.json.Decoder(Planned).decode
_decode_version = msgspec.json.Decoder(Version).decode


class Told:
    """Checks what the engine tells; ``expect`` raises."""

    def __init__(self, expect: Callable[[bool, str, str], None]) -> None:
        self._expect = expect
        self._registered: dict[str, FunctionSpec] = {}
        self._configurations: dict[str, list[FunctionSpec]] = {}  # function → those in the log, one after the other
        self._versions: dict[bytes, int] = {}  # by key
        self._are_versions_new = False
        self._quiet: set[str] = set()  # runs that a failure or an end started
        self._ended: list[str] = []  # in this commit, of those that are told
        self._failed: list[str] = []
        self._told: dict[str, list[str]] = {FAILED_EVENT: [], FINISHED_EVENT: []}
        self._has_crons = False
        self._ticks: dict[str, int] = {}  # function → the last one that has started it
        self._crons: dict[bytes, Planned] = {}  # by key
        self._fired: list[Planned] = []  # ticks after which others were planned in this commit
        self._timers: set[bytes] = set()  # of crons

    def register(self, functions: Sequence[FunctionSpec]) -> None:
        """These functions are there from now on; a cron that goes, or comes, is planned anew."""
        before, self._registered = self._registered, {f.id: f for f in functions}
        self._has_crons = any(map(_cron, functions))
        self._are_versions_new = True
        for id_ in self._ticks.keys() - {id_ for id_, f in self._registered.items() if before.get(id_) == f}:
            del self._ticks[id_]

    def scheduled(self, record: records.RunScheduled, event: str) -> None:
        """An event of some name has started a run."""
        number = self._version(record.function)
        is_so = record.function_version == number
        self._expect(is_so, "FN-22", f"{record.run} has version {record.function_version}, {number} is the newest")
        if event in (FAILED_EVENT, FINISHED_EVENT):
            self._quiet.add(record.run)

    def ended(self, record: records.RunCompleted | records.RunFailed) -> None:
        """A run is over."""
        if record.run not in self._quiet:
            self._ended.append(record.run)
            if isinstance(record, records.RunFailed):
                self._failed.append(record.run)

    def routed(self, event: records.StoredEvent, routed: records.EventRouted, invoked: set[str]) -> None:
        """An event was routed. ``invoked``: the runs that steps wait for."""
        started = [run.function for run in routed.runs] + [skip.function for skip in routed.skipped]
        data = msgspec.json.decode(event.data)
        wanted = [f.id for f in self._registered.values() if _is_triggered(f, event.name, data)]
        match event.name:
            case events.FAILED_EVENT:
                self._told[FAILED_EVENT].append(data["run_id"])
                handled = data["function_id"]
                wanted += [f.id for f in self._registered.values() if f.failure_of == handled and f.id not in wanted]
            case events.FINISHED_EVENT:
                self._told[FINISHED_EVENT].append(data["run_id"])
            case events.INVOKED_EVENT:
                is_so = len(started) == len(routed.runs) == 1 and routed.runs[0].run in invoked
                self._expect(
                    is_so, "STEP-13", f"the invocation {event.id} starts {routed.runs}, steps wait for {invoked}"
                )
                return
            case events.TIMER_EVENT:
                is_so = len(started) == len(routed.runs) == 1
                self._expect(is_so, "FN-07", f"the tick {event.id} starts {started}, skips {routed.skipped}")
                self._tick(started[0], event, routed.at)
                return
        self._expect(Counter(started) == Counter(wanted), "P2", f"{event.name} starts {started}, not {wanted}")

    def changed(self, key: bytes, value: bytes | None) -> bool:
        """A key has changed; returns whether it is one of a cron's or a function's."""
        if key[0] == keys.FUNCTION and value is not None:
            self._versions[key] = _decode_version(value).number
            self._are_versions_new = True
        elif key[0] == keys.CRON:
            if value is None:
                self._crons.pop(key, None)
            else:
                planned = _decode_planned(value)
                before = self._crons.get(key)
                if before is not None and before.crons == planned.crons:
                    self._fired.append(before)
                self._crons[key] = planned
        elif key[0] == keys.TIMER and keys.timer_owner(key)[1] == keys.CRON_TICK:
            (self._timers.discard if value is None else self._timers.add)(key)
        else:
            return False
        return True

    def committed(self, now_ms: int) -> None:
        """A commit has told all that it decided."""
        failed, finished = self._told[FAILED_EVENT], self._told[FINISHED_EVENT]
        if self._failed or failed:
            self._expect(sorted(failed) == sorted(self._failed), "ERR-13", f"told: {failed}, failed: {self._failed}")
        if self._ended or finished:
            is_asked = any(_is_triggered(f, FINISHED_EVENT, {}) for f in self._registered.values())
            wanted = self._ended if is_asked else []
            self._expect(sorted(finished) == sorted(wanted), "SYS-04", f"told: {finished}, ended: {wanted}")
        for tick in self._fired:
            cron = _cron(self._registered[tick.function])
            may_be_left_out = cron is None or (cron.catch_up == "skip" and now_ms - tick.due_ms > MISSED_AFTER_MS)
            is_so = may_be_left_out or self._ticks.get(tick.function, 0) >= tick.planned_ms
            self._expect(is_so, "FN-05", f"the tick at {tick.planned_ms} of {tick.function} has started nothing")
        for told in (self._failed, self._ended, failed, finished, self._fired):
            told.clear()
        self._expect_timers()
        if self._are_versions_new:
            self._are_versions_new = False
            self._expect_versions()

    def _expect_timers(self) -> None:
        """Every cron has one tick planned, with its timer."""
        if not (self._crons or self._timers or self._has_crons):
            return
        timers = {keys.cron_timer(cron.due_ms, key) for key, cron in self._crons.items()}
        self._expect(self._timers == timers, "P7", f"crons have the timers {self._timers}, not {timers}")
        unplanned = [f.id for f in self._registered.values() if _cron(f) and keys.cron(0, f.id) not in self._crons]
        self._expect(not unplanned, "P7", f"no tick of {unplanned} is planned")

    def _expect_versions(self) -> None:
        """The log has the version of every function."""
        for id_, function in self._registered.items():
            number, found = self._version(id_), self._versions.get(keys.function(0, id_))
            known = self._configurations.setdefault(id_, [])
            if number > len(known):
                known.append(function)
            self._expect(found == number, "FN-22", f"{id_} has version {found} in the log, {number} is the newest")

    def _version(self, id_: str) -> int:
        known = self._configurations.get(id_, [])
        return len(known) + (not known or known[-1] != self._registered[id_])

    def _tick(self, function: str, event: records.StoredEvent, at_ms: int) -> None:
        cron = _cron(self._registered[function])
        assert cron is not None, f"{function} has no cron, and was started by one"
        period_ms, planned_ms = PERIODS_MS[cron.cron], _instant_ms(event.id)
        last_ms = self._ticks.get(function)
        self._ticks[function] = planned_ms
        name = f"tick {event.id} of {function}"
        self._expect(planned_ms % period_ms == 0, "FN-05", f"{name} is none of {cron.cron}")
        self._expect(at_ms >= planned_ms, "FN-05", f"{name} comes early, at {at_ms}")
        was_missed = at_ms - planned_ms > MISSED_AFTER_MS + cron.jitter_ms
        if was_missed:
            self._expect(cron.catch_up != "skip", "GAP-04", f"{name} was missed, and is not skipped")
            is_newest = cron.catch_up == "all" or planned_ms + period_ms > at_ms
            self._expect(is_newest, "GAP-04", f"{name} was missed, and is not the last one")
        if last_ms is None or planned_ms == last_ms + period_ms:
            return
        self._expect(planned_ms > last_ms, "FN-07", f"{name} comes after that of {last_ms}")
        may_be_left_out = cron.catch_up != "all" and at_ms - last_ms - period_ms > MISSED_AFTER_MS
        self._expect(may_be_left_out, "GAP-04", f"{name} follows that of {last_ms}: one is left out")


def _is_triggered(function: FunctionSpec, event: str, data: dict[str, object]) -> bool:
    """Whether an event starts a function by its name, and by the one condition that triggers have here."""
    return any(
        trigger.event == event and (trigger.if_exp is None or data.get("n") == 1)
        for trigger in function.triggers
        if isinstance(trigger, EventTrigger)
    )


def _cron(function: FunctionSpec) -> CronTrigger | None:
    return next((trigger for trigger in function.triggers if isinstance(trigger, CronTrigger)), None)


def _instant_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000
