"""What becomes of a run's steps: results are recorded, in order; errors are tried again; sleeps and back-offs end."""

from typing import assert_never

import msgspec
from msgspec import UNSET, UnsetType

from steplog.engine import effects, keys, records
from steplog.engine.arrivals import Arrivals, LookedBack, Met
from steplog.engine.dispatching import Dispatches, worker_lost
from steplog.engine.draft import Draft, encode
from steplog.engine.endings import Endings
from steplog.engine.events import INVOKED_EVENT, accept_event
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.ids import encode_ulid, hash16, run_id, ulid
from steplog.engine.messages import (
    EventsRead,
    LookBack,
    OpReported,
    SignalAwaited,
    SignalHeard,
    SignalSent,
    TimerFired,
    WaitEnded,
)
from steplog.engine.operations import (
    ErrorInfo,
    EventOut,
    InvokeFunction,
    Lost,
    Produce,
    SendEvent,
    SendSignal,
    Sleep,
    StepError,
    StepRun,
    WaitForEvent,
    WaitForSignal,
    error_info,
)
from steplog.engine.records import Place
from steplog.engine.retry import delay_ms
from steplog.engine.run import TERMINAL, EventWait, Run, StepState
from steplog.engine.runs import Runs
from steplog.engine.signals import Signals
from steplog.engine.waits import Waits
from steplog.errors import ExpressionInvalid, ProduceUnsupported, StepLimitExceeded


