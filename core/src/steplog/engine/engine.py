"""Decides messages: how owners change, what is written, what happens after.

One ``apply`` handles one message. It changes the state, appends journal records and asks for effects; nothing of that
is visible outside before the turn that holds it is committed. The engine keeps open runs in memory until their last
write is in the table, so reading one back never merges (``engine/state.py``).
"""

from collections import deque
from collections.abc import Sequence
from typing import assert_never

import msgspec

from steplog.engine import effects, keys, records
from steplog.engine.effects import Effect
from steplog.engine.events import accept_event
from steplog.engine.functions import ENVIRONMENTS, EngineConfig, FunctionSpec, Registry
from steplog.engine.ids import decode_ulid, encode_ulid, hash16, run_id, ulid
from steplog.engine.messages import (
    Adopt,
    DispatchLost,
    Drain,
    EventAccepted,
    Message,
    OpReported,
    RunParked,
    RunReported,
    SweepSeen,
    TimerFired,
)
from steplog.engine.operations import ErrorInfo, EventOut, Lost, SendEvent, Sleep, StepError, StepRun
from steplog.engine.retry import delay_ms, lost_delay_ms
from steplog.engine.run import (
    COMPLETED,
    FAILED,
    QUEUED,
    RUNNING,
    SCHEDULED,
    WAITING,
    Run,
    RunHead,
    StepState,
    read_run,
    recorded,
)
from steplog.engine.state import State

PUMPED_PER_TURN = 1_000  # runs taken from the queue in one turn
SWEPT_PER_TURN = 500
OUTLIVED_MS = 7_200_000  # the longest execution of a step (LIM-02)
DAY_MS = keys.DAY_MS

_encode = msgspec.json.Encoder().encode
_seen_decoder = msgspec.json.Decoder(tuple[str, int])  # run id, when first seen in ms


