"""What a partition promises, checked at every commit, start of a body and answer.

P1: an event that was answered is in the log. P2: each accepted event is routed once. P3: one run a function and event
id, within 24 hours and as long as the run is open. P4: a step is recorded once, and not begun after that. P5: a body
begins once, and again only after a failed attempt or a fault that hit it. P6: all attempts of a step have one effect
key. P7: an open run has what wakes it, in the commit that leaves it open.

It reads what the log has committed and nothing of the engine's memory: the changes of a turn go into a plain dict, its
records into one history a run. What a driver does is held against both.
"""

from collections import Counter, deque
from collections.abc import Iterable

import msgspec

from steplog.engine import keys, records
from steplog.engine.effects import Dispatch, Recorded
from steplog.engine.events import RESERVED_PREFIX
from steplog.engine.ids import decode_ulid
from steplog.engine.processor import Turn
from steplog.engine.recent import KEPT_MS
from steplog.engine.run import QUEUED, RUNNING, TERMINAL, WAITING, RunHead, StepState

from .scripts import FAILING, SAME, SMALLER, TAKES_OVER, TOLD, step_hash
from .told import Told

SKEW_MS = 10_000  # events are not accepted in the order of their receipt, within this

_decode_record = msgspec.json.Decoder(records.Record).decode
_decode_event = msgspec.json.Decoder(records.StoredEvent).decode
_decode_head = msgspec.json.Decoder(RunHead).decode
_decode_step = msgspec.json.Decoder(StepState).decode

# what may stand between the end of a wait for a signal and the record of who ended it, who has none if that ended it
_ABOUT_SIGNALS = (
    records.StepCompleted, records.StepFailed, records.StepWaiting, records.RunStarted, records.RunFailed,
)  # fmt: skip


class Broken(AssertionError):
    """A promise does not hold."""


class History(msgspec.Struct):
    """What the journal says of one run."""

    function: str
    due_ms: int  # of its event: no start before
    number: int  # of the event that started it
    arrival: int  # of that event, counted from 0 in the order of the log
    seq: int = 0
    generation: int = 1  # of the last dispatch that the driver got
    begun: int = 1  # the generation of the last dispatch in the log
    over: set[int] = set()  # generations in which the function has returned or raised
    recorded: list[Recorded] = []  # in completion order
    ended: str | None = None
    raised: int = 0  # attempts of the function's own code that failed since the last record
    again_ms: int = 0  # when the function's own code has its next attempt
    lost: int = 0  # starts right after a loss since then
    errors: Counter[str] = msgspec.field(default_factory=Counter)  # step → attempts that failed
    bodies: set[str] = set()  # steps whose bodies have begun
    retry_at_ms: dict[str, int] = {}
    until_ms: dict[str, int] = {}


class Waiting(msgspec.Struct):
    """A step that waits."""

    record: records.StepWaiting
    came: dict[str, list[str]] = {}  # event name, or "" for any → ids of those that it may go on with
    met: set[str] = set()  # those of these names with an event for sure


class Bodies(msgspec.Struct):
    """What the effect probe knows of one step of one run."""

    key: str
    starts: int = 0
    hits: int = 0  # faults that hit it between a start and its record
    lost: int = 0  # processes lost with it since the run's last record
    is_open: bool = False  # started, and nothing of it is recorded yet


