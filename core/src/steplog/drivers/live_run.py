"""A run whose coroutine is alive in this process.

Theory of operation. Live and replayed runs are one thing: results wait in ``_results``, in the run's completion order,
and are handed over one at a time, each when the run is at rest (``drivers/loop.py``). A live run gets its results as
they are committed; a replayed one finds them all there. A step that is called while results wait begins only when none
of them fits an open call, so a replay repeats no body that a recorded race has already decided.

A run that only waits is parked: its coroutine is closed by ``Interrupt`` and made anew from its records when a result
comes. The engine decides everything else; this file reports what happened and does what it is told.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from uuid import UUID

from steplog.context import Context, ContextSync
from steplog.drivers.bodies import Bodies
from steplog.drivers.bodiless import BodilessSteps
from steplog.drivers.body_steps import BodySteps, StepNested
from steplog.drivers.call import BEGIN, Call
from steplog.drivers.config import LocalConfig
from steplog.drivers.failures import describe_error
from steplog.drivers.loop import TENANT, Tenant
from steplog.drivers.run_logger import RunLogger
from steplog.engine.effects import Dispatch, Recorded
from steplog.engine.ids import hash16
from steplog.engine.messages import Message, OpReported, RunParked, RunReported
from steplog.engine.operations import ErrorInfo, Operation, error_info
from steplog.errors import EventDataInvalid, Interrupt, OutputUnserializable, StepLimitExceeded
from steplog.errors import StepError as StepFailed
from steplog.functions import Function
from steplog.step import STEP
from steplog.values import Decode, dump, load

logger = logging.getLogger(__name__)

CLOSE_S = 5.0  # how long a closed function may unwind before it is named
MOST_INTERRUPTS = 100  # raised in a function that swallows them; then its calls wait for ever, so that it cannot spin


NEVER = 1 << 62  # no count comes to it


class Host(Protocol):
    """What a live run needs of the driver that it lives in."""

    bodies: Bodies
    config: LocalConfig
    is_draining: bool
    watched: tuple[int, int]  # from how many steps and bytes of a run on a limit is warned of
    post: Callable[[Message], None]
    now_ms: Callable[[], int]  # when bodies began and ended

    def forget(self, run: "LiveRun") -> None:
        """The run is over here."""

    def consider_parking(self, run: "LiveRun") -> None:
        """The run is at rest and runs no body."""


def now_ms() -> int:
    """The wall clock: the driver's time, unless it is given another."""
    return time.time_ns() // 1_000_000


