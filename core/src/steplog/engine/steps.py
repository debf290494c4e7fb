"""What becomes of a run's steps: results are recorded, in order; errors are tried again; sleeps and back-offs end."""

from typing import assert_never

import msgspec

from steplog.engine import effects, keys, records
from steplog.engine.dispatching import Dispatches, worker_lost
from steplog.engine.draft import Draft, encode
from steplog.engine.endings import Endings
from steplog.engine.events import accept_event
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.ids import encode_ulid, hash16, ulid
from steplog.engine.messages import OpReported, TimerFired
from steplog.engine.operations import ErrorInfo, EventOut, Lost, SendEvent, Sleep, StepError, StepRun
from steplog.engine.retry import delay_ms
from steplog.engine.routing import Routing
from steplog.engine.run import Run, StepState, recorded
from steplog.engine.runs import Runs


class Steps:
    """The steps of all runs."""

    def __init__(
        self, draft: Draft, runs: Runs, endings: Endings, dispatches: Dispatches, routing: Routing,
        registry: Registry, config: EngineConfig,
    ) -> None:  # fmt: skip
        self._draft, self._runs, self._endings = draft, runs, endings
        self._dispatches, self._routing = dispatches, routing
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
            or run.is_terminal
            or (step is not None and (step.state != "due" or step.attempt != message.attempt))
        ):
            self._endings.keep_late(run, message)
            return
        is_new = step is None
        if step is None:
            if len(run.steps) >= self._config.steps_per_run:
                self._endings.fail(run, _too_many_steps(self._config.steps_per_run))
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
                self._sleep(run, key, step, due_ms, is_new=is_new)
            case SendEvent(events=events):
                ids = self._send(run, key, events)
                self._complete(run, key, step, encode(ids), now_ms, now_ms, is_new=is_new)
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
            self._complete(run, message.step, step, b"null", step.due_ms, self._draft.now_ms, is_new=False)
        elif step.state == "errored":
            step.state, step.due_ms = "due", 0
            self._runs.put_step(run, message.step, step, is_new=False)
            if run.is_live:
                run.retried += (message.step,)
                self._draft.effects.append(effects.Retry(run.key, run.head.generation, message.step, step.attempt))
            else:
                self._dispatches.start(run)

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
        self._record(run, key, step, is_new=is_new)

    def _err(self, run: Run, key: bytes, step: StepState, op: StepError, *, is_new: bool) -> None:
        """A step's body raised: it has another attempt later, or fails."""
        step.op = "StepRun"
        if op.final or step.attempt >= self._registry.by_id[run.head.function].retries:
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
                retry_at=step.due_ms,
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
        self._record(run, key, step, is_new=is_new)

    def _sleep(self, run: Run, key: bytes, step: StepState, until_ms: int, *, is_new: bool) -> None:
        step.state, step.due_ms, step.seq = "waiting", until_ms, run.next_seq()
        self._draft.journal(
            records.StepWaiting(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=step.seq, step=step.name, id=step.id,
                op=step.op, until=until_ms,
            )
        )  # fmt: skip
        self._runs.set_step_timer(run, key, step)
        self._runs.put_step(run, key, step, is_new=is_new)

    def _send(self, run: Run, key: bytes, events: tuple[EventOut, ...]) -> list[str]:
        """Accept the events of a step in the step's own commit. Their ids derive from (run, step, index)."""
        env, now_ms, ids = keys.env_of(run.key), self._draft.now_ms, []
        for index, event in enumerate(events):
            digest = hash16(run.key, key, index.to_bytes(4, "big"))
            internal = ulid(now_ms, digest[:10])
            ids.append(encode_ulid(internal))
            self._routing.accept(accept_event(event, internal, env=env, received_ms=now_ms, source="step"))
        return ids

    def _record(self, run: Run, key: bytes, step: StepState, *, is_new: bool) -> None:
        """Give a result its place in the run's completion order, and hand it to the function."""
        step.stack = run.recorded
        step.due_ms = 0
        run.recorded += 1
        run.size_bytes += len(step.data)
        head = run.head
        if head.lost or head.attempt or head.is_poisoned:
            head.lost, head.attempt, head.is_poisoned = 0, 0, False
            self._runs.put_head(run)
        self._runs.put_step(run, key, step, is_new=is_new)
        if run.size_bytes > self._config.run_state_bytes:
            self._endings.fail_too_large(run, run.size_bytes)
        elif run.is_live:
            self._draft.effects.append(effects.Resume(run.key, head.generation, recorded(key, step)))
        else:
            self._dispatches.start(run)


def _too_many_steps(limit: int) -> ErrorInfo:
    return ErrorInfo(
        name="InngestErrFunctionOverflowed",
        message=f"The function run exceeded the step limit of {limit} steps.",
    )
