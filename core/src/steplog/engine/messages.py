"""What owners react to. Times and ids come in with the message; ``run`` is the run's key."""

from collections.abc import Callable

import msgspec

from steplog.engine.operations import ErrorInfo, Operation

Origin = tuple[int, int, int]  # of an event that the log has brought: partition, offset, received_ms


class EventAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An event to write and to route. Events of one request are one group, and one commit."""

    env: int
    internal_id: bytes
    internal_text: str  # the same, printed
    id: str  # the sender's, else the internal one
    name: str
    ts_ms: int  # it starts runs then, by the partition's clock, where that lies in the future
    received_ms: int
    slot: int
    body: bytes  # the event's record, JSON
    is_repeatable: bool  # the sender gave an id or a seed: starts at most one run a function
    starts: str | None = None  # a function that it starts besides those that its name triggers
    origin: bytes | None = None  # what the id of that run is made from; None: the internal id
    parent: tuple[bytes, bytes] | None = None  # run key and step that wait for the result of that run
    ticket: int | None = None  # answered when the event is committed; stands on the last event of a group
    is_last: bool = True


class OpReported(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A driver reports an operation of a step."""

    run: bytes
    generation: int
    step: bytes  # hash
    wire_id: str
    step_id: str
    attempt: int
    op: Operation


class RunReported(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The function returned or raised."""

    run: bytes
    generation: int
    output: bytes | None = None  # JSON; None with an error
    error: ErrorInfo | None = None
    final: bool = False  # of an error: trying again cannot help
    retry_after_ms: int | None = None
    executing: tuple[bytes, ...] = ()  # steps whose bodies still run


class RunParked(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A driver closed a live run that only waits; ``delivered`` results had reached it."""

    run: bytes
    generation: int
    delivered: int


class DispatchLost(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The process that executed a run is gone. ``counted`` is false where it handed the run back in order."""

    run: bytes
    counted: bool = True


class SignalAwaited(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step waits for a signal. ``replaces``: instead of the step that does so already."""

    env: int
    signal: str
    run: bytes
    step: bytes
    replaces: bool


class SignalSent(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A signal was sent: from outside, which has a ticket, or by a step. Either is told of the run that it resumes."""

    env: int
    signal: str
    data: bytes  # JSON
    ticket: int | None = None
    sender: tuple[bytes, bytes] | None = None  # run key and step


class SignalHeard(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The signal that a step waits for was sent."""

    run: bytes
    step: bytes
    sent: SignalSent


class SignalAnswered(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """What became of a signal that came from outside."""

    ticket: int
    run_id: str | None  # of the run that it resumed


class WaitArmed(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step waits for an event: it stands in the index from now on."""

    key: bytes  # of the index


class EventOffered(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An event may end the steps that stand in one place of the index."""

    prefix: bytes  # of their keys
    name: str
    event: bytes  # as functions see it, JSON
    origin: Origin


class EventMet(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An event may end a step that waits; its condition decides."""

    run: bytes
    step: bytes
    name: str
    event: bytes  # as functions see it, JSON
    origin: Origin


class LookBack(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A wait that looks back was not told what came before by the process that is gone: it asks again."""

    run: bytes
    step: bytes


class EventsRead(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """What came before a wait that looks back: the answer to ``effects.ReadEvents``."""

    run: bytes
    step: bytes
    events: tuple[bytes, ...]  # JSON records, in the order of their receipt
    cut_ms: int = 0  # what was received until then was not looked at; 0: all was


class WaitEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """What a step waits for has come, or never will: the result of a run that it has invoked, or an error."""

    run: bytes
    step: bytes
    output: bytes | None = None  # JSON
    error: ErrorInfo | None = None


class WaitForgotten(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step does not wait any more: it goes from an index."""

    key: bytes  # of the index
    run: bytes
    step: bytes


class TimerFired(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A timer came due."""

    run: bytes
    step: bytes
    due_ms: int


class RetryNow(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Whatever waits for another attempt is to have it at once. ``after``: the timers up to this key have been met."""

    env: int
    after: bytes = b""


class Adopt(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """An open run whose function had been unknown here, and is known now."""

    run: bytes
    function: str


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """The process ends in order; what is in flight is handed back, not lost."""


class PlanCrons(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A node has started: plan the crons that are new, or have changed."""

    env: int


class SweepSeen(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Forget event ids older than their window."""

    env: int


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A record of an input that makes no sense: it is put aside as it was, with the reason."""

    topic: str
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    reason: str


class Carried(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A message that came with a log which was moved here: it goes from the state with its decision."""

    key: bytes
    message: bytes  # msgpack


Message = (
    EventAccepted | OpReported | RunReported | RunParked | DispatchLost | SignalAwaited | SignalSent | SignalHeard
    | SignalAnswered | WaitArmed | EventOffered | EventMet | LookBack | EventsRead | WaitEnded | WaitForgotten
    | TimerFired | RetryNow | Adopt | Drain | PlanCrons | SweepSeen | Unreadable | Carried
)  # fmt: skip

OfRun = OpReported | RunReported | RunParked | DispatchLost | EventsRead  # what a run is told by a driver or a reader

encode_message = msgspec.msgpack.Encoder().encode
decode_message: Callable[[bytes], Message] = msgspec.msgpack.Decoder(Message).decode


class Input(msgspec.Struct, frozen=True):
    """A message that a log brings, and where it stands: the turn that decides it keeps how far it has come."""

    topic: str
    offset: int
    message: Message
