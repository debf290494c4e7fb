"""Accounts for every accepted event, from the log alone (spec: faults.md P2, P4 and the linear journal).

An event is accounted for when exactly one record says what became of it, each run that it started is scheduled, and the
records of each run are numbered without gap or repeat, with one end at most. Streams: held in memory are open runs, and
those that ended in the last two hours of the journal, as long as an answer may come late.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from steplog.engine.ids import decode_ulid, ulid_ms
from steplog.engine.records import (
    EventRouted,
    Record,
    RunCompleted,
    RunErrored,
    RunFailed,
    RunScheduled,
    RunStarted,
    StepCompleted,
    StepErrored,
    StepFailed,
    StepLate,
    StepWaiting,
    StoredEvent,
)
from steplog.history.journal import Tape, TurnRecords
from steplog.history.offline import portions
from steplog.history.position import Position
from steplog.history.source import Source
from steplog.log.sqlite import JournalReader

LATE_MS = 2 * 3_600_000 + 60_000  # the longest execution of a step (LIM-02), and a minute
FINDINGS = 20  # shown by id; all are counted

RunRecord = (
    RunScheduled
    | RunStarted
    | StepCompleted
    | StepErrored
    | StepFailed
    | StepWaiting
    | StepLate
    | RunErrored
    | RunCompleted
    | RunFailed
)


class Finding(msgspec.Struct, frozen=True):
    """Something that does not add up."""

    id: str  # of the run, the event, or the place in the log
    problem: str


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what was accepted."""

    accepted: int  # events
    scheduled: int  # runs
    completed: int
    failed: int
    open: int
    skipped: dict[str, int]  # reason: triggers
    dead: int  # records that cannot be read
    unaccounted: int  # events and runs
    planned_steps: int  # of which anything is recorded
    recorded_steps: int  # with a result
    repeated_steps: int  # with more than one result
    findings: tuple[Finding, ...]  # the first 20
    missing: int = 0  # commits that a restored backup did not have
    damaged: int | None = None  # rows and pages; None: not every one was read

    @property
    def is_clean(self) -> bool:
        """Whether everything adds up."""
        return not (self.unaccounted or self.repeated_steps or self.dead or self.missing or self.damaged)


def audit(
    log_path: Path, since_ms: int | None = None, until_ms: int | None = None, *, is_deep: bool = False,
    on_progress: Callable[[int, int], None] = lambda _turn, _last: None,
) -> AuditReport:  # fmt: skip
    """Follow the events accepted from ``since_ms`` on and before ``until_ms`` through the log to its present end.

    With ``is_deep`` the whole file is read too, also what no record needs any more (fault C4). ``on_progress`` gets the
    turn that it has come to, and the last one. Raises ``LogUnavailable`` where the log cannot be read, ``LogCorrupt``
    where it is too damaged to be followed.
    """
    with JournalReader(log_path) as reader:
        ledger = Ledger(since_ms, until_ms)
        if is_deep:
            ledger.damage(reader.damage())
        target, position, tape = reader.last_position(), 0, Tape(reader)
        while position < target and (batch := tape.read(position)) is not None:
            for turn in batch.turns:
                ledger.add(turn)
            position = batch.position
            on_progress(position, target)
    return ledger.report()


def audit_source(
    source: Source, since_ms: int | None = None, until_ms: int | None = None, *,
    on_progress: Callable[[int, int], None] = lambda _read, _all: None,
) -> AuditReport:  # fmt: skip
    """Do the same for a log of several partitions, which come in no order relative to each other.

    Held in memory are also the ids of all runs that have ended. What belongs to the time that is asked for is told by
    the ids of events and runs. ``on_progress`` gets the records that it has read, and how many there are.
    """
    ledger, position = Ledger(since_ms, until_ms, in_order=False), Position()
    last = source.end().total
    for portion in portions(source, position):
        for turn in portion.turns:
            ledger.add(turn)
        position = position.joined(portion.position)
        on_progress(min(position.total, last), last)
    return ledger.report()