class LiveRun(BodySteps, BodilessSteps, Tenant):
    """A run whose coroutine is alive."""

    __slots__ = (
        "_bodies", "_calls", "_counts", "_deferred", "_delivered", "_dispatch", "_event_bytes", "_executing",
        "_function", "_has_warned", "_host", "_interrupts", "_is_poisoned", "_loop", "_now_ms", "_output_bytes",
        "_own_attempt", "_passed_ms", "_pending", "_post", "_results", "_size_bytes", "_size_watched", "_steps",
        "_steps_watched", "_uuids", "generation", "is_over", "key", "run_id", "task",
    )  # fmt: skip

    def __init__(self, host: Host, function: Function[Any, Any], dispatch: Dispatch) -> None:
        super().__init__()
        self._host, self._function, self._dispatch = host, function, dispatch
        self._bodies, self._post, self._now_ms = host.bodies, host.post, host.now_ms
        self._event_bytes, self._output_bytes = host.config.event_bytes, host.config.output_bytes
        self._loop = host.bodies.loop
        self.key, self.run_id, self.generation = dispatch.run, dispatch.run_id, dispatch.generation
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self._calls: dict[bytes, Call] = {}
        self._counts: dict[str, int] = {}
        self._deferred: list[Call] = []
        self._executing: dict[bytes, asyncio.Task[Any]] = {}  # the task that runs the step's body
        self._results: dict[bytes, Recorded] = {}
        self._pending: dict[bytes, tuple[int | None, int]] = {}
        self._own_attempt, self._is_poisoned = dispatch.attempt, dispatch.is_poisoned
        self._has_warned = False
        self._steps, self._delivered = 0, len(dispatch.recorded)
        self._steps_watched, self._size_watched = host.watched
        self._size_bytes = sum(map(len, dispatch.events))
        if dispatch.recorded or dispatch.pending or dispatch.attempts:
            self._take_up(dispatch)
        self._interrupts = self._uuids = 0
        self._passed_ms = dispatch.started_ms

    def _take_up(self, dispatch: Dispatch) -> None:
        """Go on with what was recorded before."""
        self._results.update((recorded.step, recorded) for recorded in dispatch.recorded)
        self._pending.update((pending.step, (pending.due_ms, pending.attempt)) for pending in dispatch.pending)
        self._pending.update((step, (None, attempt)) for step, attempt in dispatch.attempts)
        self._size_bytes += sum([len(recorded.data or b"") for recorded in dispatch.recorded])
        if self._size_bytes >= self._size_watched:
            self._size_watched = NEVER

    def start(self) -> None:
        """Begin the function."""
        context = contextvars.copy_context()
        context.run(TENANT.set, self)
        self.task = asyncio.Task(self._main(), loop=self._loop, context=context)

    def now_ms(self) -> int:
        """The time of the record that the function has last passed: the same on every replay (decisions: *now*)."""
        return self._passed_ms

    def next_uuid(self) -> UUID:
        """An id that is the same on every replay: of the run, and of how many were asked for before."""
        self._uuids += 1
        return UUID(bytes=hash16(self.key, self._uuids.to_bytes(8, "big")), version=4)

    @property
    def app_id(self) -> str:
        return self._function.spec.app

    @property
    def logger(self) -> logging.Logger:
        """Silent while results wait that were recorded before: what the function says then it has said already."""
        return RunLogger(self._function.handler.__module__, self.run_id, lambda: bool(self._results))

    @property
    def holds_thread(self) -> bool:
        """Whether it is a plain ``def`` function: it is closed as soon as it only waits."""
        return not self._function.is_async

    @property
    def attempt(self) -> int:
        step = STEP.get()
        return self._own_attempt if step is None else step.attempt

    @property
    def executing(self) -> list[str]:
        """The ids of the steps whose bodies run."""
        return [call.step_id for step, call in self._calls.items() if step in self._executing]

    def describe(self) -> str:
        """Name the run in a warning."""
        return f"{self._function.id} ({self.run_id})"

    # --- what the function calls

    def _register(self, step_id: str, decode: Decode) -> Call:
        outer = STEP.get()
        if isinstance(outer, Call):
            outer.is_nested = True
            raise StepNested
        if self.is_over:
            self._interrupts += 1
            if self._interrupts <= MOST_INTERRUPTS:
                raise Interrupt
            _abandon_this_task()
        if not isinstance(step_id, str):
            raise TypeError(f"a step's id is a string, not {step_id!r}")
        occurrence = self._counts.get(step_id, 0)
        self._counts[step_id] = occurrence + 1
        call = Call(self.run_id, step_id, occurrence, self._loop.create_future(), decode)
        self._steps += 1
        if self._steps >= self._steps_watched and not self.is_over:
            self._near_step_limit(call)
        self._calls[call.step] = call
        return call

    def _near_step_limit(self, call: Call) -> None:
        """Warn at 80 % of the limit, and end the run beyond it, before a body begins whose result nobody would keep."""
        limit = self._host.config.steps
        if self._steps > limit:
            self._fail(error_info(StepLimitExceeded(limit)))
            raise Interrupt
        self._steps_watched = limit + 1
        if call.step not in self._results:
            self._warn_of_limit("steps", self._steps, limit)

    def _warn_of_limit(self, what: str, value: int, limit: int) -> None:
        fields = {"function": self._function.id, "run_id": self.run_id, what: value, "limit": limit}
        logger.warning("a run is close to a limit", extra={"fields": fields})

    def _may_begin(self, call: Call) -> bool:
        """Whether a call begins at once: not if its result is there, it waits, or other results come before it."""
        if self._host.is_draining or self.is_over:
            return False
        if self._pending:
            waits = self._pending.pop(call.step, None)
            if waits is not None:
                call.due_ms, call.attempt = waits
                if call.due_ms is not None:
                    self._ask_for_rest()
                    return False
        if not self._results:
            return True
        self._ask_for_rest()
        if call.step not in self._results:
            self._deferred.append(call)
        return False

    def _outcome(self, call: Call, operation: Operation) -> "asyncio.Future[Any]":
        """Report an operation. What the engine makes of it comes: the recorded result, or another attempt."""
        if call.future.done():  # it was told to begin
            call.future = self._loop.create_future()
        self._post(
            OpReported(
                run=self.key, generation=self.generation, step=call.step, wire_id=call.wire_id,
                step_id=call.step_id, attempt=call.attempt, op=operation,
            )
        )  # fmt: skip
        if self.is_over:
            raise Interrupt
        return call.future

    async def _main(self) -> None:
        """Run the function and report how it ended."""
        function = self._function
        try:
            if function.is_async:
                context: Context[Any] = Context(self, self._dispatch.events, function.event_types)
                value = await (
                    function.handler(context, context.step) if function.takes_step else function.handler(context)
                )
            else:
                value = await self._call_in_thread(function)
            report: RunReported | None = self._returned(dump(value, function.id, self._host.config.output_bytes))
        except BaseException as error:  # noqa: BLE001 - user code
            report = None if self.is_over else self._raised(error)
        self.task = None  # it holds the context that holds this run: nothing is left for the garbage collector
        if report is None or self.is_over:
            return
        self._retire()
        self._post(report)
        self._interrupt()

    async def _call_in_thread(self, function: Function[Any, Any]) -> Any:
        """Call a plain ``def`` function: it holds a thread until it ends or has to wait for something."""
        blocking = self._bodies.blocking(contextvars.copy_context())
        context: ContextSync[Any] = ContextSync(
            self, self._dispatch.events, function.event_types, blocking=blocking
        )  # fmt: skip
        arguments = (context, context.step) if function.takes_step else (context,)
        return await self._bodies.call_function(function.handler, *arguments)

    def _returned(self, output: bytes) -> RunReported:
        if self._results and not self.is_over and any(step not in self._calls for step in self._results):
            self._note_change(None)
        return RunReported(run=self.key, generation=self.generation, output=output, executing=self._outliving())

    def _raised(self, error: BaseException) -> RunReported:
        failure = describe_error(error, self._now_ms())
        return RunReported(
            run=self.key, generation=self.generation, error=failure.error, final=failure.is_final,
            retry_after_ms=failure.retry_after_ms, executing=self._outliving(),
        )  # fmt: skip

    def _outliving(self) -> tuple[bytes, ...]:
        """The steps whose bodies go on when the function has ended, and will be late."""
        if not self._executing:
            return ()
        return tuple([step for step, task in self._executing.items() if not task.cancelling()])

    # --- what the engine says

    def hand_over(self, recorded: Recorded) -> None:
        """A result was recorded."""
        if self._host.config.replay_every_step and not self._executing:
            self.park()  # the engine sees that a result came meanwhile, and sends them all
            return
        self._delivered += 1
        self._size_bytes += len(recorded.data or b"")
        if self._size_bytes >= self._size_watched:
            self._size_watched = NEVER
            self._warn_of_limit("size_bytes", self._size_bytes, self._host.config.run_bytes)
        self._own_attempt, self._is_poisoned = 0, False
        call = None
        if not self._results and self._loop.is_at_rest(self):
            call = self._calls.pop(recorded.step, None)
        if call is None:
            self._results[recorded.step] = recorded
        else:  # nearly always: the run is at rest, and this is what it waits for
            self._settle(call, recorded)
            if not self._calls:
                return
        self._ask_for_rest()

    def retry(self, step: bytes, attempt: int) -> None:
        """A step's back-off is over."""
        call = self._calls.get(step)
        if call is None:
            self._pending[step] = (None, attempt)
            return
        call.attempt, call.due_ms = attempt, None
        self._let_begin(call)

    def back_off(self, step: bytes, attempt: int, due_ms: int) -> None:
        """A step failed and is tried again later."""
        call = self._calls.get(step)
        if call is not None:
            call.attempt, call.due_ms = attempt, due_ms
            self._ask_for_rest()

    def rest(self) -> None:
        """Hand over the next result, else let deferred calls begin, else see whether the run only waits."""
        if self.is_over:
            return
        while self._results:
            call = self._next_result()
            if call is None:
                break
            if not self._loop.is_at_rest(self):
                self._ask_for_rest()
                return
        if self._deferred:
            if self._host.is_draining:
                return
            deferred = [call for call in self._deferred if not call.future.done()]
            self._deferred = []
            if deferred and self._results:
                self._note_change(deferred[0].step_id)
            for call in deferred:
                self._let_begin(call)
            if deferred:
                return
        if not self._executing and self._calls:
            self._host.consider_parking(self)

    def _ask_for_rest(self) -> None:
        """There is, or may be, something to do when the run is at rest."""
        if not self.is_asking:
            self._loop.tell_at_rest(self)

    def _let_begin(self, call: Call) -> None:
        if not call.future.done():
            call.future.set_result(BEGIN)

    def _next_result(self) -> Call | None:
        """Hand the first result that fits an open call to it."""
        for position, (step, recorded) in enumerate(self._results.items()):
            call = self._calls.pop(step, None)
            if call is None:
                continue
            if position:
                self._note_change(call.step_id)
                if self.is_over:
                    return None
            del self._results[step]
            self._settle(call, recorded)
            return call
        return None

    def _note_change(self, step_id: str | None) -> None:
        """Say once that recorded steps are not called, or in another order (DUR-09); each keeps its own result.

        A strict function fails (CON-35).
        """
        if self._function.spec.is_strict and not self.is_over:
            where = "at its end" if step_id is None else f"at step {step_id!r}"
            message = f"the steps of the function have changed since the run began, seen {where}; it is strict"
            self._fail(ErrorInfo(name="StepsChanged", message=message))
        elif not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the steps of a function have changed since the run began",
                extra={"fields": {"function": self._function.id, "run_id": self.run_id, "step": step_id}},
            )

    def _fail(self, error: ErrorInfo) -> None:
        """End the run, whatever its function does."""
        self._retire()
        executing = self._outliving()
        self._post(RunReported(run=self.key, generation=self.generation, error=error, final=True, executing=executing))
        self._interrupt()

    def _settle(self, call: Call, recorded: Recorded) -> None:
        self._passed_ms = recorded.at_ms
        future = call.future
        if future.done():
            return  # the function has turned away from it, as from the loser of a race
        if recorded.error is not None:
            error = recorded.error
            future.set_exception(StepFailed(error.message, error.name, error.stack))
            return
        if call.copy is not None:
            future.set_result(call.copy[0])
            return
        try:
            future.set_result(load(recorded.data or b"null", call.decode, call.step_id))
        except (OutputUnserializable, EventDataInvalid) as error:
            future.set_exception(StepFailed(str(error), type(error).__name__))

    # --- closing

    def waits_until_ms(self) -> int | None:
        """The earliest time at which an open call goes on; None where something else than waiting goes on."""
        if self._executing or self._results or self._deferred or not self._calls or not self._loop.is_at_rest(self):
            return None
        earliest: int | None = None
        for call in self._calls.values():
            if call.future.done():
                continue  # the function has turned away from it
            if call.due_ms is None:
                return None  # its operation is being committed
            earliest = call.due_ms if earliest is None else min(earliest, call.due_ms)
        return earliest

    def park(self) -> None:
        """Close the coroutine and tell the engine, which dispatches the run again when something comes."""
        self._post(RunParked(run=self._dispatch.run, generation=self._dispatch.generation, delivered=self._delivered))
        self.close()

    def close(self) -> None:
        """Raise ``Interrupt`` at every open call. What the function does from now on does not count."""
        self._retire()
        self._interrupt()
        if self.task is not None and not self.task.done():
            context = contextvars.Context()
            warning = self._loop.call_later(CLOSE_S, self._warn_unclosed, context=context)
            self.task.add_done_callback(lambda _: warning.cancel(), context=context)

    def _interrupt(self) -> None:
        """Raise ``Interrupt`` at the open calls; one whose body runs meets it when the body has ended."""
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(Interrupt())

    def _retire(self) -> None:
        self.is_over = True
        self._host.forget(self)

    def _warn_unclosed(self) -> None:
        if self.task is not None and not self.task.done():
            logger.warning(
                "a closed function does not end; it is abandoned",
                extra={"fields": {"function": self._function.id, "run_id": self.run_id, "after_s": CLOSE_S}},
            )


def _abandon_this_task() -> None:
    """Let no stop wait for a task that swallows whatever is raised in it, cancellation too."""
    with suppress(RuntimeError):  # the loop has ended
        task = asyncio.current_task()
        if task is not None:
            asyncio._unregister_task(task)
