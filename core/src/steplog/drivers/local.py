"""The local driver: a function lives in this process, as a coroutine that stays alive between its steps.

Theory of operation. Live and replayed runs are one thing: results wait in ``_results``, in the run's completion order,
and are handed over one at a time, each when the run is at rest (``drivers/loop.py``). A live run gets its results as
they are committed; a replayed one finds them all there. A step that is called while results wait begins only when none
of them fits an open call, so a replay repeats no body that a recorded race has already decided.

A run that only waits is parked: its coroutine is closed by ``Interrupt`` and made anew from its records when a result
comes. The engine decides everything else; this file reports what happened and does what it is told.
"""

import asyncio
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec

from steplog.context import Context
from steplog.drivers.failures import Failure, describe_error
from steplog.drivers.loop import TENANT, Tenant, UsersLoop
from steplog.drivers.outgoing import outgoing_events
from steplog.engine.effects import Answer, Backoff, Dispatch, Effect, MakeRoom, Recorded, Resume, Retry
from steplog.engine.ids import hash16, step_wire_id
from steplog.engine.messages import Message, OpReported, RunParked, RunReported
from steplog.engine.operations import ErrorInfo, Lost, Operation, SendEvent, Sleep, StepError, StepRun
from steplog.errors import Interrupt, OutputUnserializable, SteplogError
from steplog.errors import StepError as StepFailed
from steplog.event import Event
from steplog.functions import Function
from steplog.step import STEP, CurrentStep
from steplog.values import Decode, dump, load, signature_of

logger = logging.getLogger(__name__)

EVICT_AFTER_MS = 30_000
CLOSE_S = 5.0  # how long a closed function may unwind before it is named
MOST_INTERRUPTS = 100  # raised in a function that swallows them; then its calls wait for ever, so that it cannot spin
MOST_SLEEP_MS = 366 * 86_400_000  # LIM-01; a year, whichever


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the local driver treats its runs."""

    evict_after_ms: int = EVICT_AFTER_MS  # a run whose open operations all wait longer is parked at once
    output_bytes: int = 4_000_000  # of a step or function (LIM-03)
    event_bytes: int = 256_000  # of an event that a step sends
    threads: int = 16  # for plain ``def`` steps


class StepNested(BaseException):
    """A step was called inside a step's body (PY-35); no user code may catch it."""


class _Begin:
    """Handed to a call instead of a result: begin the body (again)."""


_BEGIN = _Begin()


@functools.lru_cache(maxsize=16_384)
def _identity(step_id: str, occurrence: int) -> tuple[str, bytes]:
    """The wire's id of a step, and its key component. Raises ``ValueError`` for an id that is no text (fault I1)."""
    try:
        step_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a step's id is text, {step_id!r} has half of a surrogate pair") from error
    wire_id = step_wire_id(step_id, occurrence)
    return wire_id, hash16(wire_id.encode())


class Call:
    """A step that the function has called and that has no result yet."""

    __slots__ = ("attempt", "copy", "decode", "due_ms", "future", "is_nested", "step", "step_id", "wire_id")

    def __init__(self, step: bytes, wire_id: str, step_id: str, future: "asyncio.Future[Any]", decode: Decode) -> None:
        self.step, self.wire_id, self.step_id, self.future, self.decode = step, wire_id, step_id, future, decode
        self.attempt = 0
        self.due_ms: int | None = None  # it waits until then
        self.copy: tuple[Any] | None = None  # the decoded copy of a result that is being committed
        self.is_nested = False


class _Executing(CurrentStep):
    """The step whose body runs, as its code sees it; nested calls are noted on it."""

    __slots__ = ("call", "run_id")

    def __init__(self, run_id: str, call: Call) -> None:
        self.run_id, self.call = run_id, call
        self.step_id, self.attempt = call.step_id, call.attempt

    @property
    def key(self) -> str:
        return f"{self.run_id}-{self.call.wire_id[:16]}"


