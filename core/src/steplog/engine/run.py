"""A run: the owner that holds what its function has done.

A run that has not begun and waits for a place is one value, in the queue: a long queue costs a row in and a row out.
``RunHead`` and each ``StepState`` are values of keys of their own, so a step writes its own key only, and step 1,000 as
little as step 1. ``Run`` is the owner in memory. Numbers that would change the head with every step (the journal's
``seq``, how many steps are recorded) live here and are derived from the steps when a run is read back.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from steplog.engine import keys
from steplog.engine.effects import Pending, Recorded
from steplog.engine.functions import ENVIRONMENTS
from steplog.engine.ids import encode_ulid
from steplog.engine.operations import ErrorInfo
from steplog.engine.records import Place, event_seen

SCHEDULED, QUEUED, RUNNING, WAITING = "scheduled", "queued", "running", "waiting"
COMPLETED, FAILED = "completed", "failed"
TERMINAL = frozenset({COMPLETED, FAILED})


class RunHead(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value of ``run/<id>``."""

    function: str
    app: str
    state: str
    generation: int = 0  # raised with every dispatch
    attempt: int = 0  # of the function's own code; back to 0 with every recorded step (ERR-04)
    lost: int = 0  # processes lost in a row since the last record
    is_poisoned: bool = False  # begin no further step
    seq: int = 0
    due_ms: int = 0  # of the run's own timer: start, retry or back-off
    started_ms: int = 0  # when it was dispatched for the first time
    parent: tuple[bytes, bytes] | None = None  # run key and step that wait for its result
    place: Place = (0, 0)  # of the event that started it
    is_quiet: bool = False  # it handles failures: no event tells of its own end (ERR-19)
    executing: tuple[bytes, ...] = ()  # steps whose bodies outlive a terminal run


class EventWait(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a step that waits for events still needs."""

    events: tuple[str, ...]
    all_of: bool = False
    if_exp: str | None = None
    since: Place = (0, 0)  # events from there on count
    since_ms: int = 0  # and those received from then on
    trigger: tuple[int, int] = (-1, -1)  # of what started the run: none of its partition that is not behind its offset
    is_asking: bool = False  # what came before is not known yet: until then, what comes is put by in ``met``
    met: dict[str, msgspec.Raw] = {}  # by name, where each is waited for


class StepState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value of ``run/<id>/step/<hash>``."""

    id: str  # the wire's
    name: str
    op: str
    state: str  # waiting | errored | due | completed | failed
    attempt: int = 0  # the next one, or the one that was recorded
    due_ms: int = 0
    stack: int = -1  # place in the run's completion order
    seq: int = 0
    data: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorInfo | None = None
    at_ms: int = 0  # since when it waits, or when its result was recorded
    keys: tuple[bytes, ...] = ()  # of the index that find it while it waits
    wait: EventWait | None = None


class Run:
    """A run in memory."""

    __slots__ = (
        "_event", "env", "events", "has_rows", "head", "id", "is_live", "key", "last_turn", "recorded", "retried",
        "seq", "size_bytes", "steps",
    )  # fmt: skip

    def __init__(self, key: bytes, head: RunHead, events: list[bytes], text_id: str | None = None) -> None:
        self.key, self.head, self.events = key, head, events
        self.id = text_id or encode_ulid(keys.run_id_of(key))
        self._event: Any = None
        self.env = ENVIRONMENTS[keys.env_of(key)]
        self.steps: dict[bytes, StepState] = {}
        self.seq = head.seq
        self.recorded = 0
        self.size_bytes = sum(map(len, events))
        self.has_rows = False  # below ``run/<id>``
        self.is_live = False
        self.retried: tuple[bytes, ...] = ()  # steps that came due during this dispatch: the driver may not know yet
        self.last_turn = 0

    @property
    def event(self) -> Any:
        """The event that started the run, as functions and expressions see it."""
        if self._event is None:
            self._event = event_seen(self.events[0])
        return self._event

    @property
    def is_terminal(self) -> bool:
        return self.head.state in TERMINAL

    def next_seq(self) -> int:
        """Take the next number of the run's journal."""
        self.seq += 1
        return self.seq

    def recorded_steps(self) -> tuple[Recorded, ...]:
        """Every recorded result in completion order."""
        if not self.recorded:
            return ()
        done = sorted((s.stack, h) for h, s in self.steps.items() if s.stack >= 0)
        return tuple([_recorded(h, self.steps[h]) for _, h in done])

    def pending_steps(self) -> tuple[Pending, ...]:
        """Every step that waits for its timer."""
        if not self.steps:
            return ()
        return tuple(
            [Pending(h, s.due_ms, s.attempt) for h, s in self.steps.items() if s.state in ("waiting", "errored")]
        )

    def due_attempts(self) -> tuple[tuple[bytes, int], ...]:
        """Attempts of steps that failed before and are to begin when the function reaches them."""
        if not self.steps:
            return ()
        return tuple([(h, s.attempt) for h, s in self.steps.items() if s.state == "due"])


def _recorded(step: bytes, state: StepState) -> Recorded:
    """The result of a recorded step, as drivers get it."""
    return Recorded(step, None if state.error else bytes(state.data), state.error, state.at_ms)


class _Unbegun(msgspec.Struct, array_like=True):
    """The value of ``queue/…`` of a run that has no rows of its own."""

    id: str
    head: RunHead
    events: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_unbegun_decoder = msgspec.json.Decoder(_Unbegun)
_head_decoder = msgspec.json.Decoder(RunHead)
_step_decoder = msgspec.json.Decoder(StepState)


def read_run(key: bytes, rows: Iterable[tuple[bytes, bytes]]) -> Run | None:
    """Put a run together from its rows, which begin with its head.

    Rows without one are of a run that has ended; the table loses its head before them.
    """
    pairs = iter(rows)
    first, value = next(pairs, (b"", b""))
    if first != key:
        return None
    head = _head_decoder.decode(value)
    events: list[bytes] = []
    steps: dict[bytes, StepState] = {}
    for row, value in pairs:
        if keys.is_step(row):
            steps[keys.step_of(row)] = _step_decoder.decode(value)
        else:
            events.append(value)
    run = Run(key, head, events)
    run.has_rows, run.steps = True, steps
    for step in steps.values():
        run.seq = max(run.seq, step.seq)
        run.recorded = max(run.recorded, step.stack + 1)
        run.size_bytes += len(step.data)
    return run


def pack_unbegun(run: Run) -> bytes:
    """Write a run that has not begun as one value."""
    return _encode(_Unbegun(run.id, run.head, [msgspec.Raw(event) for event in run.events]))


def read_unbegun(key: bytes, value: bytes) -> Run:
    """Read what ``pack_unbegun`` wrote."""
    unbegun = _unbegun_decoder.decode(value)
    return Run(key, unbegun.head, [bytes(event) for event in unbegun.events], unbegun.id)