class _Run(msgspec.Struct):
    """An open run."""

    seq: int = 0
    planned: set[str] = set()  # wire ids of steps
    recorded: set[str] = set()


class Ledger:
    """Takes turns and keeps account: those of a log in one file in order, else the records of each run in order."""

    def __init__(self, since_ms: int | None = None, until_ms: int | None = None, *, in_order: bool = True) -> None:
        self._since_ms, self._until_ms, self._in_order = since_ms, until_ms, in_order
        self._counts: Counter[str] = Counter()
        self._damaged: int | None = None
        self._skipped: Counter[str] = Counter()
        self._unrouted: dict[str, int] = {}  # event: accepted so often without a record, or below 0, too many records
        self._unscheduled: dict[str, str] = {}  # run: the event that started it
        self._runs: dict[str, _Run] = {}
        self._ended: dict[str, int] = {}  # run: seq
        self._endings: deque[tuple[int, str]] = deque()  # (when, run) of the same
        self._dead_seqs: set[tuple[str, int]] = set()
        self._unaccounted: dict[str, None] = {}
        self._findings: list[Finding] = []

    def damage(self, found: Iterable[tuple[str, str]]) -> None:
        """Enter what is damaged, as (place, problem)."""
        self._damaged = 0
        for place, problem in found:
            self._damaged += 1
            self._find(place, problem)

    def add(self, turn: TurnRecords) -> None:
        """Enter what one turn wrote."""
        if turn.restored is not None and self._is_counted(turn.restored.at):
            lost = turn.restored
            self._counts["missing"] += lost.last - lost.first + 1
            self._find(
                f"journal@{turn.position}", f"restored from a backup: commits {lost.first}–{lost.last} are missing"
            )
        for bad in turn.unreadable:
            self._counts["dead"] += 1
            self._dead_seqs.add((bad.run, bad.seq))
            self._find(f"{bad.source}@{bad.position}", bad.reason)
        if self._in_order:
            self._add_in_order(turn)
            return
        for event in turn.events:
            self._accept(event, is_counted=self._is_of_time(event.internal_id))
        for record in turn.records:
            of = record.event if isinstance(record, EventRouted) else record.run
            self._note(record, is_counted=self._is_of_time(of))

    def _add_in_order(self, turn: TurnRecords) -> None:
        at_ms = turn.records[0].at if turn.records else turn.events[0].received_at if turn.events else None
        if at_ms is None:
            return
        is_counted = self._is_counted(at_ms)
        for event in turn.events:
            self._accept(event, is_counted=is_counted)
        for record in turn.records:
            self._note(record, is_counted=is_counted)
        while self._endings and self._endings[0][0] < at_ms - LATE_MS:
            self._ended.pop(self._endings.popleft()[1], None)

    def report(self) -> AuditReport:
        """Draw the balance."""
        for event, count in self._unrouted.items():
            problem = "is accepted, but not routed" if count > 0 else "is routed more often than accepted"
            self._miss(event, problem)
        for run, event in self._unscheduled.items():
            self._miss(run, f"was started by event {event}, but is not scheduled")
        counts = self._counts
        return AuditReport(
            accepted=counts["accepted"], scheduled=counts["scheduled"], completed=counts["completed"],
            failed=counts["failed"], open=len(self._runs), skipped=dict(sorted(self._skipped.items())),
            dead=counts["dead"], unaccounted=len(self._unaccounted), planned_steps=counts["planned"],
            recorded_steps=counts["recorded"], repeated_steps=counts["repeated"],
            findings=tuple(self._findings[:FINDINGS]), missing=counts["missing"], damaged=self._damaged,
        )  # fmt: skip

    def _is_counted(self, at_ms: int) -> bool:
        return (self._since_ms is None or at_ms >= self._since_ms) and (
            self._until_ms is None or at_ms < self._until_ms
        )

    def _is_of_time(self, id_: str) -> bool:
        """Whether an event, or a run, is from the time that is asked for, by its id."""
        return self._is_counted(ulid_ms(decode_ulid(id_)))

    def _note(self, record: Record, *, is_counted: bool) -> None:
        if not isinstance(record, EventRouted):
            self._enter(record, is_counted=is_counted)
        elif is_counted:
            self._route(record)

    # --- events

    def _accept(self, event: StoredEvent, *, is_counted: bool) -> None:
        if is_counted:
            self._counts["accepted"] += 1
            self._balance(event.internal_id, 1)

    def _balance(self, event: str, count: int) -> None:
        balance = self._unrouted.pop(event, 0) + count
        if balance:
            self._unrouted[event] = balance

    def _route(self, record: EventRouted) -> None:
        self._balance(record.event, -1)
        self._skipped.update([skip.reason for skip in record.skipped])
        known = self._runs, self._ended  # without order a run may have come first
        self._unscheduled |= {
            ref.run: record.event for ref in record.runs if not any(ref.run in runs for runs in known)
        }

    # --- runs

    def _enter(self, record: RunRecord, *, is_counted: bool) -> None:
        """Enter a record of a run."""
        ended_seq = self._ended.get(record.run)
        if ended_seq is not None:
            self._ended[record.run] = self._follow(record, ended_seq)
            if not isinstance(record, StepLate):
                self._miss(record.run, f"ended before its record {record.seq}, a {_kind(record)}")
            return
        run = self._runs.get(record.run)
        if run is None:
            run = self._open(record, is_counted=is_counted)
            if run is None:
                return
        run.seq = self._follow(record, run.seq)
        match record:
            case StepCompleted() | StepFailed():
                self._plan(run, record.id)
                if record.id in run.recorded:
                    self._counts["repeated"] += 1
                    self._find(record.run, f"step {record.step} has more than one result")
                else:
                    self._counts["recorded"] += 1
                    run.recorded.add(record.id)
            case StepErrored() | StepWaiting():
                self._plan(run, record.id)
            case RunCompleted() | RunFailed():
                self._counts["completed" if isinstance(record, RunCompleted) else "failed"] += 1
                del self._runs[record.run]
                self._ended[record.run] = run.seq
                if self._in_order:
                    self._endings.append((record.at, record.run))

    def _open(self, record: RunRecord, *, is_counted: bool) -> _Run | None:
        """Begin with a run; None for one from before the time that is asked for."""
        if isinstance(record, RunScheduled):
            if not is_counted:
                return None
            self._counts["scheduled"] += 1
            self._unscheduled.pop(record.run, None)
        elif record.run not in self._unscheduled and (self._since_ms is not None or self._until_ms is not None):
            return None
        else:
            self._unscheduled.pop(record.run, None)
            self._miss(record.run, f"begins with record {record.seq}, a {_kind(record)}, and is not scheduled")
        run = self._runs[record.run] = _Run(seq=0 if isinstance(record, RunScheduled) else record.seq - 1)
        return run

    def _follow(self, record: RunRecord, seq: int) -> int:
        """Check that a record is the next one of its run, and return its number."""
        expected = seq + 1
        while (record.run, expected) in self._dead_seqs:  # it stands there, but cannot be read
            expected += 1
        if record.seq != expected:
            self._miss(record.run, f"has record {record.seq} where {expected} is the next")
        return max(record.seq, seq)

    def _plan(self, run: _Run, step: str) -> None:
        if step not in run.planned:
            run.planned.add(step)
            self._counts["planned"] += 1

    # --- findings

    def _miss(self, id_: str, problem: str) -> None:
        self._unaccounted[id_] = None
        self._find(id_, problem)

    def _find(self, id_: str, problem: str) -> None:
        if len(self._findings) < FINDINGS:
            self._findings.append(Finding(id_, problem))


def _kind(record: RunRecord) -> str:
    return str(record.__struct_config__.tag)
