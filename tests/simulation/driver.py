"""A driver as the local one is, over scripts instead of coroutines (its contract: ``steplog/drivers/local.py``).

It begins a step's body when the function calls it, delivers recorded results one at a time in the order of the run's
records, parks a run that only waits, and reports what came of it. It knows nothing of commits.
"""

from collections.abc import Callable, Sequence

from steplog.engine.effects import Backoff, Dispatch, Effect, MakeRoom, Recorded, Resume, Retry, RunEnded
from steplog.engine.ids import step_wire_id
from steplog.engine.messages import OfRun, OpReported, RunParked, RunReported
from steplog.engine.operations import (
    ErrorInfo,
    EventOut,
    InvokeFunction,
    Lost,
    Operation,
    Produce,
    SendEvent,
    SendSignal,
    Sleep,
    StepError,
    StepRun,
    WaitForEvent,
    WaitForSignal,
)

from .ports import World
from .scripts import TOLD, Call, Listen, Nap, Node, Put, Raise, Send, Step, Tell, Wait, follow, operations, step_hash
from .scripts import Operation as Called

BROKEN = ErrorInfo(name="Broken", message="as the script has it")


class LiveRun:
    """A run whose function is alive."""

    def __init__(
        self, driver: "Driver", world: World, script: Node, names: dict[bytes, str], dispatch: Dispatch
    ) -> None:
        self._driver, self._world, self._script, self._dispatch = driver, world, script, dispatch
        self.run, self.generation = dispatch.run, dispatch.generation
        self.is_over = False
        self._names = names
        self._results = list(dispatch.recorded)
        self._order: dict[str, int] = {}
        self._failed: dict[str, bool] = {}
        self._raised: dict[str, bool] = {}  # what the function's own code did here
        self._begun: set[str] = set()
        self._executing: set[str] = set()
        self._due_ms: dict[str, int] = {self._names[p.step]: p.due_ms for p in dispatch.pending}
        self._attempts = {self._names[p.step]: p.attempt for p in dispatch.pending}
        self._attempts.update((self._names[step], attempt) for step, attempt in dispatch.attempts)
        self._known = len(dispatch.recorded)
        self._calls: list[Called] = []

    # --- what the engine says

    def resume(self, recorded: Recorded) -> None:
        self._known += 1
        self._results.append(recorded)
        self.go_on()

    def retry(self, step: bytes, attempt: int) -> None:
        name = self._names[step]
        self._attempts[name] = attempt
        self._due_ms.pop(name, None)
        for call in self._calls:
            if call.id == name:
                self._begin(call)

    def back_off(self, step: bytes, attempt: int, due_ms: int) -> None:
        name = self._names[step]
        self._attempts[name], self._due_ms[name] = attempt, due_ms
        self.rest()

    # --- the function

    def go_on(self) -> None:
        """Deliver every result, one at a time; then begin what the function has called meanwhile."""
        while not self._is_ended():
            if not self._results:
                break
            recorded = self._results.pop(0)
            name = self._names[recorded.step]
            self._world.watch.delivered(self._dispatch.run_id, len(self._order), recorded)
            self._world.watch.expect(
                any(call.id == name for call in self._calls), "P4", f"{name} has a result and was not called"
            )
            self._order[name] = len(self._order) + 1
            self._failed[name] = recorded.error is not None
        if self.is_over:
            return
        for call in self._calls:
            if call.id not in self._begun and call.id not in self._order:
                self._begun.add(call.id)
                if call.id not in self._due_ms:
                    self._begin(call)
        self.rest()

    def _is_ended(self) -> bool:
        """Follow the script; report the end where it is reached."""
        self._calls = []
        reached = follow(self._script, self._order, self._failed, self._raises, self._calls)
        if reached.at is None:
            return False
        executing = tuple(step_hash(name) for name in sorted(self._executing))
        is_raised = reached.raised is not None
        self._world.watch.function_over(self._dispatch.run_id, self.generation)
        self._report(
            RunReported(
                run=self.run, generation=self.generation, output=None if is_raised else b'"done"',
                error=BROKEN if is_raised else None, final=reached.raised == "step", executing=executing,
            )
        )  # fmt: skip
        self.close()
        return True

    def _raises(self, node: Raise) -> bool:
        if node.id not in self._raised:
            self._raised[node.id] = self._world.takes_from(self._dispatch.run_id, node.id, node.times)
        return self._raised[node.id]

    def _begin(self, call: Called) -> None:
        match call:
            case Step() if self._dispatch.is_poisoned:
                self._report_op(call.id, Lost())
            case Step():
                self._executing.add(call.id)
                self._execute(call)
            case Nap(ms=ms):
                self._due_ms[call.id] = self._world.now_ms + ms
                self._report_op(call.id, Sleep(for_ms=ms))
            case Send(names=names, event_id=event_id):
                events = tuple([EventOut(name=name, data=b'{"n":%d}' % (len(name) % 2), id=event_id) for name in names])
                self._report_op(call.id, SendEvent(events=events))
            case Put(topic=topic):
                value = f"{self._dispatch.run_id} {call.id}".encode()
                self._report_op(call.id, Produce(topic=topic, key=call.id.encode(), value=value))
            case Wait(names=names, timeout_ms=timeout_ms, all_of=all_of, condition=if_exp):
                self._due_ms[call.id] = self._world.now_ms + timeout_ms
                operation = WaitForEvent(
                    events=names, timeout_ms=timeout_ms, all_of=all_of, if_exp=if_exp,
                    is_since_trigger=call.is_since_trigger,
                )  # fmt: skip
                self._report_op(call.id, operation)
            case Listen(signal=signal, timeout_ms=timeout_ms, replaces=replaces):
                self._due_ms[call.id] = self._world.now_ms + timeout_ms
                self._report_op(call.id, WaitForSignal(signal=signal, timeout_ms=timeout_ms, replaces=replaces))
            case Tell(signal=signal):
                self._report_op(call.id, SendSignal(signal=signal, data=b"%d" % TOLD))
            case Call(function=function, timeout_ms=timeout_ms):
                self._due_ms[call.id] = self._world.now_ms + timeout_ms
                self._report_op(call.id, InvokeFunction(function=function, data=b'{"n":0}', timeout_ms=timeout_ms))

    def _execute(self, call: Step) -> None:
        attempt = self._attempts.get(call.id, 0)
        key = f"{self._dispatch.run_id}-{step_wire_id(call.id, 0)[:16]}"
        number = self._world.watch.started(self._dispatch.run_id, call.id, attempt, key)
        began_ms = self._world.now_ms

        def end() -> None:
            if self._world.takes_from(self._dispatch.run_id, call.id, call.kills):
                self._world.kill("a body kills its process")
                return
            now_ms = self._world.now_ms
            if attempt < call.failures:
                operation: Operation = StepError(
                    error=BROKEN, started_ms=began_ms, ended_ms=now_ms, final=call.is_final,
                    retry_after_ms=call.retry_after_ms,
                )  # fmt: skip
            else:
                operation = StepRun(data=b'"%s#%d"' % (call.id.encode(), number), started_ms=began_ms, ended_ms=now_ms)
            self._executing.discard(call.id)
            self._report_op(call.id, operation, attempt)

        self._world.body(end)

    # --- reports, also of runs that are closed: their bodies go on

    def _report_op(self, name: str, operation: Operation, attempt: int | None = None) -> None:
        self._report(
            OpReported(
                run=self.run, generation=self.generation, step=step_hash(name), wire_id=step_wire_id(name, 0),
                step_id=name, attempt=self._attempts.get(name, 0) if attempt is None else attempt, op=operation,
            )
        )  # fmt: skip

    def _report(self, message: OfRun) -> None:
        self._world.report(self.run, message)

    # --- parking

    def waits_until_ms(self) -> int | None:
        """Until when the run only waits; None where something goes on."""
        if self.is_over or self._executing or self._results:
            return None
        waiting = [call.id for call in self._calls if call.id not in self._order]
        if any(name not in self._due_ms for name in waiting):
            return None
        return min((self._due_ms[name] for name in waiting), default=None)

    def rest(self) -> None:
        """Park where nothing comes for long."""
        until_ms = self.waits_until_ms()
        if until_ms is not None and until_ms - self._world.now_ms > self._world.evict_after_ms:
            self.park()

    def park(self) -> None:
        self._world.fired("run parked")
        self._report(RunParked(run=self.run, generation=self.generation, delivered=self._known))
        self.close()

    def close(self) -> None:
        self.is_over = True
        self._driver.forget(self)