class Engine:
    """The owners of one partition."""

    def __init__(self, state: State, registry: Registry, config: EngineConfig) -> None:
        self.state, self._registry, self._config = state, registry, config
        self._runs: dict[bytes, Run] = {}
        self._idle: deque[tuple[int, bytes]] = deque()  # (last turn, run key) of runs that may leave memory
        self._live = 0
        self._turn = 0
        self._now_ms = 0
        self._unswept: dict[int, int] = {}  # environment → the first day whose ids no sweep has met yet
        self.records: list[bytes] = []
        self.events: list[bytes] = []
        self.effects: list[Effect] = []
        self.follow_ups: list[Message] = []  # to be decided by a later turn

    @property
    def live_runs(self) -> int:
        """How many runs are dispatched."""
        return self._live

    def begin(self, turn: int, now_ms: int) -> None:
        """Start a turn."""
        self._turn, self._now_ms = turn, now_ms

    def recover(self, *, is_counted: bool = True) -> list[Message]:
        """What has to be decided first: the dispatches that were in flight when the log was last written."""
        was_drained = self.state.get(keys.DRAINED) is not None
        if was_drained:
            self.state.delete(keys.DRAINED)
        found: list[Message] = []
        for key, _ in self.state.owned(bytes([keys.LIVE])):
            run = self._run(keys.run_of(key))
            if run is None or run.is_terminal:  # bodies that outlived their run are gone with their process
                self.state.delete(key)
                if run is not None:
                    self._remove(run)
                continue
            run.is_live = True
            self._live += 1
            found.append(DispatchLost(run=run.key, counted=is_counted and not was_drained))
        for env in ENVIRONMENTS:
            for function in self._registry.by_id:
                orphans = self.state.owned(keys.orphans(env, function))
                found.extend(Adopt(run=keys.run_of(key), function=function) for key, _ in orphans)
            for key, _ in self.state.scan(keys.seen_env(env), 1):
                self._unswept[env] = keys.seen_day_of(key)
            found.append(SweepSeen(env=env))
        return found

    def apply(self, message: Message) -> None:
        """Decide one message."""
        match message:
            case OpReported():
                self._report_op(message)
            case EventAccepted():
                self._accept(message)
            case RunReported():
                self._report_run(message)
            case TimerFired():
                self._fire(message)
            case RunParked():
                self._park(message)
            case DispatchLost():
                self._lose(message)
            case Adopt():
                self._adopt(message)
            case Drain():
                self.state.put(keys.DRAINED, b"1")
            case SweepSeen():
                self._sweep_seen(message.env)
            case _:
                assert_never(message)

    def pump(self) -> bool:
        """Give free places to the runs that wait. Returns whether more could be given at once."""
        state, places = self.state, self._config.live_runs
        while (key := state.first(keys.QUEUE)) is not None:
            free = places - self._live
            if free <= 0:
                self.effects.append(effects.MakeRoom(1 + places // 10))
                return False
            chosen: list[bytes] = []
            while key is not None and len(chosen) < min(free, PUMPED_PER_TURN):
                state.delete(key)
                chosen.append(keys.run_of(key))
                key = state.first(keys.QUEUE)
            self.preload(chosen)
            for run_key in chosen:
                run = self._run(run_key)
                if run is not None and run.head.state == QUEUED:
                    self._dispatch(run, _reason(run))
            if len(chosen) == PUMPED_PER_TURN:
                return True
        return False

    def forget_idle(self) -> None:
        """Let runs leave memory that nothing executes and that the table has whole."""
        oldest, idle, runs = self.state.oldest_turn, self._idle, self._runs
        while idle and (oldest is None or idle[0][0] < oldest):
            last_turn, key = idle.popleft()
            run = runs.get(key)
            if run is not None and run.last_turn == last_turn and not run.is_live:
                del runs[key]

    # --- events

    def _accept(self, event: EventAccepted) -> None:
        self.events.append(event.body)
        started: list[records.RunRef] = []
        skipped: list[records.Skip] = []
        functions = self._registry.triggered_by(event.name)
        scheduled: list[tuple[bytes, str, FunctionSpec]] = []
        for function in functions:
            run = run_id(event.received_ms, event.slot, event.env, function.id, event.internal_id)
            if event.is_repeatable and not self._claim(event, function.id, run):
                skipped.append(records.Skip(function.id, "duplicate"))
                continue
            run_text = encode_ulid(run)
            started.append(records.RunRef(run_text, function.id))
            scheduled.append((keys.run(event.env, run), run_text, function))
        env = ENVIRONMENTS[event.env]
        routed = records.EventRouted(
            at=self._now_ms, env=env, event=event.internal_text, name=event.name, runs=tuple(started),
            skipped=tuple(skipped), duplicate=True if skipped else msgspec.UNSET,
        )  # fmt: skip
        self.records.append(_encode(routed))
        for key, run_text, function in scheduled:
            self._schedule(key, run_text, function, event)
        if event.ticket is not None:
            self.effects.append(effects.Answer(event.ticket))

    def _claim(self, event: EventAccepted, function: str, run: bytes) -> bool:
        """Claim (function, event id) for a run; false where another one holds it (EVT-14, P3)."""
        today = self._now_ms // DAY_MS
        oldest = min(today - 1, self._unswept.get(event.env, today))
        for day in range(today, oldest - 1, -1):
            value = self.state.get(keys.seen(event.env, day, function, event.id))
            if value is not None:
                owner, first_ms = _seen_decoder.decode(value)
                if self._now_ms - first_ms < DAY_MS or self.is_open(keys.run(event.env, decode_ulid(owner))):
                    return False
        self.state.put(keys.seen(event.env, today, function, event.id), _encode((encode_ulid(run), self._now_ms)))
        return True

    def _schedule(self, key: bytes, run_text: str, function: FunctionSpec, event: EventAccepted) -> None:
        head = RunHead(function=function.id, app=function.app, state=SCHEDULED, scheduled_ms=self._now_ms)
        run = Run(key, head, [event.body], run_text)
        run.last_turn = self._turn
        self._runs[key] = run
        self.state.put(keys.run_event(key, 0), event.body, new=True)
        is_future = event.ts_ms > self._now_ms
        starts = not is_future and self._has_place()
        record = records.RunScheduled(
            at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), function=function.id,
            app=function.app, version=function.version or msgspec.UNSET, events=(event.internal_text,),
            due=event.ts_ms if is_future else msgspec.UNSET, started=True if starts else msgspec.UNSET,
        )  # fmt: skip
        self.records.append(_encode(record))
        if is_future:
            self._set_run_timer(run, event.ts_ms)
            self._put_head(run)
            self._rest(run)
        elif starts:
            self._dispatch(run, None)
        else:
            self._enqueue(run)

    # --- dispatch

    def _has_place(self) -> bool:
        return self._live < self._config.live_runs and self.state.first(keys.QUEUE) is None

    def _start(self, run: Run) -> None:
        """Dispatch a run that can go on, or let it wait for a place."""
        if run.is_live or run.is_terminal or run.head.state == QUEUED or run.head.due_ms:
            return
        if self._has_place() or run.head.function not in self._registry.by_id:  # an orphan needs no place
            self._dispatch(run, _reason(run))
        else:
            self._enqueue(run)

    def _enqueue(self, run: Run) -> None:
        run.head.state = QUEUED
        self.state.put(keys.queue(run.head.scheduled_ms, run.key), b"", new=True)
        self._put_head(run)
        self._rest(run)

    def _dispatch(self, run: Run, reason: str | None) -> None:
        """Send a run to its driver, with a new generation. ``reason`` None: its start is journalled already."""
        head = run.head
        if head.function not in self._registry.by_id:
            head.state = WAITING
            self.state.put(keys.orphan(head.function, run.key), b"")
            self._set_live(run, False)
            self._put_head(run)
            self._rest(run)
            return
        head.generation += 1
        head.state = RUNNING
        run.retried = ()
        self._set_live(run, True)
        if reason is not None:
            started = records.RunStarted(
                at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), generation=head.generation,
                reason=reason,
            )  # fmt: skip
            self.records.append(_encode(started))
        self._put_head(run)
        self.effects.append(
            effects.Dispatch(
                run=run.key, run_id=run.id, generation=head.generation, function=head.function,
                events=tuple(run.events), recorded=run.recorded_steps(), pending=run.pending_steps(),
                attempts=run.due_attempts(), attempt=head.attempt, is_poisoned=head.is_poisoned,
            )
        )  # fmt: skip

    def _lose(self, message: DispatchLost) -> None:
        run = self._run(message.run)
        if run is None or not run.is_live:
            return
        if not message.counted:
            self._dispatch(run, "handed-back")
            return
        head = run.head
        head.lost += 1
        function = self._registry.by_id.get(head.function)
        bound = (function.retries if function else 0) + self._config.lost_allowance
        if head.lost > 2 * bound:
            error = ErrorInfo(name="WorkerLost", message=_lost_text(head.lost))
            self._fail(run, error, ())
            return
        head.is_poisoned = head.lost > bound
        delay = lost_delay_ms(head.lost)
        if delay == 0:
            self._dispatch(run, "lost")
            return
        self._set_live(run, False)
        head.state = WAITING
        self._set_run_timer(run, self._now_ms + delay)
        self._put_head(run)
        self._rest(run)

    def _adopt(self, message: Adopt) -> None:
        self.state.delete(keys.orphan(message.function, message.run))
        run = self._run(message.run)
        if run is not None:
            self._start(run)

    def _park(self, message: RunParked) -> None:
        run = self._run(message.run)
        if run is None or run.head.generation != message.generation or not run.is_live or run.is_terminal:
            return
        if run.recorded != message.delivered or any(run.steps[step].state == "due" for step in run.retried):
            self._dispatch(run, "wake")  # something came while the driver closed it
            return
        self._set_live(run, False)
        run.head.state = WAITING
        self._put_head(run)
        self._rest(run)

    # --- steps

    def _report_op(self, message: OpReported) -> None:
        run = self._run(message.run)
        if run is None:
            return  # the run is over and gone; nothing counts its records any more
        step = run.steps.get(message.step)
        if (
            run.head.generation != message.generation
            or run.is_terminal
            or (step is not None and (step.state != "due" or step.attempt != message.attempt))
        ):
            self._keep_late(run, message)
            return
        if step is None:
            if len(run.steps) >= self._config.steps_per_run:
                self._fail(run, _too_many_steps(self._config.steps_per_run), ())
                return
            step = StepState(
                id=message.wire_id, name=message.step_id, op=type(message.op).__name__, state="due",
                attempt=message.attempt,
            )  # fmt: skip
            run.steps[message.step] = step
            is_new = True
        else:
            is_new = False
            step.op = type(message.op).__name__  # another one than before, where the function was changed
        match message.op:
            case StepRun(data=data, started_ms=started, ended_ms=ended):
                self._complete(run, message.step, step, data, started, ended, is_new=is_new)
            case StepError():
                self._step_error(run, message.step, step, message.op, is_new=is_new)
            case Sleep(until_ms=until, for_ms=for_ms):
                due_ms = self._now_ms + for_ms if until is None else max(until, 0)
                self._sleep(run, message.step, step, due_ms, is_new=is_new)
            case SendEvent(events=events):
                ids = self._send(run, message.step, events)
                self._complete(run, message.step, step, _encode(ids), self._now_ms, self._now_ms, is_new=is_new)
            case Lost():
                error = ErrorInfo(name="WorkerLost", message=_lost_text(run.head.lost))
                step.op = "StepRun"
                self._fail_step(run, message.step, step, error, self._now_ms, self._now_ms, is_new=is_new)
            case _:
                assert_never(message.op)

    def _complete(
        self, run: Run, step_hash: bytes, step: StepState, data: bytes, started_ms: int, ended_ms: int, *, is_new: bool
    ) -> None:
        step.state, step.data = "completed", msgspec.Raw(data)
        step.seq = run.next_seq()
        self.records.append(
            _encode(
                records.StepCompleted(
                    at=self._now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                    op=step.op, attempt=step.attempt, started=started_ms, ended=ended_ms, output=step.data,
                )
            )
        )  # fmt: skip
        self._record(run, step_hash, step, is_new=is_new)

    def _step_error(self, run: Run, step_hash: bytes, step: StepState, op: StepError, *, is_new: bool) -> None:
        function = self._registry.by_id[run.head.function]
        step.op = "StepRun"
        if op.final or step.attempt >= function.retries:
            self._fail_step(run, step_hash, step, op.error, op.started_ms, op.ended_ms, is_new=is_new)
            return
        failed_attempt = step.attempt
        step.attempt += 1
        wait = delay_ms(
            self._config.retry, step.attempt, asked_ms=op.retry_after_ms, seed=keys.run_id_of(run.key) + step_hash
        )
        step.state, step.due_ms, step.seq = "errored", self._now_ms + wait, run.next_seq()
        self.records.append(
            _encode(
                records.StepErrored(
                    at=self._now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                    op=step.op, attempt=failed_attempt, started=op.started_ms, ended=op.ended_ms, error=op.error,
                    retry_at=step.due_ms,
                )
            )
        )  # fmt: skip
        self._set_step_timer(run, step_hash, step)
        self._put_step(run, step_hash, step, is_new=is_new)
        self.effects.append(effects.Backoff(run.key, run.head.generation, step_hash, step.attempt, step.due_ms))

    def _fail_step(
        self,
        run: Run,
        step_hash: bytes,
        step: StepState,
        error: ErrorInfo,
        started_ms: int,
        ended_ms: int,
        *,
        is_new: bool,
    ) -> None:
        step.state, step.error = "failed", error
        step.seq = run.next_seq()
        self.records.append(
            _encode(
                records.StepFailed(
                    at=self._now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                    op=step.op, attempt=step.attempt, started=started_ms, ended=ended_ms, error=error,
                )
            )
        )  # fmt: skip
        self._record(run, step_hash, step, is_new=is_new)

    def _sleep(self, run: Run, step_hash: bytes, step: StepState, until_ms: int, *, is_new: bool) -> None:
        step.state, step.due_ms, step.seq = "waiting", until_ms, run.next_seq()
        self.records.append(
            _encode(
                records.StepWaiting(
                    at=self._now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                    op=step.op, until=until_ms,
                )
            )
        )  # fmt: skip
        self._set_step_timer(run, step_hash, step)
        self._put_step(run, step_hash, step, is_new=is_new)

    def _send(self, run: Run, step_hash: bytes, events: tuple[EventOut, ...]) -> list[str]:
        """Accept the events of a step in the step's own commit. Their ids derive from (run, step, index)."""
        env, ids = keys.env_of(run.key), []
        for index, event in enumerate(events):
            digest = hash16(run.key, step_hash, index.to_bytes(4, "big"))
            internal = ulid(self._now_ms, digest[:10])
            accepted = accept_event(event, internal, env=env, received_ms=self._now_ms, source="step")
            ids.append(encode_ulid(internal))
            self._accept(accepted)
        return ids

    def _record(self, run: Run, step_hash: bytes, step: StepState, *, is_new: bool) -> None:
        """Give a result its place in the run's completion order, and hand it to the function."""
        step.stack = run.recorded
        step.due_ms = 0
        run.recorded += 1
        run.size_bytes += len(step.data)
        head = run.head
        if head.lost or head.attempt or head.is_poisoned:
            head.lost, head.attempt, head.is_poisoned = 0, 0, False
            self._put_head(run)
        self._put_step(run, step_hash, step, is_new=is_new)
        if run.size_bytes > self._config.run_state_bytes:
            self._fail(run, _state_too_large(run.size_bytes, self._config.run_state_bytes), ())
        elif run.is_live:
            self.effects.append(effects.Resume(run.key, head.generation, recorded(step_hash, step)))
        else:
            self._start(run)

    def _keep_late(self, run: Run, message: OpReported) -> None:
        """Keep an answer that came too late in the journal; it changes nothing (P4, P10)."""
        op = message.op
        late = records.StepLate(
            at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), step=message.step_id,
            id=message.wire_id, op=type(op).__name__, attempt=message.attempt,
            output=msgspec.Raw(op.data) if isinstance(op, StepRun) else msgspec.UNSET,
            error=op.error if isinstance(op, StepError) else msgspec.UNSET,
        )  # fmt: skip
        self.records.append(_encode(late))
        if run.is_terminal:
            run.head.executing = tuple([step for step in run.head.executing if step != message.step])
            if not run.head.executing:
                self.state.delete(keys.live(run.key))
                self._remove(run)
                return
        self._put_head(run)
        self._rest(run)

    def _fire(self, message: TimerFired) -> None:
        """Go on with what waited. The timer's key is gone already."""
        run = self._run(message.run)
        if run is None:
            return
        if message.step == keys.NO_STEP:
            if run.head.due_ms != message.due_ms:
                return
            run.head.due_ms = 0
            if run.is_terminal:
                self.state.delete(keys.live(run.key))
                self._remove(run)
                return
            self._start(run)
            return
        step = run.steps.get(message.step)
        if step is None or step.due_ms != message.due_ms or run.is_terminal:
            return
        if step.state == "waiting":
            self._complete(run, message.step, step, b"null", step.due_ms, self._now_ms, is_new=False)
        elif step.state == "errored":
            step.state, step.due_ms = "due", 0
            self._put_step(run, message.step, step, is_new=False)
            if run.is_live:
                run.retried += (message.step,)
                self.effects.append(effects.Retry(run.key, run.head.generation, message.step, step.attempt))
            else:
                self._start(run)

    # --- the end of a run

    def _report_run(self, message: RunReported) -> None:
        run = self._run(message.run)
        if run is None or run.head.generation != message.generation or not run.is_live:
            return  # it is over, or an attempt was reported twice
        if message.error is None:
            assert message.output is not None, "a report has an output or an error"
            if run.size_bytes + len(message.output) > self._config.run_state_bytes:
                size = run.size_bytes + len(message.output)
                self._fail(run, _state_too_large(size, self._config.run_state_bytes), message.executing)
                return
            completed = records.RunCompleted(
                at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), output=msgspec.Raw(message.output)
            )
            self.records.append(_encode(completed))
            self._end(run, COMPLETED, message.executing, output=message.output)
            return
        function = self._registry.by_id[run.head.function]
        head = run.head
        if message.final or head.attempt >= function.retries:
            self._fail(run, message.error, message.executing)
            return
        failed_attempt = head.attempt
        head.attempt += 1
        wait = delay_ms(self._config.retry, head.attempt, asked_ms=message.retry_after_ms, seed=keys.run_id_of(run.key))
        errored = records.RunErrored(
            at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), attempt=failed_attempt,
            error=message.error, retry_at=self._now_ms + wait,
        )  # fmt: skip
        self.records.append(_encode(errored))
        self._set_live(run, False)
        head.state = WAITING
        self._set_run_timer(run, self._now_ms + wait)
        self._put_head(run)
        self._rest(run)

    def _fail(self, run: Run, error: ErrorInfo, executing: tuple[bytes, ...]) -> None:
        failed = records.RunFailed(at=self._now_ms, env=run.env, run=run.id, seq=run.next_seq(), error=error)
        self.records.append(_encode(failed))
        self._end(run, FAILED, executing, error=error)

    def _end(
        self,
        run: Run,
        status: str,
        executing: tuple[bytes, ...],
        *,
        output: bytes | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        """Bring a run to its end. It keeps its head while bodies of its steps still execute, so that they are late."""
        state, head, key = self.state, run.head, run.key
        generation = head.generation
        if head.state == QUEUED:
            state.delete(keys.queue(head.scheduled_ms, key))
        if head.function not in self._registry.by_id:
            state.delete(keys.orphan(head.function, key))
        if head.due_ms:
            state.delete(keys.timer(head.due_ms, key, keys.NO_STEP))
            head.due_ms = 0
        for step_hash, step in run.steps.items():
            state.delete(keys.run_step(key, step_hash))
            if step.due_ms:
                state.delete(keys.timer(step.due_ms, key, step_hash))
        for index in range(len(run.events)):
            state.delete(keys.run_event(key, index))
        if run.is_live:
            run.is_live = False
            self._live -= 1
        if executing:
            head.state, head.executing = status, executing
            run.steps, run.events = {}, []
            self._set_run_timer(run, self._now_ms + OUTLIVED_MS)
            self._put_head(run)
            state.put(keys.live(key), b"")
            self._rest(run)
        else:
            state.delete(keys.live(key))
            self._remove(run)
        self.effects.append(effects.RunEnded(key, generation, run.id, status, output, error))

    def _remove(self, run: Run) -> None:
        if run.head.due_ms:
            self.state.delete(keys.timer(run.head.due_ms, run.key, keys.NO_STEP))
        self.state.delete(run.key)
        self._runs.pop(run.key, None)

    # --- owners in memory

    def preload(self, run_keys: Sequence[bytes]) -> None:
        """Read runs into memory together: one query instead of one each."""
        state, runs = self.state, self._runs
        missing = [key for key in run_keys if key not in runs and not state.is_deleted(key)]
        if len(missing) > 1:
            for key, rows in zip(missing, state.owned_by(missing), strict=True):
                run = read_run(key, rows)
                if run is not None:
                    runs[key] = run
                    self._rest(run)

    def _run(self, key: bytes) -> Run | None:
        run = self._runs.get(key)
        if run is None:
            if self.state.is_deleted(key):  # the table may not know yet
                return None
            run = read_run(key, self.state.owned(key))
            if run is None:
                return None
            self._runs[key] = run
            self._rest(run)
        return run

    def is_open(self, key: bytes) -> bool:
        """Whether a run exists and has not ended."""
        run = self._run(key)
        return run is not None and not run.is_terminal

    def _rest(self, run: Run) -> None:
        """The run may leave memory once this turn's writes are in the table."""
        run.last_turn = self._turn
        self._idle.append((self._turn, run.key))

    def _set_live(self, run: Run, is_live: bool) -> None:
        if run.is_live == is_live:
            return
        run.is_live = is_live
        if is_live:
            self._live += 1
            self.state.put(keys.live(run.key), b"", new=True)
        else:
            self._live -= 1
            self.state.delete(keys.live(run.key))

    def _put_head(self, run: Run) -> None:
        is_new = run.head.seq == 0  # it has never been put
        run.head.seq = run.seq
        run.last_turn = self._turn
        self.state.put(run.key, _encode(run.head), new=is_new)

    def _put_step(self, run: Run, step_hash: bytes, step: StepState, *, is_new: bool) -> None:
        run.last_turn = self._turn
        if not run.is_live:
            self._idle.append((self._turn, run.key))
        self.state.put(keys.run_step(run.key, step_hash), _encode(step), new=is_new)

    def _set_run_timer(self, run: Run, due_ms: int) -> None:
        run.head.due_ms = due_ms
        self.state.put(keys.timer(due_ms, run.key, keys.NO_STEP), b"", new=True)

    def _set_step_timer(self, run: Run, step_hash: bytes, step: StepState) -> None:
        self.state.put(keys.timer(step.due_ms, run.key, step_hash), b"", new=True)

    # --- housekeeping

    def _sweep_seen(self, env: int) -> None:
        """Forget ids of days before yesterday; what belongs to an open run moves to today (P3)."""
        today = self._now_ms // DAY_MS
        stop = keys.seen_day(env, today - 1)
        rows = self.state.scan(keys.seen_env(env), SWEPT_PER_TURN)
        old = [(key, value) for key, value in rows if key < stop]
        for key, value in old:
            self.state.delete(key)
            owner, _ = _seen_decoder.decode(value)
            if self.is_open(keys.run(env, decode_ulid(owner))):
                self.state.put(keys.seen_day(env, today) + key[13:], value)
        if len(old) == SWEPT_PER_TURN:
            self.follow_ups.append(SweepSeen(env=env))
        else:
            self._unswept[env] = today - 1


def _reason(run: Run) -> str:
    return "wake" if run.head.generation else "start"


def _lost_text(lost: int) -> str:
    how_often = f"{lost} times in a row" if lost else "again and again"  # 0: an earlier step was recorded as lost
    return f"the process that executed this died {how_often}; it is not begun any more"


def _too_many_steps(limit: int) -> ErrorInfo:
    return ErrorInfo(
        name="InngestErrFunctionOverflowed",
        message=f"The function run exceeded the step limit of {limit} steps.",
    )


def _state_too_large(size_bytes: int, limit_bytes: int) -> ErrorInfo:
    return ErrorInfo(
        name="InngestErrStateOverflowed",
        message=f"The run's state is {size_bytes} bytes, the limit is {limit_bytes}; store large results elsewhere.",
    )
