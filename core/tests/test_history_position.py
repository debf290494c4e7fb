"""Positions: how far a log was written, or read, and how that is written down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.history.position import Position
from steplog.paths import masked

places = st.sampled_from(["journal/0", "journal/15", "events/0", "events/3"])
positions = st.dictionaries(places, st.integers(0, 1 << 62)).map(Position.of)


def test_one_place_is_written_as_its_number() -> None:
    assert str(Position.commit(120)) == "120"
    assert Position.parse("120") == Position.commit(120)
    assert Position.commit(0) == Position.parse("0") == Position.parse("") == Position()
    assert str(Position.of({"journal/3": 120, "events/0": 7, "events/1": 0})) == "events/0:7,journal/3:120"


@given(positions)
def test_what_is_written_can_be_read(position: Position) -> None:
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "journal/0", "journal/0:", ":5", "journal/0:x", "1,", "٣"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a position"):
        Position.parse(text)


@given(positions, positions)
def test_the_farther_of_two_covers_both_and_nothing_more(one: Position, other: Position) -> None:
    joined = one.joined(other)
    assert joined.covers(one)
    assert joined.covers(other)
    assert joined == other.joined(one)
    assert (one.covers(other) and other.covers(one)) == (one == other)
    assert one.joined(one) == one
    assert all(joined.number(place) in (one.number(place), other.number(place)) for place in joined.numbers)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:p%40q@h,i/d?sslmode=require", "postgresql://u:***@h,i/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=p&schema=s", "postgresql://h/d?user=u&password=***&schema=s"),
        ("postgresql://h/d?sslpassword=p", "postgresql://h/d?sslpassword=***"),
        ("kafka://h:9092,i:9092?prefix=x&sasl.password=p", "kafka://h:9092,i:9092?prefix=x&sasl.password=***"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("sqlite:a/b.db", "sqlite:a/b.db"),
    ],
)
def test_an_address_is_printed_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown
