"""A run in words and as a waterfall: when each step ran, waited and was tried again."""

from datetime import UTC, datetime

import msgspec

from steplog.cli.output import ahead, clock, duration, is_terminal, shown_id, styled, width
from steplog.cli.views import Attempt, Run, Step, Steps
from steplog.engine.operations import ErrorInfo
from steplog.errors import native_name

COLUMNS = 24  # of the waterfall
FINALIZATION = "finalization"
SHOWN_OUTPUT = 60  # characters, on a terminal

_COLORS = {"completed": "green", "failed": "red", "waiting": "yellow", "running": "cyan"}


def describe(run: Run) -> str:
    """What a run is at: ``completed in 4 ms → 2``."""
    since = run.due_at or run.run_started_at
    match run.state:
        case "completed":
            return f"{_state(run)} in {_between(since, run.ended_at)} → {_shown(run.output)}"
        case "failed":
            return f"{_state(run)} after {_between(since, run.ended_at)}: {brief_error(failure(run))}"
        case "scheduled" if run.due_at is not None and run.due_at > _now():
            return f"{_state(run)}, starts {_ahead(run.due_at)}"
        case _ if run.retry_at is not None:
            return f"{_state(run)}: its own code failed, again {_ahead(run.retry_at)}"
        case _ if run.next_state == "errored" and run.next_step is not None and run.next_at is not None:
            return f"{styled('retrying', fg='yellow')} {run.next_step} {_ahead(run.next_at)}"
        case _ if run.next_step is not None and run.next_at is not None:
            return f"{_state(run)}: {run.next_step}, {_ahead(run.next_at)}"
        case _:
            return f"{_state(run)} for {_between(since, None)}"


def short_function(run: Run) -> str:
    """A function's id without its app's."""
    return run.function.removeprefix(f"{run.app}-")


def draw(run: Run, steps: Steps, url: str | None) -> str:
    """Draw a run: what it is at, then a line for each step."""
    version = f" {run.version}" if run.version else ""
    version += f" · function version {run.function_version}"
    event = f" · event {shown_id(run.event_id)}" if run.event_id else ""
    place = f" · {url}/v1/runs/{run.run_id}" if url else ""
    lines = [
        f"{styled(short_function(run), bold=True)} {shown_id(run.run_id)}  {describe(run)}",
        styled(f"  app {run.app}{version}{event}{place}", dim=True),
    ]
    scale = _Scale(_ms(run.due_at or run.run_started_at), _ms(run.ended_at or _now()))
    names = [step.name for step in steps.steps]
    last_ms = _last_step_ms(run, steps)
    name_width = max(map(len, [*names, "queued" if last_ms is None else FINALIZATION]))
    queued_ms = (scale.start_ms, _ms(run.started_at) if run.started_at else scale.end_ms)
    lines.append(_row("queued", name_width, scale.cells([(*queued_ms, "░")]), queued_ms[1] - queued_ms[0], ""))
    for step in steps.steps:
        cells, took_ms = _draw_step(step, scale)
        lines.append(_row(step.name, name_width, cells, took_ms, _result(step)))
    if last_ms is not None:  # the code between the last step and the end (DUR-15)
        cells = scale.cells([(last_ms, scale.end_ms, "█")])
        lines.append(_row(FINALIZATION, name_width, cells, scale.end_ms - last_ms, ""))
    for attempt in steps.function_attempts:
        again = f"; again at {clock(attempt.retry_at)}" if attempt.retry_at else ""
        lines.append(f"  the function's own code, {_failed(attempt)}{again}")
    return "\n".join(lines)


def _last_step_ms(run: Run, steps: Steps) -> int | None:
    """When the last step of a run ended that has ended itself."""
    ends_ms = [_ms(step.ended_at) for step in steps.steps if step.ended_at]
    return min(max(ends_ms), _ms(run.ended_at)) if run.ended_at and ends_ms else None