class Watch:
    """Everything that is known from outside the engine."""

    def __init__(self, *, retries: dict[str, int], live_runs: int, lost_allowance: int, is_roomy: bool) -> None:
        self._retries, self._live_runs = retries, live_runs
        self._lost_allowance, self._is_roomy = lost_allowance, is_roomy
        self.told = Told(self.expect)
        self.now_ms = 0
        self.state: dict[bytes, bytes] = {}
        self.runs: dict[str, History] = {}
        self._by_id: dict[bytes, History] = {}
        self.kinds: Counter[str] = Counter()  # of records
        self.live = 0  # runs that are dispatched
        self._accepted: set[str] = set()  # internal ids
        self._events: dict[str, records.StoredEvent] = {}  # by internal id
        self._unrouted: deque[records.StoredEvent] = deque()  # written, and their records not read yet
        self._arrived: list[records.StoredEvent] = []  # in the order of the log
        self._claims: dict[tuple[str, str], tuple[int, str]] = {}  # (function, event id) → when, run
        self._bodies: dict[tuple[str, str], Bodies] = {}
        self._effect_keys: dict[str, tuple[str, str]] = {}
        self._wakes: dict[bytes, set[bytes]] = {}
        self._timers: set[bytes] = set()
        self._dispatched: set[bytes] = set()  # runs with a key of kind ``LIVE``
        self._outlived: set[bytes] = set()  # those of them that have ended, and bodies of theirs execute
        self._steps: dict[bytes, dict[bytes, StepState]] = {}
        self._index: dict[bytes, set[bytes]] = {}  # run → keys by which events and signals find its steps
        self._waiting: dict[tuple[str, str], Waiting] = {}  # (run, step) → for what
        self._due: set[tuple[str, str]] = set()  # those that the open turn must end
        self._met: set[tuple[str, str]] = set()  # those that an event must end before the mail is empty
        self._resumed: set[tuple[str, str]] = set()  # (run, step): the open turn says that an event ended its wait
        self._untold: set[tuple[str, str]] = set()  # it does not say so of these
        self._had_mail = False
        self._mail: set[bytes] = set()  # keys of events that go on in later turns
        self.is_hurried = False  # somebody has asked for attempts before their time, and that is not decided yet
        self._asked_for: set[bytes] = set()  # timers of what waited for an attempt then
        self.hurried = 0  # attempts that came before their time
        self._now_ms = 0  # of the last commit
        self._heard_now: list[str] = []  # runs that have gone on with a signal in it
        self._has_listened = False  # a step has begun to wait for a signal in the open turn
        self._heard: dict[str, str] = {}  # signal → run that has just gone on with it, where a run has sent it

    def expect(self, is_so: bool, promise: str, otherwise: str) -> None:
        """Raise ``Broken`` where a promise does not hold."""
        if not is_so:
            raise self._broken(promise, otherwise)

    def _broken(self, promise: str, otherwise: str) -> Broken:
        return Broken(f"{promise} at {self.now_ms}: {otherwise}")

    # --- commits

    def committed(self, turn: Turn) -> None:
        """A turn is in the log."""
        self._now_ms = turn.now_ms
        self._heard_now.clear()
        self._heard.clear()
        for event in turn.events:
            stored = _decode_event(event)
            self._accepted.add(stored.internal_id)
            self._events[stored.internal_id] = stored
            self._unrouted.append(stored)
        for data in turn.records:
            self._read(_decode_record(data))
        self.expect(not self._unrouted, "P2", "an accepted event was not routed in its own commit")
        due = sorted(self._due & self._waiting.keys())
        self.expect(not due, "STEP-12", f"{due} should have gone on with this commit")
        self._due.clear()
        self.expect(not self._resumed, "journal", f"{self._resumed} did not go on with an event")
        if self._has_listened:
            signals = [w.record.signal for w in self._waiting.values() if w.record.signal is not msgspec.UNSET]
            self.expect(len(set(signals)) == len(signals), "signal", f"several steps wait for one: {signals}")
            self._has_listened = False
        touched = self._change(turn.state.changes)
        self._check_mail()
        self.told.committed(turn.now_ms)
        for run in touched:
            self._check_run(run)
            self._check_retries(run, turn.now_ms)
        self.live = len(self._dispatched) - len(self._outlived)
        self.expect(
            self.live <= self._live_runs, "limit", f"{self.live} runs are live, at most {self._live_runs} may be"
        )

    def _read(self, record: records.Record) -> None:
        self.kinds[str(record.__struct_config__.tag)] += 1
        if isinstance(record, records.StepWaiting | records.StepCompleted):
            self.kinds[f"{record.__struct_config__.tag} {record.op}"] += 1
        if not isinstance(record, _ABOUT_SIGNALS):
            self._heard.clear()
        if isinstance(record, records.EventRouted):
            self._route(record)
            return
        if isinstance(record, records.RunScheduled):
            self.expect(record.run not in self.runs, "P3", f"run {record.run} is scheduled twice")
            event = self._events[record.events[0]]
            due_ms = event.ts if event.ts > record.at and event.ts != event.received_at else None
            self.expect((record.due or None) == due_ms, "EVT-06", f"{record.run} is due at {record.due}, not {due_ms}")
            self.told.scheduled(record, event.name)
            number = self._number(event)
            run = History(record.function, due_ms or 0, number, len(self._arrived) - 1)
            self.runs[record.run] = self._by_id[decode_ulid(record.run)] = run
        run = self.runs[record.run]
        run.seq += 1
        self.expect(record.seq == run.seq, "journal", f"{record.run} has record {record.seq}, not {run.seq}")
        is_late = isinstance(record, records.StepLate)
        if run.ended is not None and not is_late:
            raise self._broken("journal", f"{record.run} goes on after its end: {record}")
        match record:
            case records.RunStarted():
                self.expect(record.at >= run.due_ms, "EVT-06", f"{record.run} starts before its event's time")
                is_due = record.at >= run.again_ms or self.is_hurried
                self.expect(is_due, "P5", f"{record.run} is begun again too early")
                run.begun = record.generation
                run.lost += record.reason == "lost"
                self.expect(run.lost < 2, "P5", f"{record.run} is begun at once again and again, whatever it costs")
            case records.StepCompleted():
                self._end_wait(record)
                recorded = Recorded(step_hash(record.step), bytes(record.output), at_ms=record.at)
                self._record(record.run, recorded, record.step)
            case records.StepFailed():
                waiting = self._waiting.pop((record.run, record.step), None)
                if waiting is not None and isinstance(waiting.record.signal, str):
                    self._refused(record, waiting.record.signal)
                self._record(record.run, Recorded(step_hash(record.step), None, record.error, record.at), record.step)
            case records.StepErrored():
                run.errors[record.step] += 1
                run.retry_at_ms[record.step] = record.retry_at
                self.expect(record.retry_at >= record.at, "D4", f"{record.step} of {record.run} is due in the past")
                self._close_body(record.run, record.step)
            case records.StepWaiting():
                run.until_ms[record.step] = record.until
                self._wait(record)
                self._has_listened |= record.signal is not msgspec.UNSET
            case records.RunErrored():
                self._expect_over(record, run)
                is_so = record.attempt == run.raised < self._retries[run.function]
                self.expect(is_so, "ERR-04", f"attempt {record.attempt} of {record.run} is errored, its {run.raised}.")
                run.raised, run.again_ms = run.raised + 1, record.retry_at
                self.hit(record.run)
            case records.RunCompleted() | records.RunFailed():
                if isinstance(record, records.RunCompleted):
                    self._expect_over(record, run)
                run.ended = str(record.__struct_config__.tag)
                self.told.ended(record)
                self._end_run(record)
            case _:
                pass

    def _expect_over(self, record: records.RunErrored | records.RunCompleted, run: History) -> None:
        is_so = run.begun in run.over
        self.expect(is_so, "P4", f"{record.run} has {run.begun} attempts, and one of {run.over} ends the last")

    def _route(self, routed: records.EventRouted) -> None:
        event = self._unrouted.popleft() if self._unrouted else None
        is_next = event is not None and event.internal_id == routed.event
        self.expect(is_next, "P2", f"{routed.event} is routed, and {event} is next")
        assert event is not None, "expected above"
        self._arrived.append(event)
        self._meet(event, {(ref.run, ref.step) for ref in routed.resumed or ()})
        self.kinds["condition failed"] += routed.failed is not msgspec.UNSET
        invoked = {w.record.child for w in self._waiting.values() if isinstance(w.record.child, str)}
        self.told.routed(event, routed, invoked)
        self._start(event, routed)

    def _start(self, event: records.StoredEvent, routed: records.EventRouted) -> None:
        """An event starts runs, and skips functions that one with its id has started before."""
        event_id, name = event.id, event.name
        if name.startswith(RESERVED_PREFIX):
            self.kinds[f"event.routed {name}"] += 1
        for run in routed.runs:
            before = self._claims.get((run.function, event_id))
            self._claims[run.function, event_id] = (routed.at, run.run)
            if before is not None:
                at, earlier = before
                is_free = routed.at - at >= keys.DAY_MS and self.runs[earlier].ended is not None
                self.expect(is_free, "P3", f"{event_id} starts {run.run} beside {earlier} of {run.function}")
        for skip in routed.skipped:
            at, earlier = self._claims[skip.function, event_id]
            is_held = routed.at - at < keys.DAY_MS or self.runs[earlier].ended is None
            self.expect(is_held, "P2", f"{event_id} is skipped by {skip.function} without a reason")

    # --- waits

    def _wait(self, record: records.StepWaiting) -> None:
        """A step waits. One that looks back goes on in this commit, where an event that fits came before (G1)."""
        key, run = (record.run, record.step), self.runs[record.run]
        self._waiting[key] = Waiting(record)
        if record.since is msgspec.UNSET:
            return
        trigger, oldest_ms = self._arrived[run.arrival], record.at - KEPT_MS
        is_cut = record.cut is not msgspec.UNSET
        may_be_cut = not self._is_roomy or trigger.received_at < oldest_ms
        self.expect(may_be_cut or not is_cut, "G1", f"{record.step} of {record.run} looks back to {record.cut} only")
        sure_ms = oldest_ms if self._is_roomy or record.cut is msgspec.UNSET else record.cut + SKEW_MS
        for event in self._arrived[run.arrival + 1 :]:
            if event.received_at >= oldest_ms:
                self._arrive(key, event, is_sure=event.received_at >= sure_ms)
        self.kinds["wait cut short"] += is_cut
        self.kinds["wait ended by what came before"] += key in self._met
        self.kinds["condition failed before"] += record.failed is not msgspec.UNSET
        if key in self._met:
            self._due.add(key)

    def _meet(self, event: records.StoredEvent, told: set[tuple[str, str]]) -> None:
        """An event arrives at all that wait. ``told``: those that go on with it, as its record has it."""
        met_before = set(self._met)
        for key in self._waiting:
            self._arrive(key, event)
        self._resumed |= told
        self._untold |= self._met - met_before - told

    def _check_mail(self) -> None:
        """What an event ends has ended, or goes on with the mail."""
        met = sorted(self._met & self._waiting.keys())
        self.expect(bool(self._mail) or not met, "STEP-12", f"{met} should have gone on")
        self._met.intersection_update(met)
        is_told = not self._untold or self._mail or self._had_mail  # what the mail brings, the event does not tell
        self.expect(bool(is_told), "journal", f"no event tells that it resumes {self._untold}")
        self._untold, self._had_mail = set(), bool(self._mail)
        self.kinds["turn with mail"] += self._had_mail

    def _arrive(self, key: tuple[str, str], event: records.StoredEvent, *, is_sure: bool = True) -> None:
        """The first event that fits ends a wait; of those for several, the last of the first of each.

        An event that may have been forgotten is not ``is_sure``: it may end the wait, or the one after it.
        """
        waiting = self._waiting[key]
        names, are_all = waiting.record.events, waiting.record.all is True
        if names is msgspec.UNSET or event.name not in names:
            return
        number, own, condition = self._number(event), self.runs[key[0]].number, waiting.record.expression
        if condition == FAILING or (condition == SAME and number != own) or (condition == SMALLER and number >= own):
            return
        name = event.name if are_all else ""
        if name not in waiting.met:
            waiting.came.setdefault(name, []).append(event.id)
            waiting.met.update([name] if is_sure else [])
        if len(waiting.met) == (len(set(names)) if are_all else 1):
            self._met.add(key)

    def _end_wait(self, record: records.StepCompleted) -> None:
        """A step goes on: with what it waited for, or because the time is up, and not before."""
        waiting = self._waiting.pop((record.run, record.step), None)
        if waiting is None:
            if record.op == "SendSignal":
                self._hear(record)
            return
        output = msgspec.json.decode(record.output)
        if output is None and record.op != "InvokeFunction":
            is_due = record.at >= waiting.record.until
            self.expect(is_due, "F4", f"{record.step} of {record.run} wakes early")
            is_met = (record.run, record.step) in self._met
            self.expect(not is_met, "G2", f"{record.step} of {record.run} times out, though its event came before")
        elif record.op == "WaitForEvent":
            self._resumed.discard((record.run, record.step))
            are_all = waiting.record.all is True
            found = output if are_all else [output]
            is_so = all(event["id"] in waiting.came.get(event["name"] if are_all else "", ()) for event in found)
            self.expect(is_so, "STEP-08", f"{record.step} of {record.run} goes on with {found}, not {waiting.came}")
        elif record.op == "WaitForSignal":
            if output["data"] == TOLD:
                self._heard[output["signal"]] = record.run
            self._heard_now.append(record.run)

    def _hear(self, record: records.StepCompleted) -> None:
        """A signal was sent: the step that waits for it has gone on, if there is one."""
        heard, signal = msgspec.json.decode(record.output), record.step.rpartition("-")[2]
        listening = [key for key, waiting in self._waiting.items() if waiting.record.signal == signal]
        self.expect(not listening, "signal", f"{listening} wait for {signal} on, which was sent")
        by = self._heard.pop(signal, None)
        self.expect(heard == by, "signal", f"{heard} is said to have heard {signal}, and {by} has")

    def _refused(self, record: records.StepFailed, signal: str) -> None:
        """A step does not wait for a signal any more, because another one does."""
        others = [step for (_, step), waiting in self._waiting.items() if waiting.record.signal == signal]
        is_taken_over = "taken over" in record.error.message
        may_be = any(map(_takes_over, others)) if is_taken_over else bool(others) and not _takes_over(record.step)
        self.expect(may_be, "signal", f"{record.step} of {record.run} fails, and {others} wait for {signal}")

    def heard(self, signal: str, run_id: str | None) -> None:
        """The sender of a signal was told, after the last commit, which run has gone on with it."""
        is_so = run_id is None or run_id in self._heard_now
        self.expect(is_so, "signal", f"{run_id} is said to have heard {signal}, and has not")
        waiting = [w.record for w in self._waiting.values() if w.record.signal == signal]
        is_new = all(record.at == self._now_ms for record in waiting)
        self.expect(is_new or run_id is not None, "signal", f"nobody has heard {signal}, and {waiting} wait for it")

    def _end_run(self, record: records.RunCompleted | records.RunFailed) -> None:
        """Nothing of a run waits any more, and who has invoked it goes on."""
        for key, waiting in list(self._waiting.items()):
            if key[0] == record.run:
                del self._waiting[key]
            elif waiting.record.child == record.run:
                self._due.add(key)
        # one event may end two waits of a run, and the run has no room for what the first brings
        self._resumed = {key for key in self._resumed if key[0] != record.run}

    def _number(self, event: records.StoredEvent) -> int:
        number: int = msgspec.json.decode(event.data).get("n", -1)
        return number

    def _record(self, run_id: str, recorded: Recorded, step: str) -> None:
        run = self.runs[run_id]
        is_first = all(r.step != recorded.step for r in run.recorded)
        self.expect(is_first, "P4", f"{step} of {run_id} is recorded twice")
        run.recorded.append(recorded)
        run.raised = run.lost = 0
        for name in run.bodies:
            self._bodies[run_id, name].lost = 0
        self._close_body(run_id, step)

    def _change(self, changes: dict[bytes, bytes | None]) -> set[bytes]:
        """Apply a turn's changes; returns the runs that they touch."""
        touched: set[bytes] = set()
        for key, value in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
            kind = key[0]
            if kind == keys.TIMER:
                (self._timers.discard if value is None else self._timers.add)(key)
            if self.told.changed(key, value):
                continue
            if kind == keys.RUN:
                run = key[:21]
                if keys.is_step(key):
                    steps = self._steps.setdefault(run, {})
                    if value is None:
                        steps.pop(keys.step_of(key), None)
                    else:
                        steps[keys.step_of(key)] = _decode_step(value)
            elif kind == keys.MAIL:
                (self._mail.discard if value is None else self._mail.add)(key)
                continue
            elif kind == keys.WAIT:
                run = keys.wait_owner(key)[0]
                index = self._index.setdefault(run, set())
                (index.discard if value is None else index.add)(key)
            elif kind in (keys.TIMER, keys.QUEUE, keys.LIVE, keys.ORPHAN, keys.ASK):
                run = _woken_by(key)
                wakes = self._wakes.setdefault(run, set())
                (wakes.discard if value is None else wakes.add)(key)
                if kind == keys.LIVE:
                    (self._dispatched.discard if value is None else self._dispatched.add)(run)
            else:
                continue
            touched.add(run)
        return touched

    def _check_run(self, run: bytes) -> None:
        """P7: an open run has exactly the keys that wake it, one that is over has none."""
        value, place = self.state.get(run), keys.queue(run)
        self._outlived.discard(run)
        found, steps = self._wakes.get(run, set()), self._steps.get(run, {})
        if value is None and self.state.get(place):  # it has not begun: its place in the queue holds it
            self.expect(found == {place} and not steps, "P7", f"{run!r} has not begun: {found} {steps}")
            return
        if value is None:
            left = [*found, *steps, *self._left(run)]
            self.expect(not left, "P7", f"{keys.printed(run)} is gone and leaves {left}" if left else "")
            return
        head = _decode_head(value)
        wanted = {keys.timer(step.due_ms, run, name) for name, step in steps.items() if step.due_ms}
        wanted |= {keys.ask(run, name) for name, step in steps.items() if step.wait and step.wait.is_asking}
        if head.due_ms:
            wanted.add(keys.timer(head.due_ms, run, keys.NO_STEP))
        if head.state == RUNNING or head.state in TERMINAL:
            wanted.add(keys.live(run))
            if head.state in TERMINAL:
                self._outlived.add(run)
            self.expect(head.state == RUNNING or head.due_ms > 0, "P7", f"{run!r} has ended and never leaves")
        elif head.state == QUEUED:
            wanted.add(place)
            self.expect(not self.state.get(place), "P7", f"{run!r} is held twice")
        orphan = keys.orphan(head.function, run)
        if head.state == WAITING and orphan in found:
            wanted.add(orphan)
        self._check_index(run)
        if found != wanted or not (wanted or self._is_answered(steps.values())):
            printed = sorted(map(keys.printed, found ^ wanted)) or "nothing wakes it"
            raise self._broken("P7", f"{keys.printed(run)} is {head.state}; keys too many or too few: {printed}")

    def _left(self, run: bytes) -> set[bytes]:
        """The keys by which events still find the steps of a run that is gone."""
        return self._index.get(run, set())

    def _check_index(self, run: bytes) -> None:
        """Events find exactly the steps of a run that wait for them."""
        steps = self._steps.get(run, {})
        waiting = [step for step in steps.values() if step.state == "waiting"]
        index = {key for step in waiting for key in step.keys if key[0] == keys.WAIT}
        found = self._index.get(run, set())
        if index != found:  # words cost more than the check
            raise self._broken("P7", f"{run!r} is found by {found}, not by {index}")

    def _is_answered(self, steps: Iterable[StepState]) -> bool:
        """Whether a message to one of a run's steps is under way."""
        return False

    def _check_retries(self, run: bytes, now_ms: int) -> None:
        """What has failed, a step or a run, is due again when its time has come, or when somebody asked for it."""
        history = self._by_id[keys.run_id_of(run)]
        if history.ended is not None:
            return
        early = [step.name for step in self._steps.get(run, {}).values() if step.state == "due"]
        early = [name for name in early if history.retry_at_ms.get(name, 0) > now_ms]
        for name in early:
            history.retry_at_ms[name] = now_ms
        if history.again_ms > now_ms and keys.timer(history.again_ms, run, keys.NO_STEP) not in self._timers:
            history.again_ms = now_ms
            early.append("the function")
        if early:
            self.expect(self.is_hurried, "P5", f"{early} of {keys.printed(run)} are due too early")
            self.hurried += len(early)

    def hurry(self) -> None:
        """Somebody asks for every attempt that something waits for."""
        self.is_hurried = True
        self._asked_for |= {timer for timer in self._timers if self._is_backoff(timer)}

    def messages_lost(self) -> None:
        """What was asked for and is not decided is gone."""
        self.is_hurried = False
        self._asked_for.clear()

    def _is_backoff(self, timer: bytes) -> bool:
        run, step = keys.timer_owner(timer)
        if step in (keys.CRON_TICK, keys.NO_STEP):
            return step == keys.NO_STEP and _decode_head(self.state[run]).state == WAITING
        return self._steps[run][step].state == "errored"

    def idle(self, due_ms: int | None) -> None:
        """The engine has nothing to do before ``due_ms``; everything that was asked for is decided."""
        left = sorted(self._asked_for & self._timers)
        self.expect(not left, "P5", f"{left} wait on for an attempt that somebody has asked for")
        self.messages_lost()
        first = min(self._timers, default=None)
        if due_ms != (None if first is None else keys.timer_due_ms(first)):
            raise self._broken("P7", f"the next timer is due at {due_ms}, the log has {first and keys.printed(first)}")
        self.expect(not self._mail, "P7", f"{len(self._mail)} events in the mail do not go on")

    # --- the driver

    def dispatched(self, dispatch: Dispatch) -> None:
        """A driver was told to begin a run, or to go on with it."""
        run = self.runs.get(dispatch.run_id)
        self.expect(run is not None, "P1", f"{dispatch.run_id} is dispatched and not in the log")
        assert run is not None, "expected above"
        self.expect(keys.run_id_of(dispatch.run) == decode_ulid(dispatch.run_id), "P6", "run id and key differ")
        self.expect(self.now_ms >= run.due_ms, "EVT-06", f"{dispatch.run_id} starts before its event's time")
        self.expect(self.now_ms >= run.again_ms, "P5", f"{dispatch.run_id} is begun again too early")
        is_new = dispatch.generation > run.generation or dispatch.generation == 1
        self.expect(is_new, "P4", f"{dispatch.run_id} is dispatched twice with generation {dispatch.generation}")
        run.generation = dispatch.generation

    def delivered(self, run_id: str, place: int, recorded: Recorded) -> None:
        """A result was handed to a function, as its ``place``-th from 0."""
        found = self.runs[run_id].recorded
        if place >= len(found) or found[place] != recorded:
            raise self._broken("P4", f"{run_id} gets {recorded} as result {place}; the log has {found[place:]}")

    def started(self, run_id: str, step: str, attempt: int, key: str) -> int:
        """A step's body begins; returns how often it has begun by now."""
        run = self.runs[run_id]
        run.bodies.add(step)
        body = self._bodies.setdefault((run_id, step), Bodies(key))
        name = f"{step} of {run_id}"
        self.expect(all(r.step != step_hash(step) for r in run.recorded), "P4", f"{name} begins after its record")
        self.expect(body.key == key, "P6", f"{name} has two effect keys")
        self.expect(self._effect_keys.setdefault(key, (run_id, step)) == (run_id, step), "P6", f"{name} shares its key")
        self.expect(attempt == run.errors[step], "P5", f"{name} begins attempt {attempt}, not {run.errors[step]}")
        self.expect(attempt <= self._retries[run.function], "P5", f"{name} begins attempt {attempt}")
        self.expect(self.now_ms >= run.retry_at_ms.get(step, 0), "P5", f"{name} is tried again too early")
        most = self._retries[run.function] + self._lost_allowance
        self.expect(body.lost <= most, "P5", f"{name} begins, which has taken {body.lost} processes with it")
        body.starts += 1
        allowed = 1 + run.errors[step] + body.hits
        self.expect(body.starts <= allowed, "P5", f"{name} begins {body.starts} times, {allowed} were due")
        body.is_open = True
        return body.starts

    def function_over(self, run_id: str, generation: int) -> None:
        """The function of a run returned or raised."""
        self.runs[run_id].over.add(generation)

    def hit(self, run_id: str | None = None, *, is_counted: bool = False) -> None:
        """What a run, or all, executed is lost: bodies may be begun again. ``is_counted``: with their process."""
        for (owner, _), body in self._bodies.items():
            if body.is_open and run_id in (None, owner):
                body.hits += 1
                body.lost += is_counted
                body.is_open = False

    def _close_body(self, run_id: str, step: str) -> None:
        body = self._bodies.get((run_id, step))
        if body is not None:
            body.is_open = False

    # --- senders

    def answered(self, internal_ids: list[str]) -> None:
        """A sender was told that its events are accepted."""
        for event in internal_ids:
            self.expect(event in self._accepted, "P1", f"{event} was answered and is not in the log")

    # --- the end

    def at_rest(self) -> None:
        """Nothing is left to do: every run has ended, and nothing but ids is left of them, and the functions."""
        open_runs = [run_id for run_id, run in self.runs.items() if run.ended is None]
        self.expect(not open_runs, "P7", f"{open_runs} have not ended")
        left = [keys.printed(key) for key in self.state if key[0] not in (keys.SEEN, keys.PATH, keys.FUNCTION)]
        self.expect(not left, "P7", f"left in the state: {left}")
        for run_id, run in self.runs.items():
            is_linear = len({r.step for r in run.recorded}) == len(run.recorded)
            self.expect(is_linear, "P4", f"{run_id} has two results of one step")


def _woken_by(key: bytes) -> bytes:
    """The run that a key wakes."""
    match key[0]:
        case keys.TIMER:
            return keys.timer_owner(key)[0]
        case keys.ASK:
            return keys.ask_owner(key)[0]
        case _:
            return keys.run_of(key)


def _takes_over(step: str) -> bool:
    return step.startswith(TAKES_OVER)
