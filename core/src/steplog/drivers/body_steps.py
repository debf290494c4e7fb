"""The steps of a run that run a body: begun when the function calls them, or when they are told to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from steplog.drivers.bodies import Bodies
from steplog.drivers.call import BEGIN, Call, Calls
from steplog.drivers.failures import Failure, describe_error
from steplog.engine.operations import ErrorInfo, Lost, Operation, StepError, StepRun
from steplog.errors import Interrupt
from steplog.step import STEP, StepOptions
from steplog.values import dump, encode_to_load, load, signature_of

if TYPE_CHECKING:
    from steplog.drivers.live_run import Host


class StepNested(BaseException):
    """A step was called inside a step's body (PY-35); no user code may catch it."""


class BodySteps(Calls):
    """Executes the bodies of one run's steps, over what ``LiveRun`` does with every step."""

    __slots__ = ()
    is_over: bool
    _host: "Host"
    _bodies: Bodies
    _calls: dict[bytes, Call]
    _executing: dict[bytes, asyncio.Task[Any]]
    _is_poisoned: bool

    async def run_step(
        self, step_id: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        options: StepOptions | None = None,
    ) -> Any:  # fmt: skip
        signature = signature_of(handler)
        call = self._register(step_id, signature.decode)
        if options is not None:
            call.options = options
            call.decode = options.decode or call.decode
        outcome: Any = BEGIN if self._may_begin(call) else await call.future
        while outcome is BEGIN:
            if self.is_over:  # closed after it was told to begin
                raise Interrupt
            if self._is_poisoned:
                operation: Operation = Lost()
            else:
                operation = await self._execute(call, signature.is_async, handler, args, kwargs)
            outcome = await self._outcome(call, operation)
        return outcome

    async def _execute(
        self, call: Call, is_async: bool, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Operation:
        """Run a step's body. It runs in the caller's task: a cancelled caller ends it."""
        bodies = self._bodies
        task = asyncio.current_task(bodies.loop)
        assert task is not None, "functions run in tasks"
        started_ms = self._now_ms()
        self._executing[call.step] = task
        bodies.began(task, call)
        token = STEP.set(call)
        try:
            body = handler(*args, **kwargs) if is_async else bodies.in_thread(handler, args, kwargs)
            value = await (body if call.options.timeout_ms is None else _within(call.options.timeout_ms, body))
            data = dump(value, call.step_id, self._host.config.output_bytes, encode_to_load)
            call.copy = (load(data, call.decode, call.step_id),)
            operation: Operation = StepRun(data=data, started_ms=started_ms, ended_ms=self._now_ms())
        except asyncio.CancelledError as error:
            if task.cancelling() > call.is_overdue:  # the function turned away from it, or the process ends
                self._calls.pop(call.step, None)
                self._ask_for_rest()
                raise
            operation = self._failed(call, self._overdue() if call.is_overdue else error, started_ms)
        except BaseException as error:  # noqa: BLE001 - user code
            operation = self._failed(call, error, started_ms)
        finally:
            STEP.reset(token)
            del self._executing[call.step]
            bodies.ended(task)
            if call.is_overdue:
                task.uncancel()
        if call.is_nested:
            nested = ErrorInfo(name="StepNested", message="Nested steps are not supported.")
            return StepError(error=nested, started_ms=started_ms, ended_ms=self._now_ms(), final=True)
        return operation

    def _overdue(self) -> TimeoutError:
        return TimeoutError(
            f"the step ran for longer than {self._host.config.step_ms / 1000:g} s, the limit of an attempt"
        )

    def _failed(self, call: Call, error: BaseException, started_ms: int) -> Operation:
        failure: Failure = describe_error(error, self._now_ms())
        return StepError(
            error=failure.error, started_ms=started_ms, ended_ms=self._now_ms(), final=failure.is_final,
            retry_after_ms=failure.retry_after_ms, retries=call.options.retries,
        )  # fmt: skip


async def _within(timeout_ms: int, body: Awaitable[Any]) -> Any:
    """Await a step's body for so long. Raises ``TimeoutError``: the attempt has failed."""
    try:
        async with asyncio.timeout(timeout_ms / 1000) as limit:
            return await body
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"the step ran for longer than {timeout_ms / 1000:g} s") from None
        raise
