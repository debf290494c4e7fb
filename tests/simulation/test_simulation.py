"""The promises of a partition under faults of every kind, for a few thousand seeds.

A failure names its seed. ``python -m tests.simulation SEED`` runs it alone and traces it, ``--seeds N`` runs more.
"""

import pytest

from .plans import AT_COMMITS
from .workers import counted, simulated
from .world import Report, Strike, simulate

SEEDS = 3_000
FAULTS = (
    *AT_COMMITS,
    "a body kills its process",
    "crash at any moment",
    "end in order",
    "end reported twice",
    "event repeated",
    "event sent again",
    "function not registered",
    "step reported twice",
)
RARE = (
    "attempt before its time",
    "dispatch with steps that wait",
    "no place for a run",
    "poisoned dispatch",
    "redo cut",
    "run parked",
    "slice of the table",
)
RECORDS = (
    "event.routed", "run.completed", "run.errored", "run.failed", "run.scheduled", "run.started", "step.completed",
    "step.errored", "step.failed", "step.late", "step.waiting",
    *[f"step.waiting {op}" for op in ("Sleep", "WaitForEvent", "WaitForSignal", "InvokeFunction")],
    *[f"step.completed {op}" for op in ("WaitForEvent", "WaitForSignal", "SendSignal", "InvokeFunction")],
    *[f"event.routed inngest/{name}" for name in ("function.failed", "function.finished", "function.invoked")],
    "event.routed inngest/scheduled.timer",
)  # fmt: skip
RARE_RECORDS = ("condition failed", "turn with mail", "wait cut short", "wait ended by what came before")


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """One for each seed; raises with the first that breaks a promise."""
    return simulated(0, SEEDS)


@pytest.mark.spec(
    "FAULT-A4",
    "FAULT-G1",
    "FAULT-G2",
    "DUR-13",
    "DUR-14",
    "EVT-12",
    "EVT-13",
    "EVT-14",
    "ERR-03",
    "STEP-08",
    "STEP-12",
    "STEP-13",
)
def test_the_promises_hold(reports: list[Report]) -> None:
    assert [report.seed for report in reports if report.turns] == list(range(SEEDS))


def test_every_fault_has_struck(reports: list[Report]) -> None:
    fired, kinds = counted(reports)
    assert {name: fired[name] for name in (*FAULTS, *RARE) if fired[name] < 200} == {}
    assert {name: kinds[name] for name in RECORDS if kinds[name] < 500} == {}
    assert {name: kinds[name] for name in RARE_RECORDS if kinds[name] < 50} == {}


@pytest.mark.parametrize("kind", AT_COMMITS)
def test_a_fault_may_strike_at_every_turn(kind: str, reports: list[Report]) -> None:
    """Not at random: at the first turn, at the second, and so on to the last."""
    seeds = [report.seed for report in reports if 30 < report.turns < 80][:2]
    struck = 0
    for seed in seeds:
        nth = 1
        while simulate(seed, only=Strike(kind, nth)).fired.get(kind):
            nth += 1
        struck += nth - 1
    assert struck > 10


def test_a_seed_always_gives_the_same_run() -> None:
    first: list[str] = []
    again: list[str] = []
    assert simulate(17, trace=first.append) == simulate(17, trace=again.append)
    assert first == again
