"""Durations and sizes as configuration writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.config.units import format_duration, format_size, parse_duration_ms, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("15s", 15_000), ("7d", 604_800_000), ("1h30m", 5_400_000), ("500ms", 500), ("0s", 0), ("90m", 5_400_000),
        ("1d2h3m4s5ms", 93_784_005),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "7", "s", "1.5h", "30m1h", "-1s", "1 h", "1H", "7days", "1s\n", "١s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='"15s", "7d" or "1h30m"'):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256KB", 256_000), ("256KiB", 262_144), ("4MB", 4_000_000), ("3MiB", 3_145_728), ("1B", 1), ("2GB", 2 * 10**9)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4", "MB", "4mb", "4 MB", "0B", "0MB", "-4MB", "4.5MB", "4M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='"256KB", "4MB" or "4MiB"'):
        parse_size_bytes(text)


@given(st.integers(0, 10**14))
def test_a_duration_reads_back_as_it_was_written(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms


@given(st.integers(1, 10**14) | st.integers(1, 4096).flatmap(lambda n: st.sampled_from([n << 10, n << 20, n * 1000])))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    assert parse_size_bytes(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(262_144, "256KiB"), (4_000_000, "4MB"), (32 << 20, "32MiB"), (1_001, "1001B")]
)
def test_a_size_is_written_in_the_unit_that_suits_it(size: int, text: str) -> None:
    assert format_size(size) == text
