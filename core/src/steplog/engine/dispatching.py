"""Which runs are with a driver: runs are dispatched, wait for a place among the live ones, are parked and lost."""

from steplog.engine import effects, keys, records
from steplog.engine.draft import Draft
from steplog.engine.endings import Endings
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.messages import Adopt, DispatchLost, RunParked
from steplog.engine.operations import ErrorInfo
from steplog.engine.retry import lost_delay_ms
from steplog.engine.run import QUEUED, RUNNING, WAITING, Run
from steplog.engine.runs import Runs

PUMPED_PER_TURN = 1_000  # runs taken from the queue in one turn


class Dispatches:
    """Sends runs to their drivers, no more at once than there are places."""

    def __init__(self, draft: Draft, runs: Runs, endings: Endings, registry: Registry, config: EngineConfig) -> None:
        self._draft, self._runs, self._endings = draft, runs, endings
        self._registry, self._config = registry, config

    def has_place(self) -> bool:
        """Whether another run can be dispatched: there is a place, and nobody waits for it."""
        return self._runs.live < self._config.live_runs and self._draft.state.first(keys.QUEUE) is None

    def start(self, run: Run) -> None:
        """Dispatch a run that can go on, or let it wait for a place."""
        if run.is_live or run.is_terminal or run.head.state == QUEUED or run.head.due_ms:
            return
        if self.has_place() or not self._registry.is_here(run.head.function):  # an orphan needs no place
            self.dispatch(run, _reason(run))
        else:
            self.enqueue(run)

    def enqueue(self, run: Run) -> None:
        """Let a run wait for a place."""
        self._runs.put_queued(run)

    def dispatch(self, run: Run, reason: str | None) -> None:
        """Send a run to its driver, with a new generation. ``reason`` None: its start is journalled already."""
        head = run.head
        if not self._registry.is_here(head.function):
            self._draft.state.put(keys.orphan(head.function, run.key), b"")
            self._set_aside(run)
            return
        head.generation += 1
        head.state = RUNNING
        head.started_ms = head.started_ms or self._draft.now_ms
        run.retried = ()
        self._runs.set_live(run, True)
        if reason is not None:
            self._draft.journal(
                records.RunStarted(
                    at=self._draft.now_ms, env=run.env, run=run.id, seq=run.next_seq(), generation=head.generation,
                    reason=reason,
                )
            )  # fmt: skip
        self._runs.put_head(run)
        self._draft.effects.append(
            effects.Dispatch(
                run=run.key, run_id=run.id, generation=head.generation, function=head.function,
                events=tuple(run.events), recorded=run.recorded_steps(), pending=run.pending_steps(),
                attempts=run.due_attempts(), started_ms=head.started_ms, attempt=head.attempt,
                is_poisoned=head.is_poisoned,
            )
        )  # fmt: skip

    def pump(self) -> bool:
        """Give free places to the runs that wait. Returns whether more could be given at once."""
        state, places = self._draft.state, self._config.live_runs
        while (key := state.first(keys.QUEUE)) is not None:
            free = places - self._runs.live
            if free <= 0:
                self._draft.effects.append(effects.MakeRoom(1 + places // 10))
                return False
            chosen: list[bytes] = []
            while key is not None and len(chosen) < min(free, PUMPED_PER_TURN):
                state.delete(key)
                chosen.append(key)
                key = state.first(keys.QUEUE)
            self._runs.preload_queued(chosen)
            for queue_key in chosen:
                run = self._runs.get(keys.run_of(queue_key))
                if run is not None and run.head.state == QUEUED:
                    self.dispatch(run, _reason(run))
            if len(chosen) == PUMPED_PER_TURN:
                return True
        return False

    def park(self, message: RunParked) -> None:
        """The driver has closed a run that only waits."""
        run = self._runs.get(message.run)
        if run is None or run.head.generation != message.generation or not run.is_live or run.is_terminal:
            return
        if run.recorded != message.delivered or any(run.steps[step].state == "due" for step in run.retried):
            self.dispatch(run, "wake")  # something came while the driver closed it
        else:
            self._set_aside(run)

    def lose(self, message: DispatchLost) -> None:
        """The process that executed a run is gone: dispatch it again, later and later, until it has lost too many."""
        run = self._runs.get(message.run)
        if run is None or not run.is_live:
            return
        if not message.counted:
            self.dispatch(run, "handed-back")
            return
        head = run.head
        head.lost += 1
        function = self._registry.by_id.get(head.function)
        bound = (function.retries if function else 0) + self._config.lost_allowance
        if head.lost > 2 * bound:
            self._endings.fail(run, worker_lost(run))
            return
        head.is_poisoned = head.lost > bound
        delay = lost_delay_ms(head.lost)
        if delay == 0:
            self.dispatch(run, "lost")
        else:
            self._runs.set_timer(run, self._draft.now_ms + delay)
            self._set_aside(run)

    def adopt(self, message: Adopt) -> None:
        """A run's function is known again."""
        self._draft.state.delete(keys.orphan(message.function, message.run))
        run = self._runs.get(message.run)
        if run is not None:
            self.start(run)

    def _set_aside(self, run: Run) -> None:
        """Nothing executes the run until something wakes it."""
        self._runs.set_live(run, False)
        run.head.state = WAITING
        self._runs.put_head(run)
        self._runs.rest(run)


def worker_lost(run: Run) -> ErrorInfo:
    """What a run, or its next step, fails with that has lost its process too often."""
    lost = run.head.lost
    how_often = f"{lost} times in a row" if lost else "again and again"  # 0: an earlier step was recorded as lost
    return ErrorInfo(
        name="WorkerLost", message=f"the process that executed this died {how_often}; it is not begun any more"
    )


def _reason(run: Run) -> str:
    return "wake" if run.head.generation else "start"