class LiveRun(Tenant):
    """A run whose coroutine is alive."""

    __slots__ = (
        "_calls", "_counts", "_deferred", "_delivered", "_dispatch", "_driver", "_executing", "_function",
        "_has_warned", "_interrupts", "_is_poisoned", "_own_attempt", "_pending", "_results", "generation", "is_over",
        "key", "run_id", "task",
    )  # fmt: skip

    def __init__(self, driver: "LocalDriver", function: Function[Any, Any], dispatch: Dispatch) -> None:
        super().__init__()
        self._driver, self._function, self._dispatch = driver, function, dispatch
        self.key, self.run_id, self.generation = dispatch.run, dispatch.run_id, dispatch.generation
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self._calls: dict[bytes, Call] = {}
        self._counts: dict[str, int] = {}
        self._deferred: list[Call] = []
        self._executing: dict[bytes, asyncio.Task[Any]] = {}  # the task that runs the step's body
        self._results: dict[bytes, Recorded] = {r.step: r for r in dispatch.recorded}
        self._delivered = len(dispatch.recorded)
        self._pending: dict[bytes, tuple[int | None, int]] = {p.step: (p.due_ms, p.attempt) for p in dispatch.pending}
        for step, attempt in dispatch.attempts:
            self._pending[step] = (None, attempt)
        self._own_attempt, self._is_poisoned = dispatch.attempt, dispatch.is_poisoned
        self._has_warned = False
        self._interrupts = 0

    def start(self) -> None:
        """Begin the function."""
        context = contextvars.copy_context()
        context.run(TENANT.set, self)
        self.task = asyncio.Task(self._main(), loop=self._driver.loop, context=context)

    @property
    def attempt(self) -> int:
        step = STEP.get()
        return self._own_attempt if step is None else step.attempt

    def describe(self) -> str:
        """Name the run in a warning."""
        return f"{self._function.id} ({self.run_id})"

    # --- what the function calls

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        signature = signature_of(handler)
        call = self._register(step_id, signature.decode)
        outcome: Any = _BEGIN if self._may_begin(call) else await call.future
        while outcome is _BEGIN:
            if self.is_over:  # closed after it was told to begin
                raise Interrupt
            if self._is_poisoned:
                self._report(call, Lost())
            else:
                await self._execute(call, signature.is_async, handler, args, kwargs)
            outcome = await self._outcome(call)
        return outcome

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None:
        now_ms = self._driver.now_ms()
        due_ms = until_ms if until_ms is not None else now_ms + max(for_ms or 0, 0)
        if due_ms - now_ms > MOST_SLEEP_MS:
            raise StepFailed(f"step {step_id!r} sleeps for longer than a year", "InngestErrTimeoutTooLong")
        call = self._register(step_id, msgspec.json.decode)
        if not self._may_begin(call) and await call.future is not _BEGIN:
            return
        call.due_ms = due_ms
        self._report(call, Sleep(until_ms=until_ms, for_ms=max(for_ms or 0, 0)))
        await self._outcome(call)

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> list[str]:
        call = self._register(step_id, msgspec.json.decode)
        outcome: Any = _BEGIN if self._may_begin(call) else await call.future
        if outcome is _BEGIN:
            self._report(call, self._send_event(events))
            outcome = await self._outcome(call)
        ids: list[str] = outcome
        return ids

    def _register(self, step_id: str, decode: Decode) -> Call:
        outer = STEP.get()
        if isinstance(outer, _Executing):
            outer.call.is_nested = True
            raise StepNested
        if self.is_over:
            self._interrupts += 1
            if self._interrupts <= MOST_INTERRUPTS:
                raise Interrupt
            _abandon_this_task()
        if not isinstance(step_id, str):
            raise TypeError(f"a step's id is a string, not {step_id!r}")
        counts = self._counts
        occurrence = counts.get(step_id, 0)
        counts[step_id] = occurrence + 1
        wire_id, step = _identity(step_id, occurrence)
        call = Call(step, wire_id, step_id, self._driver.loop.create_future(), decode)
        self._calls[step] = call
        return call

    def _may_begin(self, call: Call) -> bool:
        """Whether a call begins at once: not if its result is there, it waits, or other results come before it."""
        if self._driver.is_draining or self.is_over:
            return False
        if self._pending:
            waits = self._pending.pop(call.step, None)
            if waits is not None:
                call.due_ms, call.attempt = waits
                if call.due_ms is not None:
                    return False
        if not self._results:
            return True
        if call.step not in self._results:
            self._deferred.append(call)
        return False

    async def _outcome(self, call: Call) -> Any:
        """Wait for what the engine makes of a report: the recorded result, or another attempt."""
        if self.is_over:
            raise Interrupt
        return await call.future

    def _send_event(self, events: Sequence[Event[Any]]) -> Operation:
        limit = self._driver.config.event_bytes
        try:
            return SendEvent(events=tuple(outgoing_events(events, limit)))
        except SteplogError as error:
            now_ms = self._driver.now_ms()
            return StepError(error=describe_error(error).error, started_ms=now_ms, ended_ms=now_ms, final=True)

    def _report(self, call: Call, operation: Operation) -> None:
        if call.future.done():  # it was told to begin
            call.future = self._driver.loop.create_future()
        self._driver.post(
            OpReported(
                run=self.key, generation=self.generation, step=call.step, wire_id=call.wire_id,
                step_id=call.step_id, attempt=call.attempt, op=operation,
            )
        )  # fmt: skip

    async def _execute(
        self, call: Call, is_async: bool, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run a step's body and report what came of it. It runs in the caller's task: a cancelled caller ends it."""
        driver = self._driver
        started_ms = driver.now_ms()
        task = asyncio.current_task()
        assert task is not None, "functions run in tasks"
        self._executing[call.step] = task
        driver.bodies.add(task)
        token = STEP.set(_Executing(self.run_id, call))
        try:
            value = await (handler(*args, **kwargs) if is_async else driver.in_thread(handler, args, kwargs))
            data = dump(value, call.step_id, driver.config.output_bytes)
            call.copy = (load(data, call.decode, call.step_id),)
            operation: Operation = StepRun(data=data, started_ms=started_ms, ended_ms=driver.now_ms())
        except asyncio.CancelledError as error:
            if task.cancelling():  # the function turned away from it, or the process ends
                self._calls.pop(call.step, None)
                raise
            operation = self._failed(error, started_ms)
        except BaseException as error:  # noqa: BLE001 - user code
            operation = self._failed(error, started_ms)
        finally:
            STEP.reset(token)
            del self._executing[call.step]
            driver.body_ended(task)
        if call.is_nested:
            nested = ErrorInfo(name="StepNested", message="Nested steps are not supported.")
            operation = StepError(error=nested, started_ms=started_ms, ended_ms=driver.now_ms(), final=True)
        self._report(call, operation)

    def _failed(self, error: BaseException, started_ms: int) -> Operation:
        failure: Failure = describe_error(error)
        return StepError(
            error=failure.error, started_ms=started_ms, ended_ms=self._driver.now_ms(),
            final=failure.is_final, retry_after_ms=failure.retry_after_ms,
        )  # fmt: skip

    async def _main(self) -> None:
        """Run the function and report how it ended."""
        dispatch, function = self._dispatch, self._function
        try:
            context: Context[Any] = Context(self, dispatch.events)
            handler = function.handler
            value = await (handler(context, context.step) if function.takes_step else handler(context))
            output = dump(value, function.id, self._driver.config.output_bytes)
            report = RunReported(run=self.key, generation=self.generation, output=output, executing=self._outliving())
        except BaseException as error:  # noqa: BLE001 - user code
            if self.is_over:
                return
            failure = describe_error(error)
            report = RunReported(
                run=self.key, generation=self.generation, error=failure.error, final=failure.is_final,
                retry_after_ms=failure.retry_after_ms, executing=self._outliving(),
            )  # fmt: skip
        if self.is_over:
            return
        if self._results and report.error is None and any(step not in self._calls for step in self._results):
            self._warn_changed(None)
        self._retire()
        self._driver.post(report)
        self._interrupt()

    def _outliving(self) -> tuple[bytes, ...]:
        """The steps whose bodies go on when the function has ended, and will be late."""
        if not self._executing:
            return ()
        return tuple([step for step, task in self._executing.items() if not task.cancelling()])

    # --- what the engine says

    def hand_over(self, recorded: Recorded) -> None:
        """A result was recorded."""
        self._delivered += 1
        self._own_attempt, self._is_poisoned = 0, False
        self._results[recorded.step] = recorded
        if not self.is_checked:
            self.rest()

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
            if not self.is_checked:
                self.rest()

    def rest(self) -> None:
        """Hand over the next result, else let deferred calls begin, else see whether the run only waits."""
        if self.is_over:
            return
        while self._results:
            call = self._next_result()
            if call is None:
                break
            if self.is_checked:
                return
        if self._deferred:
            if self._driver.is_draining:
                return
            deferred = [call for call in self._deferred if not call.future.done()]
            self._deferred = []
            if deferred and self._results:
                self._warn_changed(deferred[0].step_id)
            for call in deferred:
                self._let_begin(call)
            if deferred:
                return
        if not self._executing and self._calls:
            self._driver.consider_parking(self)

    def _let_begin(self, call: Call) -> None:
        if not call.future.done():
            call.future.set_result(_BEGIN)

    def _next_result(self) -> Call | None:
        """Hand the first result that fits an open call to it."""
        for position, (step, recorded) in enumerate(self._results.items()):
            call = self._calls.pop(step, None)
            if call is None:
                continue
            if position:
                self._warn_changed(call.step_id)
            del self._results[step]
            self._settle(call, recorded)
            return call
        return None

    def _warn_changed(self, step_id: str | None) -> None:
        """Say once that recorded steps are not called, or in another order (DUR-09); each keeps its own result."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the steps of a function have changed since the run began",
                extra={"fields": {"function": self._function.id, "run_id": self.run_id, "step": step_id}},
            )

    def _settle(self, call: Call, recorded: Recorded) -> None:
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
        except OutputUnserializable as error:
            future.set_exception(StepFailed(str(error), type(error).__name__))

    # --- closing

    def waits_until_ms(self) -> int | None:
        """The earliest time at which an open call goes on; None where something else than waiting goes on."""
        if self._executing or self._results or self._deferred or self.is_checked or not self._calls:
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
        self._driver.post(
            RunParked(run=self._dispatch.run, generation=self._dispatch.generation, delivered=self._delivered)
        )
        self.close()

    def close(self) -> None:
        """Raise ``Interrupt`` at every open call. What the function does from now on does not count."""
        self._retire()
        self._interrupt()
        if self.task is not None and not self.task.done():
            context = contextvars.Context()
            warning = self._driver.loop.call_later(CLOSE_S, self._warn_unclosed, context=context)
            self.task.add_done_callback(lambda _: warning.cancel(), context=context)

    def _interrupt(self) -> None:
        """Raise ``Interrupt`` at the open calls; one whose body runs meets it when the body has ended."""
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(Interrupt())

    def _retire(self) -> None:
        self.is_over = True
        self._driver.forget(self._dispatch.run, self)

    def _warn_unclosed(self) -> None:
        if self.task is not None and not self.task.done():
            logger.warning(
                "a closed function does not end; it is abandoned",
                extra={"fields": {"function": self._function.id, "run_id": self.run_id, "after_s": CLOSE_S}},
            )


