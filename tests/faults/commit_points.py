"""``kill -9`` at each boundary between an event, its commit, its answer, its dispatch, results and the rest (A1)."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from steplog.engine import records

from .oracles import assert_adds_up, journal

CHILD = Path(__file__).with_name("killed.py")
POINTS = (
    "before append",
    "within append",
    "after append",  # before the answer
    "after ack",  # before the dispatch
    "before results",
    "within results",
    "after results",  # before what follows
)
STEPS_OF_BOTH = 6  # an order's: number, parallel twice, nap, tell; and of what it tells: heard
SERVICE_S = 10


def start(folder: Path, runs: int, point: str = "never", number: int = 0) -> int:
    return subprocess.run(
        [sys.executable, CHILD, folder, str(runs), point, str(number)], timeout=90, check=False
    ).returncode


def die_and_go_on(folder: Path, point: str, number: int, runs: int) -> None:
    """Kill a process at a point, start another, and check that nothing is lost and nothing recorded runs again."""
    assert start(folder, runs, point, number) == -signal.SIGKILL, "the fault fired"
    answered = set((folder / "answered").read_text().split()) if (folder / "answered").exists() else set()
    before = journal(folder / "log.db")
    accepted = sum(isinstance(r, records.EventRouted) and r.name == "order" for r in before)
    assert len(answered) <= accepted
    if point == "after ack":
        assert answered
    began_s = time.monotonic()
    assert start(folder, runs) == 0
    assert time.monotonic() - began_s < SERVICE_S + runs / 100

    after = journal(folder / "log.db")
    assert after[: len(before)] == before
    report = assert_adds_up(folder / "log.db")
    assert (report.completed, report.failed, report.scheduled, report.open) == (2 * runs, 0, 2 * runs, 0)
    assert report.planned_steps == report.recorded_steps == runs * STEPS_OF_BOTH

    effects = Counter((folder / "effects").read_text().split())
    assert len(effects) == runs * 4
    assert max(effects.values()) <= 2, "one call, and one more for the kill"
    recorded_before = {
        f"{r.run}-{r.id[:16]}" for r in before if isinstance(r, records.StepCompleted) and r.op == "StepRun"
    }
    assert all(effects[key] == 1 for key in recorded_before), "what was recorded never ran again"
