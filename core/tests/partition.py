"""One partition over a log in memory, for tests that read as stories: messages in, records and effects out.

Time is virtual and moves by ``advance`` alone. ``crash`` drops everything that is not committed and reads the log back.
"""

import asyncio
from collections.abc import Iterable
from copy import deepcopy
from typing import TypeVar

import msgspec

from steplog.engine import keys, records
from steplog.engine.effects import Answer, Dispatch, Effect, RunEnded
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, EventTrigger, FunctionSpec, Registry
from steplog.engine.ids import hash16, step_wire_id, ulid
from steplog.engine.messages import Drain, EventAccepted, Message, OpReported, RunParked, RunReported
from steplog.engine.operations import ErrorInfo, EventOut, Lost, Operation, SendEvent, Sleep, StepError, StepRun
from steplog.engine.processor import LoadedState, Processor, Turn
from steplog.engine.state import Limits
from steplog.log.memory import MemoryLog

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NOON = 1_800_014_400_000  # 12:00 UTC of some day
SPILLING = Limits(
    pending_keys=0, slice_keys=1, pending_turns=1, head_keys=2
)  # all but the newest keys are in the table

_decode = msgspec.json.Decoder(records.Record).decode
EffectT = TypeVar("EffectT", bound=Effect)
RecordT = TypeVar("RecordT", bound=records.Record)


def function(name: str, event: str | None = None, *, retries: int = 4) -> FunctionSpec:
    """A function of app ``a`` that an event of its own name starts, unless another is given."""
    return FunctionSpec(id=f"a-{name}", app="a", triggers=(EventTrigger(event or name),), retries=retries)


class Partition:
    """The engine, its processor and its log."""

    def __init__(
        self, *functions: FunctionSpec, config: EngineConfig | None = None, limits: Limits | None = None,
        now_ms: int = NOON,
    ) -> None:  # fmt: skip
        self.log = MemoryLog()
        self.now_ms = now_ms
        self._config, self._limits = config or EngineConfig(), limits or Limits()
        self._functions: tuple[FunctionSpec, ...] = functions
        self._events = 0
        self.processor = self._load()

    def _load(self) -> Processor:
        loaded = asyncio.run(self.log.load())
        processor = Processor(loaded, Registry(self._functions), self._config, self._limits)
        processor.recover()
        return processor

    @property
    def commits(self) -> int:
        """How many turns the log has."""
        return self._committed().turn

    # --- messages in

    def post(self, *messages: Message) -> list[Effect]:
        """Decide messages, and whatever is due, until nothing is left to do now; return the released effects."""
        for message in messages:
            self.processor.post(message)
        return self.settle()

    def settle(self) -> list[Effect]:
        """Decide what waits."""
        released: list[Effect] = []
        while self.processor.has_work(self.now_ms):
            self.write(self.decide())
            released += self.processor.committed()
        return released

    def decide(self, *messages: Message) -> Turn:
        """Decide messages as a turn that is not written yet."""
        for message in messages:
            self.processor.post(message)
        while not self.processor.advance(self.now_ms):
            pass
        return self.processor.seal()

    def write(self, turn: Turn) -> None:
        """Commit a turn; its effects are not released."""
        asyncio.run(self.log.commit(turn))

    def event(
        self, name: str, *, id: str | None = None, ts_ms: int | None = None, data: bytes = b"{}",
        ticket: int | None = None, is_last: bool = True,
    ) -> EventAccepted:  # fmt: skip
        """An accepted event, with an internal id of its own."""
        self._events += 1
        internal = ulid(self.now_ms, self._events.to_bytes(10, "big"))
        out = EventOut(name=name, data=data, id=id, ts=ts_ms)
        return accept_event(
            out, internal, env=DEFAULT_ENV, received_ms=self.now_ms, source="test", ticket=ticket, is_last=is_last
        )

    def send(self, name: str, *, id: str | None = None, ts_ms: int | None = None) -> list[Effect]:
        """Accept one event."""
        return self.post(self.event(name, id=id, ts_ms=ts_ms))

    def start(self, name: str) -> Dispatch:
        """Accept one event and take the dispatch of the one run that it starts."""
        return the(Dispatch, self.send(name))

    def advance(self, ms: int) -> list[Effect]:
        """Let time pass, from timer to timer."""
        released = self.settle()
        until_ms = self.now_ms + ms
        while (due_ms := self.processor.next_due_ms()) is not None and due_ms <= until_ms:
            self.now_ms = max(self.now_ms, due_ms)
            released += self.settle()
        self.now_ms = until_ms
        return released + self.settle()

    def crash(self, *functions: FunctionSpec) -> list[Effect]:
        """Lose what is not in the log, start again (with other functions, where some are given), and recover."""
        self.reload(*functions)
        return self.settle()

    def reload(self, *functions: FunctionSpec) -> None:
        """Crash and start again, and leave what a start has to decide in the mailbox."""
        self._functions = functions or self._functions
        self.processor = self._load()

    def drain(self) -> list[Effect]:
        """End in order, and start again."""
        self.post(Drain())
        return self.crash()

    # --- records and state out

    def journal(self) -> list[records.Record]:
        """Every record, in order."""
        return [_decode(record) for _, turn in self.log.journal for record in turn]

    def of(self, kind: type[RecordT]) -> list[RecordT]:
        """Every record of a kind."""
        return [record for record in self.journal() if isinstance(record, kind)]

    def kinds(self, run_id: str) -> list[str]:
        """The kinds of a run's records; its numbers have no gap."""
        found = [r for r in self.journal() if not isinstance(r, records.EventRouted) and r.run == run_id]
        assert [record.seq for record in found] == list(range(1, len(found) + 1))
        return [str(record.__struct_config__.tag) for record in found]

    def _committed(self) -> LoadedState:
        return asyncio.run(deepcopy(self.log).load())

    def stored(self) -> list[str]:
        """Every key of the state but those of seen events and functions, as a crash would find it, readably."""
        kept = (keys.SEEN, keys.FUNCTION)
        found = [key for key, _ in self._committed().table.scan(b"\0", b"\xff", 1 << 30) if key[0] not in kept]
        return [keys.printed(key) for key in found]


