"""Per function and minute: how many runs completed and failed, and how long they took from when they were due.

pip install steplog steplog-faust
STEPLOG_LOG=kafka://127.0.0.1:9092/steplog faust -A success_rate worker --without-web
"""

import os
import sys
from datetime import UTC, datetime, timedelta

import faust
from faust.types import StreamT

import steplog_faust
from steplog_faust import Record, RunCompleted, RunFailed, RunScheduled

app = steplog_faust.app("success-rate", os.environ.get("STEPLOG_LOG", "kafka://127.0.0.1:9092/steplog"))


class Begun(faust.Record):
    """A run that has not ended."""

    function: str
    due_ms: int


class Ended(faust.Record):
    """A run that has."""

    at_ms: int
    took_ms: int
    is_completed: bool


class Minute(faust.Record):
    """One function in one minute."""

    completed: int = 0
    failed: int = 0
    took_ms: int = 0  # all of them together


begun = app.Table("begun", value_type=Begun)  # by run
minutes = app.Table("minutes", value_type=Minute, default=Minute).tumbling(
    timedelta(minutes=1), expires=timedelta(hours=1)
)
changed: dict[tuple[int, str], Minute] = {}  # since they were printed


@app.agent(steplog_faust.journal(app))
async def follow(records: StreamT[Record]) -> None:
    """Put both ends of a run together: they are in one partition. Those of its function are in all of them."""
    async for record in records:
        match record:
            case RunScheduled():
                begun[record.run] = Begun(function=record.function, due_ms=record.due or record.at)
            case RunCompleted() | RunFailed() if record.run in begun:
                run = begun.pop(record.run)
                one = Ended(
                    at_ms=record.at, took_ms=record.at - run.due_ms, is_completed=isinstance(record, RunCompleted)
                )
                await count.send(key=run.function, value=one, timestamp=record.at / 1000)


@app.agent(key_type=str, value_type=Ended)  # over a topic of its own, whose key is the function
async def count(runs: StreamT[Ended]) -> None:
    """Count a run in the minute in which it ended."""
    async for function, run in runs.items():
        minute = minutes[function].current()
        minute = Minute(
            completed=minute.completed + run.is_completed,
            failed=minute.failed + (not run.is_completed),
            took_ms=minute.took_ms + run.took_ms,
        )
        minutes[function] = minute
        changed[run.at_ms // 60_000, function] = minute


@app.timer(interval=1.0)
async def show() -> None:
    """Print the minutes that have changed."""
    for (at_min, function), minute in sorted(changed.items(), key=lambda row: row[0]):
        total = minute.completed + minute.failed
        at = datetime.fromtimestamp(at_min * 60, UTC)
        print(
            f"{at:%H:%M} {function}: {minute.completed} completed, {minute.failed} failed, "
            f"{minute.completed / total:.1%}, {minute.took_ms / total:.0f} ms",
            file=sys.__stdout__,  # Faust makes warnings of what goes to sys.stdout
            flush=True,
        )
    changed.clear()
