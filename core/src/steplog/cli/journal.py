"""What the journal records, as lines for people: ``step  charge  …8F2KQ  38 ms``."""

from datetime import datetime

import msgspec

from steplog.cli.output import duration, shown_id, styled
from steplog.cli.timeline import told
from steplog.engine import records
from steplog.engine.operations import ErrorInfo

_NAME_COLUMNS = 16


class JournalLines:
    """Tells records, in the order of the journal. ``errors`` are those of the runs that failed, by run."""

    def __init__(self) -> None:
        self.errors: dict[str, ErrorInfo] = {}

    def line(self, record: records.Record) -> str | None:
        """Tell a record; None for what interests nobody who watches."""
        match record:
            case records.RunScheduled(function=function):
                return _line(record, "run ", function, "started")
            case records.StepCompleted(step=step, op="StepRun"):
                return _line(record, " step", step, _took(record))
            case records.StepCompleted(step=step):
                return _line(record, " step", step, f"over after {_took(record)}")
            case records.StepErrored(step=step, attempt=attempt, error=error, retry_at=retry_at_ms):
                return _line(record, " step", step, _again(attempt, error, retry_at_ms - record.at))
            case records.StepFailed(step=step, attempt=attempt, error=error):
                return _line(record, " step", step, f"{_failed(attempt)} for good: {told(error)}")
            case records.StepWaiting(step=step):
                return _line(record, " wait", step, _awaited(record))
            case records.RunErrored(attempt=attempt, error=error, retry_at=retry_at_ms):
                return _line(record, "run ", "", _again(attempt, error, retry_at_ms - record.at))
            case records.RunCompleted():
                return _line(record, "run ", "", styled("completed", fg="green"))
            case records.RunFailed(run=run, error=error):
                self.errors[run] = error
                return _line(record, "run ", "", styled("failed", fg="red"))
            case records.EventRouted() | records.RunStarted() | records.StepLate():
                return None


def _line(record: records.Record, what: str, name: str, text: str) -> str:
    assert not isinstance(record, records.EventRouted), "it is of no run"
    at = datetime.fromtimestamp(record.at / 1000).astimezone().strftime("%H:%M:%S")
    return f"{at}  {what.ljust(5)}  {name.ljust(_NAME_COLUMNS)}  {shown_id(record.run)}  {text}"


def _took(record: records.StepCompleted) -> str:
    return duration(record.ended - record.started)


def _failed(attempt: int) -> str:
    return styled(f"failed, attempt {attempt + 1}", fg="red")


def _again(attempt: int, error: ErrorInfo, left_ms: int) -> str:
    return f"{_failed(attempt)}: {told(error)}; again in {duration(max(left_ms, 0))}"


def _awaited(record: records.StepWaiting) -> str:
    """What a step waits for, and how long at most."""
    left = f"{duration(record.until - record.at)} left"
    if record.events is not msgspec.UNSET:
        return f"for {(' and ' if record.all is True else ' or ').join(record.events)}, {left}"
    if record.signal is not msgspec.UNSET:
        return f"for the signal {record.signal}, {left}"
    if record.function is not msgspec.UNSET:
        return f"for {record.function}"
    return left