class LocalDriver:
    """All live runs of this process. Every method runs on the users' loop."""

    def __init__(
        self,
        loop: UsersLoop,
        functions: Mapping[str, Function[Any, Any]],
        post: Callable[[Message], None],
        config: LocalConfig,
    ) -> None:
        self.loop, self.post, self.config = loop, post, config
        self._functions = functions
        self._live: dict[bytes, LiveRun] = {}
        self._waiting: dict[bytes, LiveRun] = {}  # in the order in which they began to wait
        self._threads: ThreadPoolExecutor | None = None
        self.is_draining = False
        self._bodies_ended: asyncio.Event | None = None  # while draining
        self.bodies: set[asyncio.Task[Any]] = set()  # that run a step's body: nothing else may hold them

    @staticmethod
    def now_ms() -> int:
        """The wall clock, for when bodies began and ended."""
        return time.time_ns() // 1_000_000

    @property
    def executing(self) -> int:
        """How many steps' bodies run."""
        return len(self.bodies)

    @property
    def live_runs(self) -> int:
        return len(self._live)

    def handle(self, effects: Sequence[Effect]) -> None:
        """Do what a committed turn asked for, in order."""
        if self.is_draining:
            return  # what is not begun here is begun by the next process
        live = self._live
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._dispatch(effect)
                continue
            if isinstance(effect, MakeRoom):
                self._make_room(effect.count)
                continue
            assert not isinstance(effect, Answer), "answers are not for drivers"
            run = live.get(effect.run)
            if run is None or run.generation != effect.generation:
                continue
            if isinstance(effect, Resume):
                run.hand_over(effect.recorded)
            elif isinstance(effect, Retry):
                run.retry(effect.step, effect.attempt)
            elif isinstance(effect, Backoff):
                run.back_off(effect.step, effect.attempt, effect.due_ms)
            else:  # the engine ended it, the function has not
                run.close()

    def abandon(self) -> None:
        """The node has lost its state and reads it back: what lives here is of no use to it any more."""
        for run in list(self._live.values()):
            run.close()

    async def drain(self, grace_s: float) -> None:
        """Begin nothing, let the bodies that run end for a while, then close every run."""
        self.is_draining = True
        if self.bodies:
            self._bodies_ended = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._bodies_ended.wait(), grace_s)
        tasks = {run.task for run in self._live.values() if run.task is not None}
        self.abandon()
        if self.bodies:
            tasks |= self.bodies
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def body_ended(self, task: asyncio.Task[Any]) -> None:
        """A step's body has ended."""
        self.bodies.discard(task)
        if self._bodies_ended is not None and not self.bodies:
            self._bodies_ended.set()

    async def in_thread(self, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run plain ``def`` user code: the one place where it happens. It may return an awaitable, as a lambda does."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.config.threads, thread_name_prefix="steplog-step")
        call = functools.partial(contextvars.copy_context().run, _in_thread, handler, args, kwargs)
        value = await self.loop.run_in_executor(self._threads, call)
        return await value if inspect.isawaitable(value) else value

    def forget(self, key: bytes, run: LiveRun) -> None:
        """The run is over here."""
        if self._live.get(key) is run:
            del self._live[key]
            self._waiting.pop(key, None)

    def consider_parking(self, run: LiveRun) -> None:
        """Park a run that waits long; remember one that waits shortly."""
        until_ms = run.waits_until_ms()
        if until_ms is None:
            return
        if until_ms - self.now_ms() > self.config.evict_after_ms:
            run.park()
        else:
            self._waiting[run.key] = run

    def _dispatch(self, dispatch: Dispatch) -> None:
        before = self._live.get(dispatch.run)
        if before is not None:
            before.close()
        run = LiveRun(self, self._functions[dispatch.function], dispatch)
        self._live[dispatch.run] = run
        run.start()

    def _make_room(self, count: int) -> None:
        """Park those that have waited longest."""
        for key, run in list(self._waiting.items()):
            if count <= 0:
                return
            del self._waiting[key]
            if run.waits_until_ms() is not None:
                run.park()
                count -= 1


def _in_thread(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except StopIteration as error:  # no future takes one
        raise RuntimeError("the step raised StopIteration") from error


def _abandon_this_task() -> None:
    """Let no stop wait for a task that swallows whatever is raised in it, cancellation too."""
    with suppress(RuntimeError):  # the loop has ended
        task = asyncio.current_task()
        if task is not None:
            asyncio._unregister_task(task)
