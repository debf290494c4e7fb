"""``kill -9`` at each boundary of a commit, in a real process on a real file (fault A1)."""

import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from steplog.engine import records
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader

CHILD = Path(__file__).with_name("killed.py")
RUNS, STEPS_OF_BOTH = 100, 6  # an order's: number, parallel twice, nap, tell; and of what it tells: heard
RESTART_S = 10


def start(folder: Path, where: str = "never", number: int = 0) -> int:
    return subprocess.run([sys.executable, CHILD, folder, where, str(number)], timeout=30, check=False).returncode


def read_journal(folder: Path) -> list[records.Record]:
    with JournalReader(folder / "log.db") as reader:
        tape, position, found = Tape(reader), 0, list[records.Record]()
        while (batch := tape.read(position)) is not None:
            position = batch.position
            for turn in batch.turns:
                assert not turn.unreadable
                found += turn.records
    return found


@pytest.mark.spec("FAULT-A1", "DUR-01", "DUR-13")
@pytest.mark.parametrize(
    ("where", "number"),
    [
        pytest.param("before", 1, id="before the first event is written"),
        pytest.param("within", 1, id="while the first event is written"),
        pytest.param("after", 1, id="after events are written, before their answer and dispatch"),
        pytest.param("before", 3, id="after results, before their commit"),
        pytest.param("within", 4, id="while results are written"),
        pytest.param("after", 3, id="after results are written, before the functions go on"),
        pytest.param("before", 12, id="later, before"),
        pytest.param("within", 12, id="later, within"),
        pytest.param("after", 12, id="later, after"),
    ],
)
def test_nothing_is_lost_and_nothing_recorded_runs_again(tmp_path: Path, where: str, number: int) -> None:
    assert start(tmp_path, where, number) == -signal.SIGKILL, "the fault fired"
    answered = set((tmp_path / "answered").read_text().split()) if (tmp_path / "answered").exists() else set()
    before = read_journal(tmp_path)
    assert len(answered) <= sum(isinstance(r, records.EventRouted) and r.name == "order" for r in before)
    began = time.monotonic()
    assert start(tmp_path) == 0
    assert time.monotonic() - began < RESTART_S

    journal = read_journal(tmp_path)
    assert journal[: len(before)] == before
    ends = Counter(type(r).__name__ for r in journal)
    assert (ends["RunCompleted"], ends["RunFailed"], ends["RunScheduled"]) == (2 * RUNS, 0, 2 * RUNS)
    seqs: dict[str, list[int]] = defaultdict(list)
    recorded: Counter[tuple[str, str]] = Counter()
    for record in journal:
        if not isinstance(record, records.EventRouted):
            seqs[record.run].append(record.seq)
        if isinstance(record, records.StepCompleted):
            recorded[record.run, record.id] += 1
    assert all(found == list(range(1, len(found) + 1)) for found in seqs.values()), "no gap in any run's journal"
    assert set(recorded.values()) == {1}, "each step is recorded once"
    assert len(recorded) == RUNS * STEPS_OF_BOTH

    effects = Counter((tmp_path / "effects").read_text().split())
    assert len(effects) == RUNS * 4
    assert max(effects.values()) <= 2, "one call, and one more for the kill"
    recorded_before = {
        f"{r.run}-{r.id[:16]}" for r in before if isinstance(r, records.StepCompleted) and r.op == "StepRun"
    }
    assert all(effects[key] == 1 for key in recorded_before), "what was recorded never ran again"