def the(kind: type[EffectT], effects: Iterable[Effect]) -> EffectT:
    """The one effect of a kind."""
    found = all_of(kind, effects)
    assert len(found) == 1, f"one {kind.__name__} was expected: {effects}"
    return found[0]


def all_of(kind: type[EffectT], effects: Iterable[Effect]) -> list[EffectT]:
    """Every effect of a kind, in order."""
    return [effect for effect in effects if isinstance(effect, kind)]


def answered(effects: Iterable[Effect]) -> list[int]:
    """The tickets that were answered."""
    return [answer.ticket for answer in all_of(Answer, effects)]


def ended(effects: Iterable[Effect]) -> str:
    """How the one run that ended did."""
    return the(RunEnded, effects).status


# --- what a driver reports, for a dispatch


def step_hash(name: str) -> bytes:
    """The key component of a step's first call."""
    return hash16(step_wire_id(name, 0).encode())


def report(at: Dispatch, name: str, op: Operation, *, attempt: int = 0) -> OpReported:
    return OpReported(
        run=at.run, generation=at.generation, step=step_hash(name), wire_id=step_wire_id(name, 0), step_id=name,
        attempt=attempt, op=op,
    )  # fmt: skip


def ran(at: Dispatch, name: str, data: bytes = b"1", *, attempt: int = 0) -> OpReported:
    """A step's body returned."""
    return report(at, name, StepRun(data=data, started_ms=1, ended_ms=2), attempt=attempt)


def broke(
    at: Dispatch, name: str, *, attempt: int = 0, final: bool = False, retry_after_ms: int | None = None
) -> OpReported:
    """A step's body raised."""
    error = ErrorInfo(name="ValueError", message=f"{name} {attempt}")
    op = StepError(error=error, started_ms=1, ended_ms=2, final=final, retry_after_ms=retry_after_ms)
    return report(at, name, op, attempt=attempt)


def slept(at: Dispatch, name: str, until_ms: int) -> OpReported:
    """A step sleeps."""
    return report(at, name, Sleep(until_ms=until_ms))


def sent(at: Dispatch, name: str, *events: EventOut) -> OpReported:
    """A step sends events."""
    return report(at, name, SendEvent(events=events))


def not_begun(at: Dispatch, name: str, *, attempt: int = 0) -> OpReported:
    """A step of a poisoned dispatch."""
    return report(at, name, Lost(), attempt=attempt)


def returned(at: Dispatch, output: bytes = b"null", *, executing: Iterable[str] = ()) -> RunReported:
    """The function returned; bodies of some steps still run."""
    return RunReported(
        run=at.run, generation=at.generation, output=output, executing=tuple(step_hash(name) for name in executing)
    )


def raised(
    at: Dispatch, *, final: bool = False, retry_after_ms: int | None = None, executing: Iterable[str] = ()
) -> RunReported:
    """The function's own code raised."""
    return RunReported(
        run=at.run, generation=at.generation, error=ErrorInfo(name="KeyError", message="'x'"), final=final,
        retry_after_ms=retry_after_ms, executing=tuple(step_hash(name) for name in executing),
    )  # fmt: skip


def parked(at: Dispatch, *, delivered: int) -> RunParked:
    """The driver closed a run that only waits."""
    return RunParked(run=at.run, generation=at.generation, delivered=delivered)