class _Scale(msgspec.Struct, frozen=True):
    """Where a time stands in the waterfall."""

    start_ms: int
    end_ms: int

    def column(self, at_ms: int) -> int:
        span_ms = max(self.end_ms - self.start_ms, 1)
        return max(0, min(COLUMNS - 1, COLUMNS * (at_ms - self.start_ms) // span_ms))

    def cells(self, parts: list[tuple[int, int, str]]) -> str:
        """Fill from one time to another with a character, later parts over earlier ones."""
        row = [" "] * COLUMNS
        for start_ms, end_ms, character in parts:
            first, last = self.column(start_ms), self.column(end_ms)
            if start_ms == end_ms:
                character = character if character != "░" else "▏"
            row[first : max(last, first + 1)] = character * max(last - first, 1)
        return "".join(row).rstrip()


def _draw_step(step: Step, scale: _Scale) -> tuple[str, int]:
    """Draw attempts, and the waiting between them; returns the row and how long all of it took."""
    start_ms = _ms(step.started_at)
    open_end_ms = scale.end_ms
    end_ms = _ms(step.ended_at) if step.ended_at and step.state != "errored" else open_end_ms
    if step.op != "StepRun":
        parts = [(start_ms, end_ms, "░")]
    elif not step.attempts:
        parts = [(start_ms, end_ms, "█")]
    else:
        parts = [(start_ms, end_ms, "░")]
        for attempt in step.attempts:
            at_ms = _ms(attempt.ended_at or attempt.at)
            parts.append((_ms(attempt.started_at) if attempt.started_at else at_ms, at_ms, "█"))
            if attempt.error is not None:
                parts.append((at_ms, at_ms, "✗"))
    if step.state in ("waiting", "errored"):
        parts.append((end_ms, end_ms, "▸"))
    return scale.cells(parts), end_ms - start_ms


def _row(name: str, name_width: int, cells: str, took_ms: int, text: str) -> str:
    return f"  {name.ljust(name_width)}  ▕{cells.ljust(COLUMNS)}  {duration(took_ms):>8}  {text}".rstrip()


def _result(step: Step) -> str:
    """What came of a step, and which of its attempts failed."""
    notes = [_failed(each) for each in step.attempts if each.error is not None and each.outcome == "errored"]
    match step.state:
        case "completed":
            head = "" if step.output is None or step.op == "Sleep" else _shown(step.output)
        case "waiting":
            head = " ".join(filter(None, [_waits_for(step), step.until and f"until {_date(step.until)}"]))
        case "errored":
            head = f"again at {clock(step.retry_at)}" if step.retry_at else "again"
        case "failed":
            head = styled(f"failed: {brief_error(step.error)}", fg="red")
        case _:
            head = step.state
    return "   ".join(filter(None, [head, *notes]))


def _failed(attempt: Attempt) -> str:
    most = f" of {attempt.max_attempts}" if attempt.max_attempts else ""
    return f"attempt {attempt.attempt + 1}{most}: {brief_error(attempt.error)}"


def _waits_for(step: Step) -> str:
    """What a step waits for, but for the time."""
    waits = step.waits_for
    if waits is None:
        return ""
    if waits.signal is not None:
        return f"waiting for signal {waits.signal}"
    if waits.function is not None:
        return f"waiting for {waits.function}{f' {shown_id(waits.child)}' if waits.child else ''}"
    return f"waiting for {(' and ' if waits.all else ' or ').join(waits.events)}"


def _state(run: Run) -> str:
    return styled(run.state, fg=_COLORS.get(run.state))


def failure(run: Run) -> ErrorInfo:
    """The error of a failed run, which is its output."""
    if run.output is None:
        return ErrorInfo(name="unknown", message="")
    error = msgspec.convert(run.output, ErrorInfo)
    return msgspec.structs.replace(error, name=native_name(error.name))


def brief_error(error: "ErrorInfo | None") -> str:
    """An error in one line, with the place that raised it."""
    if error is None:
        return "unknown"
    message = error.message.strip().splitlines()[0] if error.message.strip() else ""
    return f"{error.name}: {message}{_place(error.stack)}" if message else f"{error.name}{_place(error.stack)}"


def _place(stack: str | None) -> str:
    """The file and line of the innermost frame."""
    frames = [line for line in (stack or "").splitlines() if line.lstrip().startswith('File "')]
    if not frames:
        return ""
    file, _, rest = frames[-1].partition('File "')[2].partition('", line ')
    return f" ({file.rpartition('/')[2]}:{rest.partition(',')[0]})"


def _shown(output: object) -> str:
    text = msgspec.json.encode(output).decode()
    most = max(SHOWN_OUTPUT, width() - 60)
    return f"{text[:most]}…" if is_terminal() and len(text) > most else text


def _between(start: str, end: str | None) -> str:
    return duration(max(_ms(end or _now()) - _ms(start), 0))


def _ahead(at: str) -> str:
    """How long it is until then."""
    left_ms = _ms(at) - _ms(_now())
    return f"in {ahead(left_ms)}" if left_ms > 0 else "now"


def _ms(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%d %b %H:%M:%S")
