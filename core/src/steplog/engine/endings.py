"""How a run ends: by what its function returns or raises, or because the engine ends it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from steplog.engine import effects, keys, records
from steplog.engine.draft import Draft, encode
from steplog.engine.events import FAILED_EVENT, FINISHED_EVENT, accept_event
from steplog.engine.functions import MOST_STEP_MS, EngineConfig, Registry
from steplog.engine.ids import hash16, ulid
from steplog.engine.messages import EventAccepted, OpReported, RunReported, WaitEnded
from steplog.engine.operations import ErrorInfo, EventOut, StepError, StepRun, error_info
from steplog.engine.records import event_seen
from steplog.engine.retry import delay_ms
from steplog.engine.run import COMPLETED, FAILED, QUEUED, WAITING, Run, StepState
from steplog.engine.runs import Runs
from steplog.engine.signals import Signals
from steplog.engine.waits import Waits
from steplog.errors import StateSizeExceeded, wire_name


class Endings:
    """Ends runs."""

    def __init__(
        self, draft: Draft, runs: Runs, waits: Waits, signals: Signals, registry: Registry, config: EngineConfig
    ) -> None:
        self._draft, self._runs, self._waits, self._signals = draft, runs, waits, signals
        self._registry, self._config = registry, config

    def report(self, message: RunReported) -> None:
        """The function returned or raised."""
        run = self._runs.get(message.run)
        if run is None or run.head.generation != message.generation or not run.is_live:
            return  # it is over, or an attempt was reported twice
        if message.error is None:
            self._complete(run, message)
            return
        retries = self._registry.by_id[run.head.function].retries
        if message.final or run.head.attempt >= retries:
            self.fail(run, message.error, message.executing)
        else:
            self._try_again(run, message, message.error, max_attempts=retries + 1)

    def fail(self, run: Run, error: ErrorInfo, executing: tuple[bytes, ...] = ()) -> None:
        """End a run with an error."""
        self._draft.journal(
            records.RunFailed(at=self._draft.now_ms, env=run.env, run=run.id, seq=run.next_seq(), error=error)
        )
        told = [] if run.head.is_quiet else [self._failed_event(run, error)]
        self._end(run, FAILED, executing, error=error, told=told)

    def fail_too_large(self, run: Run, size_bytes: int, executing: tuple[bytes, ...] = ()) -> None:
        """End a run whose state has outgrown its limit."""
        self.fail(run, error_info(StateSizeExceeded(size_bytes, self._config.run_state_bytes)), executing)

    def leave_index(self, run: Run, step_hash: bytes, step: StepState) -> None:
        """A step does not wait any more: events and signals find it no longer."""
        for index_key in step.keys:
            if keys.is_signal(index_key):
                self._signals.forget(index_key, run.key, step_hash)
            else:
                self._waits.leave(index_key, run.key, step_hash)
        step.keys = ()
        if step.wait is not None and step.wait.is_asking:
            self._draft.state.delete(keys.ask(run.key, step_hash))

    def keep_late(self, run: Run, message: OpReported) -> None:
        """Keep an answer that came too late in the journal; it changes nothing (P4, P10)."""
        op = message.op
        self._draft.journal(
            records.StepLate(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=run.next_seq(), step=message.step_id,
                id=message.wire_id, op=type(op).__name__, attempt=message.attempt,
                output=msgspec.Raw(op.data) if isinstance(op, StepRun) else msgspec.UNSET,
                error=op.error if isinstance(op, StepError) else msgspec.UNSET,
            )
        )  # fmt: skip
        if run.is_terminal:
            run.head.executing = tuple([step for step in run.head.executing if step != message.step])
            if not run.head.executing:
                self._runs.remove(run)
                return
        self._runs.put_head(run)
        self._runs.rest(run)

    def _complete(self, run: Run, message: RunReported) -> None:
        output = message.output
        assert output is not None, "a report has an output or an error"
        size_bytes = run.size_bytes + len(output)
        if size_bytes > self._config.run_state_bytes:
            self.fail_too_large(run, size_bytes, message.executing)
            return
        self._draft.journal(
            records.RunCompleted(
                at=self._draft.now_ms, env=run.env, run=run.id, seq=run.next_seq(), output=msgspec.Raw(output)
            )
        )
        self._end(run, COMPLETED, message.executing, output=output)

    def _try_again(self, run: Run, message: RunReported, error: ErrorInfo, *, max_attempts: int) -> None:
        """Let the function's own code have another attempt, later."""
        head, now_ms = run.head, self._draft.now_ms
        failed_attempt = head.attempt
        head.attempt += 1
        wait = delay_ms(self._config.retry, head.attempt, asked_ms=message.retry_after_ms, seed=keys.run_id_of(run.key))
        self._draft.journal(
            records.RunErrored(
                at=now_ms, env=run.env, run=run.id, seq=run.next_seq(), attempt=failed_attempt, error=error,
                retry_at=now_ms + wait, max_attempts=max_attempts,
            )
        )  # fmt: skip
        self._runs.set_live(run, False)
        head.state = WAITING
        self._runs.set_timer(run, now_ms + wait)
        self._runs.put_head(run)
        self._runs.rest(run)

    def _end(
        self,
        run: Run,
        status: str,
        executing: tuple[bytes, ...],
        *,
        output: bytes | None = None,
        error: ErrorInfo | None = None,
        told: Sequence[EventAccepted] = (),
    ) -> None:
        """Bring a run to its end. It keeps its head while bodies of its steps still execute, so that they are late."""
        head, key = run.head, run.key
        if (self._registry.is_trigger(FINISHED_EVENT) or self._waits.is_used) and self._is_asked_for_end(run):
            told = [*told, self._finished_event(run, output, error)]
        gone: list[bytes] = []
        if head.state == QUEUED:
            gone.append(keys.queue(key))
        if not self._registry.is_here(head.function):
            gone.append(keys.orphan(head.function, key))
        if head.due_ms:
            gone.append(keys.timer(head.due_ms, key, keys.NO_STEP))
            head.due_ms = 0
        for step_hash, step in run.steps.items():
            gone.append(keys.run_step(key, step_hash))
            if step.keys:
                self.leave_index(run, step_hash, step)
            if step.due_ms:
                gone.append(keys.timer(step.due_ms, key, step_hash))
        gone += [keys.run_event(key, index) for index in range(len(run.events))]
        self._draft.state.delete(*gone)
        if run.is_live:
            run.is_live = False
            self._runs.live -= 1
        if executing:
            head.state, head.executing = status, executing
            run.steps, run.events = {}, []
            self._runs.set_timer(run, self._draft.now_ms + MOST_STEP_MS)
            self._runs.outlive(run)
        else:
            self._runs.remove(run)
        self._draft.effects.append(effects.RunEnded(key, head.generation, run.id, status, output, error))
        if head.parent is not None:
            parent, child_step = head.parent
            self._draft.tell_run(parent, WaitEnded(run=parent, step=child_step, output=output, error=error))
        for event in told:
            self._draft.accept(event)

    def _is_asked_for_end(self, run: Run) -> bool:
        """Whether a function or a wait names the event of a run's end, which is not written otherwise."""
        is_named = self._registry.is_trigger(FINISHED_EVENT) or self._waits.is_waited_for(
            keys.env_of(run.key), FINISHED_EVENT
        )
        return is_named and not run.head.is_quiet

    def _failed_event(self, run: Run, error: ErrorInfo) -> EventAccepted:
        """``inngest/function.failed`` (SYS-02); its id is the run's, so that a failure is told once."""
        handler = self._registry.failure_handler(run.head.function)
        return self._event(
            run, FAILED_EVENT, {"error": _told(error)}, event_id=run.id, starts=None if handler is None else handler.id
        )

    def _finished_event(self, run: Run, output: bytes | None, error: ErrorInfo | None) -> EventAccepted:
        """``inngest/function.finished`` (SYS-04)."""
        outcome = {"result": msgspec.Raw(output)} if error is None and output is not None else {"error": _told(error)}
        return self._event(run, FINISHED_EVENT, outcome)

    def _event(
        self, run: Run, name: str, outcome: dict[str, Any], *, event_id: str | None = None, starts: str | None = None
    ) -> EventAccepted:
        events = [event_seen(body) for body in run.events]
        data = {"function_id": run.head.function, "run_id": run.id, "event": events[0], "events": events} | outcome
        now_ms = self._draft.now_ms
        internal = ulid(now_ms, hash16(run.key, name.encode())[:10])
        return accept_event(
            EventOut(name=name, data=encode(data), id=event_id), internal, env=keys.env_of(run.key), received_ms=now_ms,
            source="engine", starts=starts,
        )  # fmt: skip


def _told(error: ErrorInfo | None) -> dict[str, Any] | None:
    """An error as system events carry it (ERR-14), which is as the wire does."""
    if error is None:
        return None
    name = wire_name(error.name)
    return {"error": f"{name}: {error.message}", **msgspec.to_builtins(error), "name": name, "__serialized": True}
