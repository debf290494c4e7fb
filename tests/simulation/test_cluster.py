"""The promises of several processes on Kafka, as unpleasant as it can be, for some hundred seeds.

A failure names its seed. ``python -m tests.simulation --cluster SEED`` runs it alone and traces it.
"""

import pytest

from .cluster import simulate_cluster
from .workers import counted, simulated
from .world import Report

SEEDS = 200
FAULTS = (
    "a body kills its process",
    "compaction",
    "crash at any moment",
    "event before a wait",
    "event sent again",
    "hanging transaction ended",
    "partitions dropped",
    "put out of the group",
    "rebalance",
    "record refused",
    "transaction timed out",
    *[f"answer to {call} lost" for call in ("append", "begin", "commit", "end", "poll", "read", "send offsets")],
    *[f"{call} failed" for call in ("append", "begin", "commit", "end", "poll", "read", "send offsets")],
)
RECORDS = (
    "event.routed inngest/function.failed", "event.routed inngest/function.invoked", "run.completed", "run.failed",
    "step.completed InvokeFunction", "step.completed Produce", "step.completed SendSignal",
    "step.completed WaitForEvent", "step.completed WaitForSignal", "step.late", "turn with mail",
    "wait ended by an event",
    "wait ended by what came before", "wait timed out",
)  # fmt: skip


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """One for each seed; raises with the first that breaks a promise."""
    return simulated(0, SEEDS, is_cluster=True)


@pytest.mark.spec("EVT-13", "STEP-12", "STEP-13", "ERR-13", "FAULT-G1")
def test_the_promises_hold_on_several_processes(reports: list[Report]) -> None:
    assert [report.seed for report in reports if report.turns] == list(range(SEEDS))


def test_every_fault_of_the_cluster_has_struck(reports: list[Report]) -> None:
    fired, kinds = counted(reports)
    assert {name: fired[name] for name in FAULTS if fired[name] < 5} == {}
    assert {name: kinds[name] for name in RECORDS if kinds[name] < 15} == {}
    assert fired["another's hanging transaction ended"]


def test_a_seed_of_the_cluster_always_gives_the_same_run() -> None:
    first: list[str] = []
    again: list[str] = []
    assert simulate_cluster(17, trace=first.append) == simulate_cluster(17, trace=again.append)
    assert first == again