class Steps:
    """The steps of all runs."""

    def __init__(
        self, draft: Draft, runs: Runs, waits: Waits, signals: Signals, arrivals: Arrivals, endings: Endings,
        dispatches: Dispatches, registry: Registry, config: EngineConfig,
    ) -> None:  # fmt: skip
        self._draft, self._runs, self._waits, self._signals = draft, runs, waits, signals
        self._arrivals, self._endings, self._dispatches = arrivals, endings, dispatches
        self._registry, self._config = registry, config

    def report(self, message: OpReported) -> None:
        """A driver reports what a step did, or asks for."""
        run = self._runs.get(message.run)
        if run is None:
            return  # the run is over and gone; nothing counts its records any more
        op, key = message.op, message.step
        step = run.steps.get(key)
        if (
            run.head.generation != message.generation
            or run.head.state in TERMINAL
            or (step is not None and (step.state != "due" or step.attempt != message.attempt))
        ):
            self._endings.keep_late(run, message)
            return
        is_new = step is None
        if step is None:
            if len(run.steps) >= self._config.steps_per_run:
                self._endings.fail(run, error_info(StepLimitExceeded(self._config.steps_per_run)))
                return
            step = run.steps[key] = StepState(
                id=message.wire_id, name=message.step_id, op="", state="due", attempt=message.attempt
            )
        step.op = type(op).__name__  # not the one of before, where the function was changed
        if isinstance(op, StepRun):
            self._complete(run, key, step, op.data, op.started_ms, op.ended_ms, is_new=is_new)
            return
        now_ms = self._draft.now_ms
        match op:
            case StepError():
                self._err(run, key, step, op, is_new=is_new)
            case Sleep(until_ms=until, for_ms=for_ms):
                due_ms = now_ms + for_ms if until is None else max(until, 0)
                self._wait(run, key, step, due_ms, is_new=is_new)
            case SendEvent(events=events):
                ids = self._send(run, key, events)
                self._complete(run, key, step, encode(ids), now_ms, now_ms, is_new=is_new)
            case WaitForEvent():
                self._wait_for_event(run, key, step, op, is_new=is_new)
            case WaitForSignal():
                self._wait_for_signal(run, key, step, op, is_new=is_new)
            case SendSignal():
                self._send_signal(run, key, step, op, is_new=is_new)
            case Produce():
                self._produce(run, key, step, op, is_new=is_new)
            case InvokeFunction():
                self._invoke(run, key, step, op, is_new=is_new)
            case Lost():
                step.op = "StepRun"
                self._fail(run, key, step, worker_lost(run), now_ms, now_ms, is_new=is_new)
            case _:
                assert_never(op)

    def fire(self, message: TimerFired) -> None:
        """Go on with what waited. The timer's key is gone already."""
        run = self._runs.get(message.run)
        if run is None:
            return
        if message.step == keys.NO_STEP:
            self._wake(run, message.due_ms)
            return
        step = run.steps.get(message.step)
        if step is None or step.due_ms != message.due_ms or run.is_terminal:
            return
        if step.state == "waiting":
            self._time_out(run, message.step, step)
        elif step.state == "errored":
            step.state, step.due_ms = "due", 0
            self._runs.put_step(run, message.step, step, is_new=False)
            if run.is_live:
                run.retried += (message.step,)
                self._draft.effects.append(effects.Retry(run.key, run.head.generation, message.step, step.attempt))
            else:
                self._dispatches.start(run)

    def resumed_by(self, met: Met) -> tuple[records.StepRef, ...]:
        """The steps that go on with an event, of those that it fits: not those that wait for others as well."""
        found: list[records.StepRef] = []
        for run_key, key in met.steps:
            run = self._runs.get(run_key)
            step = None if run is None else run.steps.get(key)
            if run is None or step is None or step.wait is None or step.wait.is_asking:
                continue
            if not step.wait.all_of or step.wait.met.keys() | {met.name} == set(step.wait.events):
                found.append(records.StepRef(run.id, step.name))
        return tuple(found)

    def meet(self, met: Met) -> None:
        """Resume the steps that an event ends (STEP-12)."""
        event = encode(met.event) if met.steps else b""
        for run_key, key in met.steps:
            run = self._runs.get(run_key)
            step = None if run is None else run.steps.get(key)
            if run is not None and step is not None and step.wait is not None:
                self._meet(run, key, step, step.wait, met.name, event)

    def look_back(self, message: LookBack) -> None:
        """A wait of before asks again for what came before it."""
        run, step = self._waiting(message.run, message.step)
        if run is not None and step is not None and step.wait is not None:
            spots = self._waits.spots(run.key, message.step, step.wait.events, step.wait.if_exp, run.event)
            self._arrivals.ask(run, message.step, step.wait, spots, step.at_ms)

    def looked_back(self, message: EventsRead) -> None:
        """What came before a wait is known: that counts first, then what has come meanwhile, then its time."""
        run, step = self._waiting(message.run, message.step)
        if run is None or step is None or step.wait is None or not step.wait.is_asking:
            return
        key, wait = message.step, step.wait
        looked = self._arrivals.looked_back(run, wait, step.at_ms, message)
        put_by, wait.met = wait.met, {}
        if step.due_ms and (looked.cut_ms or looked.failed):
            self._tell_wait(run, step, wait, looked=looked)
        self._runs.put_step(run, key, step, is_new=False)
        for name, event in [*((name, encode(event)) for name, event in looked.found), *put_by.items()]:
            self._meet(run, key, step, wait, name, bytes(event))
            if step.wait is None:
                return
        if not step.due_ms:
            self._time_out(run, key, step)

    def hear(self, message: SignalHeard) -> None:
        """The signal that a step waits for was sent."""
        run, step = self._waiting(message.run, message.step)
        if run is None or step is None:  # its time was up meanwhile
            self._signals.answer(message.sent, None)
            return
        self._signals.answer(message.sent, run.id)
        step.keys = ()  # the signal's owner knows
        began_ms = self._stop_waiting(run, message.step, step)
        heard = encode({"signal": message.sent.signal, "data": msgspec.Raw(message.sent.data)})
        self._complete(run, message.step, step, heard, began_ms, self._draft.now_ms, is_new=False)

    def end_wait(self, message: WaitEnded) -> None:
        """What a step waits for has come, or never will."""
        run, step = self._waiting(message.run, message.step)
        if run is None or step is None:
            return
        began_ms, now_ms = self._stop_waiting(run, message.step, step), self._draft.now_ms
        if message.error is not None:
            self._fail(run, message.step, step, message.error, began_ms, now_ms, is_new=False)
        else:
            self._complete(run, message.step, step, message.output or b"null", began_ms, now_ms, is_new=False)

    def _waiting(self, run_key: bytes, key: bytes) -> tuple[Run | None, StepState | None]:
        """A step, where it still waits."""
        run = self._runs.get(run_key)
        step = None if run is None or run.is_terminal else run.steps.get(key)
        return run, step if step is not None and step.state == "waiting" else None

    def _wake(self, run: Run, due_ms: int) -> None:
        """The run's own timer: its start, its retry, or the time at which nothing of it executes any more."""
        if run.head.due_ms != due_ms:
            return
        run.head.due_ms = 0
        if run.is_terminal:
            self._runs.remove(run)
        else:
            self._dispatches.start(run)

    def _complete(
        self, run: Run, key: bytes, step: StepState, data: bytes, started_ms: int, ended_ms: int, *, is_new: bool
    ) -> None:
        step.state, step.data = "completed", msgspec.Raw(data)
        step.seq = run.next_seq()
        self._draft.journal(
            records.StepCompleted(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                op=step.op, attempt=step.attempt, started=started_ms, ended=ended_ms, output=step.data,
            )
        )  # fmt: skip
        self._record(run, key, step, data, is_new=is_new)

    def _err(self, run: Run, key: bytes, step: StepState, op: StepError, *, is_new: bool) -> None:
        """A step's body raised: it has another attempt later, or fails."""
        step.op = "StepRun"
        retries = self._registry.by_id[run.head.function].retries if op.retries is None else op.retries
        if op.final or step.attempt >= retries:
            self._fail(run, key, step, op.error, op.started_ms, op.ended_ms, is_new=is_new)
            return
        failed_attempt = step.attempt
        step.attempt += 1
        wait = delay_ms(
            self._config.retry, step.attempt, asked_ms=op.retry_after_ms, seed=keys.run_id_of(run.key) + key
        )
        step.state, step.due_ms, step.seq = "errored", self._draft.now_ms + wait, run.next_seq()
        self._draft.journal(
            records.StepErrored(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                op=step.op, attempt=failed_attempt, started=op.started_ms, ended=op.ended_ms, error=op.error,
                retry_at=step.due_ms, max_attempts=retries + 1,
            )
        )  # fmt: skip
        self._runs.set_step_timer(run, key, step)
        self._runs.put_step(run, key, step, is_new=is_new)
        self._draft.effects.append(effects.Backoff(run.key, run.head.generation, key, step.attempt, step.due_ms))

    def _fail(
        self, run: Run, key: bytes, step: StepState, error: ErrorInfo, started_ms: int, ended_ms: int, *, is_new: bool
    ) -> None:
        step.state, step.error = "failed", error
        step.seq = run.next_seq()
        self._draft.journal(
            records.StepFailed(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                op=step.op, attempt=step.attempt, started=started_ms, ended=ended_ms, error=error,
            )
        )  # fmt: skip
        self._record(run, key, step, None, is_new=is_new)

    def _wait(
        self, run: Run, key: bytes, step: StepState, until_ms: int, *, is_new: bool,
        wait: EventWait | None = None, looked: LookedBack | None = None, signal: str | UnsetType = UNSET,
        function: str | UnsetType = UNSET, child: str | UnsetType = UNSET,
    ) -> None:  # fmt: skip
        """Let a step wait until a time, or until something comes before."""
        step.state, step.due_ms, step.at_ms = "waiting", until_ms, self._draft.now_ms
        self._tell_wait(run, step, wait, looked=looked, signal=signal, function=function, child=child)
        self._runs.set_step_timer(run, key, step)
        self._runs.put_step(run, key, step, is_new=is_new)

    def _tell_wait(
        self, run: Run, step: StepState, wait: EventWait | None, *, looked: LookedBack | None = None,
        signal: str | UnsetType = UNSET, function: str | UnsetType = UNSET, child: str | UnsetType = UNSET,
    ) -> None:  # fmt: skip
        step.seq = run.next_seq()
        self._draft.journal(
            records.StepWaiting(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id, op=step.op,
                until=step.due_ms, events=UNSET if wait is None else wait.events,
                all=True if wait is not None and wait.all_of else UNSET,
                expression=UNSET if wait is None or wait.if_exp is None else wait.if_exp, signal=signal,
                function=function, child=child, since=UNSET if looked is None else "trigger",
                cut=UNSET if looked is None else looked.cut_ms or UNSET,
                failed=UNSET if looked is None else looked.failed,
            )
        )  # fmt: skip

    def _stop_waiting(self, run: Run, key: bytes, step: StepState) -> int:
        """Take a step's timer and its keys in the index away; returns since when it has waited."""
        if step.due_ms:
            self._draft.state.delete(keys.timer(step.due_ms, run.key, key))
        self._endings.leave_index(run, key, step)
        return step.at_ms

    def _time_out(self, run: Run, key: bytes, step: StepState) -> None:
        """The time of a wait is up; its timer is gone already."""
        now_ms = self._draft.now_ms
        if step.wait is not None and step.wait.is_asking:
            step.due_ms = 0  # what came before may end it still
            self._runs.put_step(run, key, step, is_new=False)
            return
        if step.wait is not None:
            for name, event in self._arrivals.mailed_for(run, step.wait):
                self._meet(run, key, step, step.wait, name, encode(event))
                if step.wait is None:
                    return  # it came in time
        self._endings.leave_index(run, key, step)
        if step.op == "InvokeFunction":
            self._fail(run, key, step, _INVOKE_TIMED_OUT, step.at_ms, now_ms, is_new=False)
            return
        step.wait = None
        self._complete(run, key, step, b"null", step.at_ms, now_ms, is_new=False)

    def _wait_for_event(self, run: Run, key: bytes, step: StepState, op: WaitForEvent, *, is_new: bool) -> None:
        try:
            spots = self._waits.arm(run.key, key, op.events, op.if_exp, run.event)
        except ExpressionInvalid as error:
            self._endings.fail(run, ErrorInfo(name="InvalidExpression", message=str(error)))
            return
        step.keys = tuple([spot.key for spot in spots])
        since = _after(run.head.place) if op.is_since_trigger else self._draft.next_place
        wait = step.wait = EventWait(
            events=op.events, all_of=op.all_of, if_exp=op.if_exp, since=since, trigger=self._arrivals.trigger_of(run)
        )
        looked = self._arrivals.look_back(run, key, wait, spots) if op.is_since_trigger else None
        self._wait(run, key, step, self._draft.now_ms + op.timeout_ms, is_new=is_new, wait=wait, looked=looked)
        for name, event in looked.found if looked is not None else ():
            self._meet(run, key, step, wait, name, encode(event))

    def _meet(self, run: Run, key: bytes, step: StepState, wait: EventWait, name: str, event: bytes) -> None:
        """An event that a step waits for has come: the step ends, unless it waits for others as well."""
        if wait.is_asking:
            if wait.all_of or not wait.met:
                wait.met.setdefault(name, msgspec.Raw(event))
                self._runs.put_step(run, key, step, is_new=False)
            return
        if wait.all_of:
            if name in wait.met:
                return
            wait.met[name] = msgspec.Raw(event)
            if len(wait.met) < len(set(wait.events)):
                self._runs.put_step(run, key, step, is_new=False)
                return
            event = encode([wait.met[name] for name in wait.events])
        began_ms = self._stop_waiting(run, key, step)
        step.wait = None
        self._complete(run, key, step, event, began_ms, self._draft.now_ms, is_new=False)

    def _wait_for_signal(self, run: Run, key: bytes, step: StepState, op: WaitForSignal, *, is_new: bool) -> None:
        env = keys.env_of(run.key)
        step.keys = (keys.signal(env, op.signal),)
        self._wait(run, key, step, self._draft.now_ms + op.timeout_ms, is_new=is_new, signal=op.signal)
        awaited = SignalAwaited(env=env, signal=op.signal, run=run.key, step=key, replaces=op.replaces)
        self._signals.tell(env, op.signal, awaited)

    def _send_signal(self, run: Run, key: bytes, step: StepState, op: SendSignal, *, is_new: bool) -> None:
        """Send a signal; the step ends when its owner has said which run it resumes."""
        env = keys.env_of(run.key)
        step.state, step.at_ms = "waiting", self._draft.now_ms
        self._runs.put_step(run, key, step, is_new=is_new)
        self._signals.tell(env, op.signal, SignalSent(env=env, signal=op.signal, data=op.data, sender=(run.key, key)))

    def _produce(self, run: Run, key: bytes, step: StepState, op: Produce, *, is_new: bool) -> None:
        """Have a record written to its topic in the step's own commit. Where it will stand there is not known yet."""
        now_ms = self._draft.now_ms
        if not self._config.can_produce:
            self._fail(run, key, step, _NO_TOPICS, now_ms, now_ms, is_new=is_new)
            return
        self._draft.produced.append(op)
        record = {"topic": op.topic, "key": None if op.key is None else op.key.decode(errors="replace")}
        self._complete(run, key, step, encode(record), now_ms, now_ms, is_new=is_new)

    def _invoke(self, run: Run, key: bytes, step: StepState, op: InvokeFunction, *, is_new: bool) -> None:
        """Start one function for a step, which waits for its result (STEP-13)."""
        env, now_ms = keys.env_of(run.key), self._draft.now_ms
        if op.function not in self._registry.by_id:
            error = ErrorInfo(name="Error", message=f"could not find function with ID: {op.function}")
            self._fail(run, key, step, error, now_ms, now_ms, is_new=is_new)
            return
        digest = hash16(run.key, key)
        event = accept_event(
            EventOut(name=INVOKED_EVENT, data=op.data, v=op.v, user=op.user), ulid(now_ms, digest[:10]), env=env,
            received_ms=now_ms, source="step", starts=op.function, origin=digest, parent=(run.key, key),
        )  # fmt: skip
        child = encode_ulid(run_id(now_ms, event.slot, env, op.function, digest))
        self._draft.accept(event)
        self._wait(run, key, step, now_ms + op.timeout_ms, is_new=is_new, function=op.function, child=child)

    def _send(self, run: Run, key: bytes, events: tuple[EventOut, ...]) -> list[str]:
        """Accept the events of a step in the step's own commit. Their ids derive from (run, step, index)."""
        env, now_ms, ids = keys.env_of(run.key), self._draft.now_ms, []
        for index, event in enumerate(events):
            digest = hash16(run.key, key, index.to_bytes(4, "big"))
            internal = ulid(now_ms, digest[:10])
            ids.append(encode_ulid(internal))
            self._draft.accept(accept_event(event, internal, env=env, received_ms=now_ms, source="step"))
        return ids

    def _record(self, run: Run, key: bytes, step: StepState, data: bytes | None, *, is_new: bool) -> None:
        """Give a result its place in the run's completion order, and hand it to the function."""
        now_ms, head = self._draft.now_ms, run.head
        step.stack, step.due_ms, step.at_ms = run.recorded, 0, now_ms
        run.recorded += 1
        if data is not None:
            run.size_bytes += len(data)
        if head.lost or head.attempt or head.is_poisoned:
            head.lost, head.attempt, head.is_poisoned = 0, 0, False
            self._runs.put_head(run)
        self._runs.put_step(run, key, step, is_new=is_new)
        if run.size_bytes > self._config.run_state_bytes:
            self._endings.fail_too_large(run, run.size_bytes)
        elif run.is_live:
            recorded = effects.Recorded(key, data, step.error, now_ms)
            self._draft.effects.append(effects.Resume(run.key, head.generation, recorded))
        else:
            self._dispatches.start(run)


_NO_TOPICS = error_info(ProduceUnsupported())
_INVOKE_TIMED_OUT = ErrorInfo(
    name="InngestInvokeTimeoutError", message="Timed out waiting for invoked function to complete"
)


def _after(place: Place) -> Place:
    return place[0], place[1] + 1
