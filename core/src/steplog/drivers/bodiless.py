"""The steps of a run that run no body: what each asks of the engine, once, when the function calls it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from steplog.drivers.call import BEGIN, Calls
from steplog.drivers.failures import describe_error
from steplog.engine.operations import (
    InvokeFunction,
    Operation,
    Produce,
    SendEvent,
    SendSignal,
    Sleep,
    StepError,
    WaitForEvent,
    WaitForSignal,
)
from steplog.errors import StepError as StepFailed
from steplog.errors import SteplogError
from steplog.event import Event
from steplog.outgoing import outgoing_events
from steplog.step import ProducedRecord, Signal
from steplog.values import Decode, dump

YEAR_MS = 365 * 86_400_000
MOST_WAIT_MS = 366 * 86_400_000  # LIM-01; a year, whichever


class BodilessSteps(Calls):
    """Sleeps, waits, sends and calls of one run, over what ``LiveRun`` does with every step."""

    __slots__ = ()
    _event_bytes: int  # the largest event that a step sends
    _output_bytes: int  # the largest value that a step writes

    async def sleep(self, step_id: str, *, until_ms: int | None, for_ms: int | None) -> None:
        at_ms = self._now_ms()
        due_ms = until_ms if until_ms is not None else at_ms + max(for_ms or 0, 0)
        operation = Sleep(until_ms=until_ms, for_ms=max(for_ms or 0, 0))
        await self._wait(step_id, operation, due_ms - at_ms, msgspec.json.decode)

    async def wait_for_event(
        self, step_id: str, *, events: tuple[str, ...], all_of: bool, if_exp: str | None, is_since_trigger: bool,
        timeout_ms: int, decode: Decode,
    ) -> Any:  # fmt: skip
        timeout_ms = max(timeout_ms, 0)
        operation = WaitForEvent(
            events=events, all_of=all_of, if_exp=if_exp, timeout_ms=timeout_ms, is_since_trigger=is_since_trigger
        )
        return await self._wait(step_id, operation, timeout_ms, decode)

    async def wait_for_signal(self, step_id: str, *, signal: str, timeout_ms: int, replace: bool) -> Signal | None:
        timeout_ms = max(timeout_ms, 0)
        operation = WaitForSignal(signal=signal, timeout_ms=timeout_ms, replaces=replace)
        heard: Signal | None = await self._wait(step_id, operation, timeout_ms, _decode_signal)
        return heard

    async def send_signal(self, step_id: str, *, signal: str, data: object) -> str | None:
        body = dump(data, step_id, self._event_bytes)
        call = self._register(step_id, msgspec.json.decode)
        outcome: Any = BEGIN if self._may_begin(call) else await call.future
        if outcome is BEGIN:
            outcome = await self._outcome(call, SendSignal(signal=signal, data=body))
        run_id: str | None = outcome
        return run_id

    async def produce(
        self, step_id: str, *, topic: str, key: bytes | None, value: object, headers: tuple[tuple[str, bytes], ...],
        partition: int | None,
    ) -> ProducedRecord:  # fmt: skip
        operation = Produce(
            topic=topic, key=key, value=self._record_value(step_id, value), headers=headers, partition=partition
        )
        call = self._register(step_id, _decode_produced)
        outcome: Any = BEGIN if self._may_begin(call) else await call.future
        while outcome is BEGIN:  # at each attempt: the topic may be created meanwhile
            outcome = await self._outcome(call, operation)
        record: ProducedRecord = outcome
        return record

    def _record_value(self, step_id: str, value: object) -> bytes | None:
        """Text and bytes as they are, everything else as JSON."""
        match value:
            case None | bytes():
                return value
            case str():
                return value.encode()
            case _:
                return dump(value, step_id, self._output_bytes)

    async def invoke(
        self, step_id: str, *, function_id: str, data: object, user: object, v: str | None, timeout_ms: int | None,
        decode: Decode,
    ) -> Any:  # fmt: skip
        body = b"{}" if data is None else dump(data, step_id, self._event_bytes)
        if not body.startswith(b"{"):
            raise TypeError(f"step {step_id!r} invokes {function_id} with {body[:40]!r}; data is an object")
        if v is not None and not isinstance(v, str):
            raise TypeError(f"step {step_id!r} invokes {function_id} with v={v!r}; it is text")
        timeout_ms = YEAR_MS if timeout_ms is None else max(timeout_ms, 0)
        operation = InvokeFunction(
            function=function_id, data=body, timeout_ms=timeout_ms, v=v,
            user=None if user is None else dump(user, step_id, self._event_bytes),
        )  # fmt: skip
        return await self._wait(step_id, operation, timeout_ms, decode)

    async def _wait(self, step_id: str, operation: Operation, most_ms: int, decode: Decode) -> Any:
        """Call a step that only waits, for so long at the most."""
        if most_ms > MOST_WAIT_MS:
            verb = "sleeps" if isinstance(operation, Sleep) else "waits"
            message = f"step {step_id!r} {verb} for longer than a year: {most_ms} ms, the limit is {MOST_WAIT_MS} ms"
            raise StepFailed(message, "InngestErrTimeoutTooLong")
        call = self._register(step_id, decode)
        outcome: Any = BEGIN if self._may_begin(call) else await call.future
        if outcome is BEGIN:
            call.due_ms = self._now_ms() + most_ms
            self._ask_for_rest()
            outcome = await self._outcome(call, operation)
        return outcome

    async def send_event(self, step_id: str, events: Sequence[Event[Any]]) -> list[str]:
        call = self._register(step_id, msgspec.json.decode)
        outcome: Any = BEGIN if self._may_begin(call) else await call.future
        if outcome is BEGIN:
            outcome = await self._outcome(call, self._send_event(events))
        ids: list[str] = outcome
        return ids

    def _send_event(self, events: Sequence[Event[Any]]) -> Operation:
        try:
            return SendEvent(events=tuple(outgoing_events(events, self._event_bytes)))
        except SteplogError as error:
            at_ms = self._now_ms()
            return StepError(error=describe_error(error, at_ms).error, started_ms=at_ms, ended_ms=at_ms, final=True)


_decode_produced: Decode = msgspec.json.Decoder(ProducedRecord).decode
_decode_signal: Decode = msgspec.json.Decoder(Signal | None).decode
