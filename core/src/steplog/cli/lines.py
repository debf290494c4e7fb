"""Records of the journal as lines for people: time, kind, name, run, and what came of it."""

import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from msgspec import UNSET

from steplog.cli.output import SHOWN_CHARACTERS, ahead, counted, duration, is_terminal, styled
from steplog.cli.timeline import brief_error
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
)

Level = Literal["all", "runs", "problems"]
LEVELS: tuple[Level, ...] = ("all", "runs", "problems")
KNOWN_RUNS = 10_000  # whose names are remembered; of others the history is asked
NAME_COLUMNS = 22
_RANK: dict[Level, int] = {level: rank for rank, level in enumerate(LEVELS)}


class KnownRun(msgspec.Struct, frozen=True):
    """What the lines of a run say of it."""

    function: str  # without its app
    began_ms: int


class Lines:
    """Puts records in words, in their order. ``find`` gives a run that began before; None where it is not known."""

    def __init__(self, find: Callable[[str], KnownRun | None], *, payloads: bool = False) -> None:
        self.level: Level = "all"
        self.has_keys = False  # r tries again at once
        self._find, self._payloads = find, payloads
        self._runs: dict[str, KnownRun] = {}

    def of(self, record: Record, data: bytes | None = None) -> Iterator[str]:
        """The lines of one record; none, one, or two. ``data``: of the event that was routed."""
        for level, kind, name, id_, text in self._tell(record, data):
            if _RANK[level] >= _RANK[self.level]:
                indent = " " if kind in ("step", "wait") else ""
                head = f"{indent}{kind}".ljust(6)
                bold = styled(name.ljust(NAME_COLUMNS), bold=True)
                yield f"{at(record.at)}  {head} {bold} {shown(id_)}  {text.strip()}".rstrip()

    def _tell(self, record: Record, data: bytes | None) -> Iterator[tuple[Level, str, str, str, str]]:
        if isinstance(record, EventRouted):
            yield "runs", "event", record.name, record.event, self._routed(record) + self._payload(data)
            return
        if isinstance(record, RunScheduled):
            name = record.function.removeprefix(f"{record.app}-")
            began_ms = record.due if record.due is not UNSET else record.at
            self._remember(record.run, KnownRun(name, began_ms))
        run = self._run(record.run)
        match record:
            case RunScheduled():
                if record.due is not UNSET:
                    yield "runs", "run", run.function, record.run, f"starts in {ahead(record.due - record.at)}"
                elif record.started is not UNSET:
                    yield "runs", "run", run.function, record.run, "started"
            case RunStarted():
                if record.reason in _STARTED:
                    yield "runs", "run", run.function, record.run, _STARTED[record.reason]
            case StepWaiting():
                yield "all", "wait", record.step, record.run, _awaited(record)
            case StepCompleted():
                is_step = record.op in _DONE_HERE
                text = duration(record.ended - record.started) if is_step else "over"
                kind = "step" if is_step else "wait"
                yield "all", kind, record.step, record.run, text + self._payload(bytes(record.output))
            case StepErrored():
                text = f"failed, {self._failed(record)}"
                yield "problems", "step", record.step, record.run, styled(text, fg="yellow")
            case StepFailed():
                text = f"failed for good, attempt {record.attempt + 1}: {brief_error(record.error)}"
                yield "problems", "step", record.step, record.run, styled(text, fg="red")
            case StepLate():
                yield "problems", "step", record.step, record.run, "came too late: its result was recorded before"
            case RunErrored():
                text = f"its own code failed, {self._failed(record)}"
                yield "problems", "run", run.function, record.run, styled(text, fg="yellow")
            case RunCompleted():
                text = f"{styled('completed', fg='green')} in {duration(max(record.at - run.began_ms, 0))}"
                yield "runs", "run", run.function, record.run, text + self._payload(bytes(record.output))
                self._runs.pop(record.run, None)
            case RunFailed():
                took = duration(max(record.at - run.began_ms, 0))
                yield (
                    "problems", "run", run.function, record.run,
                    styled(f"failed after {took}: {brief_error(record.error)}", fg="red"),
                )  # fmt: skip
                self._runs.pop(record.run, None)

    def _failed(self, record: StepErrored | RunErrored) -> str:
        """Which attempt it was, why it failed, and when the next one comes."""
        most = "" if record.max_attempts is UNSET else f" of {record.max_attempts}"
        again = f"again in {ahead(record.retry_at - record.at)}{' (r: now)' if self.has_keys else ''}"
        return f"attempt {record.attempt + 1}{most}: {brief_error(record.error)}; {again}"

    def _run(self, run_id: str) -> KnownRun:
        known = self._runs.get(run_id)
        if known is None:
            known = self._find(run_id) or KnownRun("", 0)
            self._remember(run_id, known)
        return known

    def _remember(self, run_id: str, known: KnownRun) -> None:
        self._runs[run_id] = known
        if len(self._runs) > KNOWN_RUNS:
            del self._runs[next(iter(self._runs))]

    def _routed(self, record: EventRouted) -> str:
        """What is to be said of an event besides the lines of its runs."""
        if record.duplicate is not UNSET:
            return "its id was sent before"
        if record.resumed is not UNSET:
            return f"ends {counted(len(record.resumed), 'wait')}"
        return "" if record.runs or record.name.startswith("inngest/") else "starts nothing"

    def _payload(self, data: bytes | None) -> str:
        return f"  → {data.decode(errors='replace')}" if self._payloads and data is not None else ""


_STARTED = {
    "start": "started", "lost": "begins again: its process died", "handed-back": "goes on with the code of now",
}  # fmt: skip  # it wakes and tries again by itself: that is told by its steps
_DONE_HERE = ("StepRun", "SendEvent", "SendSignal", "Produce")  # the others wait


def _awaited(record: StepWaiting) -> str:
    left = f"{ahead(record.until - record.at)} left"
    if record.events is not UNSET:
        joint = " and " if record.all is True else " or "
        return f"for {joint.join(record.events)}, {left}"
    if record.signal is not UNSET:
        return f"for the signal {record.signal}, {left}"
    if record.function is not UNSET:
        child = f" {shown(record.child)}" if record.child is not UNSET else ""
        return f"for {record.function}{child}, {left}"
    return f"for {duration(max(record.until - record.at, 0))}"


def at(ms: int) -> str:
    """The local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(ms / 1000))


def shown(id_: str) -> str:
    """An id as people compare it; whole where a program may read it."""
    return f"…{id_[-SHOWN_CHARACTERS:]}" if is_terminal(err=True) else id_
