"""The promises of a partition under faults of every kind, for a few hundred seeds.

A failure names its seed. ``python -m tests.simulation SEED`` runs it alone and traces it, ``--seeds N`` runs more.
"""

from collections import Counter
from functools import cache

import pytest

from .plans import AT_COMMITS
from .world import Report, Strike, simulate

SEEDS, CHUNK = 300, 25
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
)  # fmt: skip
RARE_RECORDS = ("condition failed", "turn with mail", "wait cut short", "wait ended by what came before")


@cache
def reports(first: int) -> tuple[Report, ...]:
    return tuple([simulate(seed) for seed in range(first, first + CHUNK)])


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
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_promises_hold(first: int) -> None:
    assert all(report.turns for report in reports(first))


def test_every_fault_has_struck() -> None:
    fired, kinds = Counter[str](), Counter[str]()
    for first in range(0, SEEDS, CHUNK):
        for report in reports(first):
            fired += report.fired
            kinds += report.kinds
    assert {name: fired[name] for name in (*FAULTS, *RARE) if fired[name] < 20} == {}
    assert {name: kinds[name] for name in RECORDS if kinds[name] < 100} == {}
    assert {name: kinds[name] for name in RARE_RECORDS if kinds[name] < 20} == {}


@pytest.mark.parametrize("kind", AT_COMMITS)
def test_a_fault_may_strike_at_every_turn(kind: str) -> None:
    """Not at random: at the first turn, at the second, and so on to the last."""
    struck = 0
    for seed in [report.seed for report in reports(0) if 30 < report.turns < 80][:2]:
        nth = 1
        while simulate(seed, only=Strike(kind, nth)).fired[kind]:
            nth += 1
        struck += nth - 1
    assert struck > 10


def test_a_seed_always_gives_the_same_run() -> None:
    first: list[str] = []
    again: list[str] = []
    assert simulate(17, trace=first.append) == simulate(17, trace=again.append)
    assert first == again
