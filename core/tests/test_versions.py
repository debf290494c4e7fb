"""Versions of functions: the number rises with every changed configuration, and with nothing else (FN-22)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.engine import records
from steplog.engine.functions import CronTrigger, EventTrigger, FunctionSpec

from .partition import SPILLING, Partition, function

SHIP = function("ship", "order")


def version(partition: Partition, function_id: str = "a-ship") -> int:
    """The version that a run has which begins now."""
    partition.send("order")
    return [r.function_version for r in partition.of(records.RunScheduled) if r.function == function_id][-1]


def changed(spec: FunctionSpec, **fields: object) -> FunctionSpec:
    return msgspec.structs.replace(spec, **fields)


@pytest.mark.spec("FN-22", "ARCH-07")
def test_a_changed_configuration_is_a_new_version() -> None:
    partition = Partition(SHIP, limits=SPILLING)
    assert version(partition) == 1
    order = EventTrigger("order")
    for number, spec in enumerate(
        [
            changed(SHIP, retries=0),
            changed(SHIP, name="Ship it"),
            changed(SHIP, is_strict=True),
            changed(SHIP, triggers=(EventTrigger("order", "event.data.total == null"),)),
            changed(SHIP, triggers=(order, EventTrigger("order.again"))),
            changed(SHIP, triggers=(order, CronTrigger("0 0 1 1 *"))),
            changed(SHIP, triggers=(order, CronTrigger("0 0 1 1 *", 5_000))),
            SHIP,
        ],
        start=2,
    ):
        partition.crash(spec)
        assert version(partition) == number
        partition.crash()
        partition.drain()
        assert version(partition) == number, "the same configuration is the same version"


@pytest.mark.spec("FN-22")
def test_a_version_counts_registrations_not_runs() -> None:
    partition = Partition(SHIP)
    partition.settle()
    partition.crash(changed(SHIP, retries=0))
    partition.crash(SHIP)
    assert version(partition) == 3


@pytest.mark.spec("FN-22")
def test_the_version_of_the_app_is_no_configuration() -> None:
    partition = Partition(changed(SHIP, version="2026.1"))
    assert version(partition) == 1
    partition.crash(changed(SHIP, version="2026.2"))
    assert version(partition) == 1


@pytest.mark.spec("FN-22")
def test_functions_have_versions_of_their_own_which_survive_their_absence() -> None:
    other = function("other", "order")
    partition = Partition(SHIP, other)
    partition.settle()
    partition.crash(changed(SHIP, retries=1), other)
    assert (version(partition), version(partition, "a-other")) == (2, 1)
    partition.crash(other)
    partition.crash(changed(SHIP, retries=1), other)
    assert version(partition) == 2
    partition.crash(other)
    partition.crash(SHIP)
    assert version(partition) == 3


@pytest.mark.spec("FN-22")
def test_a_registration_that_was_not_committed_does_not_count() -> None:
    partition = Partition(SHIP)
    partition.settle()
    partition.reload(changed(SHIP, retries=0))
    partition.reload(SHIP)
    assert version(partition) == 1


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=8))
def test_a_version_is_how_often_the_configuration_has_changed(retries: list[int]) -> None:
    partition = Partition(changed(SHIP, retries=0))
    expected, before = 1, 0
    for each in retries:
        partition.settle()
        partition.crash(changed(SHIP, retries=each))
        expected, before = expected + (each != before), each
    assert version(partition) == expected
