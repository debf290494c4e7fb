"""Records of the journal, as lines."""

import re
from typing import Any

import msgspec
import pytest

from steplog.cli.journal import JournalLines
from steplog.engine import records
from steplog.engine.operations import ErrorInfo

RUN = "01JD4QZ3M4T5C8PGA1X2N8F2KQ"
BASE: dict[str, Any] = {"at": 1_700_000_000_000, "env": "dev", "run": RUN, "seq": 1}
STEP: dict[str, Any] = {**BASE, "step": "pack", "id": "0" * 40, "op": "StepRun"}
ENDED: dict[str, Any] = {**STEP, "attempt": 1, "started": 5, "ended": 43}
ERROR = ErrorInfo(name="OSError", message="printer is off", stack='  File "/shop/orders.py", line 38, in pack\n')
FAILED = "OSError: printer is off (orders.py:38)"
WAIT: dict[str, Any] = {**STEP, "until": BASE["at"] + 7_200_000}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (records.RunScheduled(**BASE, function="shop-pack", app="shop", events=()), "run shop-pack started"),
        (records.StepCompleted(**ENDED, output=msgspec.Raw(b"1")), "step pack 38 ms"),
        (records.StepCompleted(**ENDED | {"op": "Sleep"}, output=msgspec.Raw(b"1")), "step pack over after 38 ms"),
        (
            records.StepErrored(**ENDED, error=ERROR, retry_at=BASE["at"] + 15_000),
            f"step pack failed, attempt 2: {FAILED}; again in 15.0 s",
        ),
        (records.StepFailed(**ENDED, error=ERROR), f"step pack failed, attempt 2 for good: {FAILED}"),
        (records.StepWaiting(**WAIT), "wait pack 2 h left"),
        (records.StepWaiting(**WAIT, events=("a", "b")), "wait pack for a or b, 2 h left"),
        (records.StepWaiting(**WAIT, events=("a", "b"), all=True), "wait pack for a and b, 2 h left"),
        (records.StepWaiting(**WAIT, signal="go"), "wait pack for the signal go, 2 h left"),
        (records.StepWaiting(**WAIT, function="shop-pay", child=RUN), "wait pack for shop-pay"),
        (
            records.RunErrored(**BASE, attempt=0, error=ERROR, retry_at=BASE["at"]),
            f"run failed, attempt 1: {FAILED}; again in 0 ms",
        ),
        (records.RunCompleted(**BASE, output=msgspec.Raw(b"1")), "run completed"),
        (records.RunFailed(**BASE, error=ERROR), "run failed"),
    ],
)
def test_each_record_is_told(record: records.Record, said: str) -> None:
    lines = JournalLines()
    line = lines.line(record) or ""
    assert RUN in line
    told = re.sub(r"\x1b\[\d+m", "", line).replace(RUN, "")
    assert " ".join(told.split()[1:]) == said
    assert lines.errors == ({RUN: ERROR} if isinstance(record, records.RunFailed) else {})


def test_what_interests_nobody_is_not_told() -> None:
    lines = JournalLines()
    assert lines.line(records.EventRouted(at=1, env="dev", event=RUN, name="a")) is None
    assert lines.line(records.RunStarted(**BASE, generation=2, reason="wake")) is None
    assert lines.line(records.StepLate(**STEP, attempt=0)) is None
