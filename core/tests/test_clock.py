"""The partition's time: it goes as steadily as the monotonic clock, whatever is done to the wall clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.clock import PartitionClock, read_clocks

from .partition import DAY, HOUR, NOON, SECOND

changes = st.sampled_from([-DAY, DAY, -HOUR, HOUR, -SECOND, 1, 0, 0, 0])
spans = st.integers(0, 10 * DAY)


@pytest.mark.spec("FAULT-F4")
@given(st.lists(st.tuples(spans, changes), max_size=20))
def test_time_passes_as_it_does_whatever_the_wall_clock_shows(steps: list[tuple[int, int]]) -> None:
    wall_ms, steady_ms, passed_ms = NOON, 5_000, 0
    clock = PartitionClock(stored_ms=0, wall_ms=wall_ms, monotonic_ms=steady_ms)
    before = clock.now_ms(wall_ms=wall_ms, monotonic_ms=steady_ms)
    for span_ms, change_ms in steps:
        wall_ms, steady_ms, passed_ms = wall_ms + span_ms + change_ms, steady_ms + span_ms, passed_ms + span_ms
        now = clock.now_ms(wall_ms=wall_ms, monotonic_ms=steady_ms)
        assert now >= before, "it never goes back"
        assert abs(now - NOON - passed_ms) <= 1 + 0.001 * passed_ms
        before = now


@pytest.mark.spec("FAULT-F4")
def test_a_smeared_leap_second_is_followed() -> None:
    clock = PartitionClock(stored_ms=0, wall_ms=NOON, monotonic_ms=0)
    for second in range(DAY // SECOND):
        wall_ms = NOON + second * SECOND * (1 - SECOND / DAY)  # a second less in a day
        now = clock.now_ms(wall_ms=wall_ms, monotonic_ms=second * SECOND)
        assert abs(now - wall_ms) < 2


def test_time_goes_on_from_where_the_log_ends() -> None:
    clock = PartitionClock(stored_ms=NOON + DAY, wall_ms=NOON, monotonic_ms=0)
    assert clock.now_ms(wall_ms=NOON + HOUR, monotonic_ms=HOUR) >= NOON + DAY + HOUR * 0.999


def test_the_clocks_are_read_in_milliseconds_and_one_of_them_never_goes_back() -> None:
    readings = [read_clocks() for _ in range(1_000)]
    assert all(wall_ms > NOON // 2 for wall_ms, _ in readings)
    steady = [steady_ms for _, steady_ms in readings]
    assert steady == sorted(steady)
    assert steady[-1] - steady[0] < 60 * SECOND
