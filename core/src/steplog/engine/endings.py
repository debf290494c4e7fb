"""How a run ends: by what its function returns or raises, or because the engine ends it."""

import msgspec

from steplog.engine import effects, keys, records
from steplog.engine.draft import Draft
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.messages import OpReported, RunReported
from steplog.engine.operations import ErrorInfo, StepError, StepRun
from steplog.engine.retry import delay_ms
from steplog.engine.run import COMPLETED, FAILED, QUEUED, WAITING, Run
from steplog.engine.runs import Runs

OUTLIVED_MS = 7_200_000  # the longest execution of a step (LIM-02)


class Endings:
    """Ends runs."""

    def __init__(self, draft: Draft, runs: Runs, registry: Registry, config: EngineConfig) -> None:
        self._draft, self._runs, self._registry, self._config = draft, runs, registry, config

    def report(self, message: RunReported) -> None:
        """The function returned or raised."""
        run = self._runs.get(message.run)
        if run is None or run.head.generation != message.generation or not run.is_live:
            return  # it is over, or an attempt was reported twice
        if message.error is None:
            self._complete(run, message)
        elif message.final or run.head.attempt >= self._registry.by_id[run.head.function].retries:
            self.fail(run, message.error, message.executing)
        else:
            self._try_again(run, message, message.error)

    def fail(self, run: Run, error: ErrorInfo, executing: tuple[bytes, ...] = ()) -> None:
        """End a run with an error."""
        self._draft.journal(
            records.RunFailed(at=self._draft.now_ms, env=run.env, run=run.id, seq=run.next_seq(), error=error)
        )
        self._end(run, FAILED, executing, error=error)

    def fail_too_large(self, run: Run, size_bytes: int, executing: tuple[bytes, ...] = ()) -> None:
        """End a run whose state has outgrown its limit."""
        self.fail(run, _state_too_large(size_bytes, self._config.run_state_bytes), executing)

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

    def _try_again(self, run: Run, message: RunReported, error: ErrorInfo) -> None:
        """Let the function's own code have another attempt, later."""
        head, now_ms = run.head, self._draft.now_ms
        failed_attempt = head.attempt
        head.attempt += 1
        wait = delay_ms(self._config.retry, head.attempt, asked_ms=message.retry_after_ms, seed=keys.run_id_of(run.key))
        self._draft.journal(
            records.RunErrored(
                at=now_ms, env=run.env, run=run.id, seq=run.next_seq(), attempt=failed_attempt, error=error,
                retry_at=now_ms + wait,
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
    ) -> None:
        """Bring a run to its end. It keeps its head while bodies of its steps still execute, so that they are late."""
        delete, head, key = self._draft.state.delete, run.head, run.key
        if head.state == QUEUED:
            delete(keys.queue(key))
        if head.function not in self._registry.by_id:
            delete(keys.orphan(head.function, key))
        if head.due_ms:
            delete(keys.timer(head.due_ms, key, keys.NO_STEP))
            head.due_ms = 0
        for step_hash, step in run.steps.items():
            delete(keys.run_step(key, step_hash))
            if step.due_ms:
                delete(keys.timer(step.due_ms, key, step_hash))
        for index in range(len(run.events)):
            delete(keys.run_event(key, index))
        if run.is_live:
            run.is_live = False
            self._runs.live -= 1
        if executing:
            head.state, head.executing = status, executing
            run.steps, run.events = {}, []
            self._runs.set_timer(run, self._draft.now_ms + OUTLIVED_MS)
            self._runs.outlive(run)
        else:
            self._runs.remove(run)
        self._draft.effects.append(effects.RunEnded(key, head.generation, run.id, status, output, error))


def _state_too_large(size_bytes: int, limit_bytes: int) -> ErrorInfo:
    return ErrorInfo(
        name="InngestErrStateOverflowed",
        message=f"The run's state is {size_bytes} bytes, the limit is {limit_bytes}; store large results elsewhere.",
    )
