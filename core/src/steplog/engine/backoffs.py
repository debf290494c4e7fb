"""Waits for another attempt, of steps and of whole runs, that somebody ends before their time."""

from collections.abc import Iterator

from steplog.engine import keys
from steplog.engine.draft import Draft
from steplog.engine.messages import RetryNow, TimerFired
from steplog.engine.run import WAITING, Run
from steplog.engine.runs import Runs
from steplog.engine.state import State

LOOKED_AT_PER_TURN = 1_000  # timers; sleeps are among them
_TIMERS = bytes([keys.TIMER])


def end_backoffs(draft: Draft, runs: Runs, message: RetryNow) -> None:
    """Let what waits for another attempt have it in this turn, as if its time had come."""
    timers = _timers(draft.state, message.after)
    for fired in _backoffs(runs, timers, message.env):
        draft.state.delete(keys.timer(fired.due_ms, fired.run, fired.step))
        draft.messages.append(fired)
    if len(timers) == LOOKED_AT_PER_TURN:
        draft.follow_ups.append(RetryNow(env=message.env, after=timers[-1]))


def has_backoff(state: State, runs: Runs, env: int) -> bool:
    """Whether anything waits for another attempt."""
    after = b""
    while timers := _timers(state, after):
        if any(_backoffs(runs, timers, env)):
            return True
        after = timers[-1]
    return False


def _timers(state: State, after: bytes) -> list[bytes]:
    return [key for key, _ in state.scan(_TIMERS, LOOKED_AT_PER_TURN, after=after)]


def _backoffs(runs: Runs, timers: list[bytes], env: int) -> Iterator[TimerFired]:
    """Those timers of an environment that end a wait for another attempt, not a sleep or a start in the future."""
    runs.preload([keys.timer_owner(key)[0] for key in timers])
    for key in timers:
        owner, step = keys.timer_owner(key)
        run, due_ms = runs.get(owner) if keys.env_of(owner) == env else None, keys.timer_due_ms(key)
        if run is not None and _is_backoff(run, step, due_ms):
            yield TimerFired(run=owner, step=step, due_ms=due_ms)


def _is_backoff(run: Run, step: bytes, due_ms: int) -> bool:
    if step == keys.NO_STEP:
        return run.head.state == WAITING and run.head.due_ms == due_ms
    state = run.steps.get(step)
    return state is not None and state.state == "errored" and state.due_ms == due_ms