class Driver:
    """All live runs of one process."""

    def __init__(self, world: World, scripts: dict[str, Node]) -> None:
        self._world, self._scripts = world, scripts
        self._names = {id_: {step_hash(op.id): op.id for op in operations(script)} for id_, script in scripts.items()}
        self._live: dict[bytes, LiveRun] = {}

    def handle(self, effects: Sequence[Effect]) -> None:
        """Do what committed turns asked for."""
        for effect in effects:
            match effect:
                case Dispatch():
                    self._dispatch(effect)
                case MakeRoom(count=count):
                    waiting = [run for run in self._live.values() if run.waits_until_ms() is not None]
                    for run in waiting[:count]:
                        run.park()
                case Resume() | Retry() | Backoff() | RunEnded():
                    live = self._live.get(effect.run)
                    if live is not None and live.generation == effect.generation:
                        self._tell(live, effect)
                case _:
                    pass

    def die(self) -> None:
        """Forget every run: the process is gone."""
        self._live = {}

    def abandon(self, is_lost: Callable[[bytes], bool] = lambda _: True) -> None:
        """Close every run, or those that are lost; bodies go on."""
        for live in list(self._live.values()):
            if is_lost(live.run):
                live.close()

    def forget(self, live: LiveRun) -> None:
        if self._live.get(live.run) is live:
            del self._live[live.run]

    def _dispatch(self, dispatch: Dispatch) -> None:
        self._world.watch.dispatched(dispatch)
        before = self._live.get(dispatch.run)
        if before is not None:
            before.close()
        function = dispatch.function
        live = LiveRun(self, self._world, self._scripts[function], self._names[function], dispatch)
        self._live[dispatch.run] = live
        live.go_on()

    def _tell(self, live: LiveRun, effect: Resume | Retry | Backoff | RunEnded) -> None:
        match effect:
            case Resume(recorded=recorded):
                live.resume(recorded)
            case Retry(step=step, attempt=attempt):
                live.retry(step, attempt)
            case Backoff(step=step, attempt=attempt, due_ms=due_ms):
                live.back_off(step, attempt, due_ms)
            case RunEnded():
                live.close()
