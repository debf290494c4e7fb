"""How far a log was written, or read: a number for each place that is written in order.

A log in one file has one place, whose numbers are those of its commits. On Kafka each partition of ``journal`` and
``events`` is one, and the number is the next record's offset. What was never written stands at 0.
"""

from collections.abc import Mapping
from typing import Self

import msgspec

COMMITS = ""  # the place of a log that is one file


class Position(msgspec.Struct, frozen=True):
    """A number for each place, without those at 0: ``{"journal/3": 120, "events/0": 7}``."""

    numbers: Mapping[str, int] = {}

    @classmethod
    def of(cls, numbers: Mapping[str, int]) -> Self:
        """Make a position; places at 0 are left out."""
        return cls({place: number for place, number in numbers.items() if number})

    @classmethod
    def commit(cls, number: int) -> Self:
        """The position of a commit, in a log that is one file."""
        return cls.of({COMMITS: number})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` has written. Raises ``ValueError``."""
        numbers = {}
        for part in text.split(",") if text else ():
            place, separator, number = part.rpartition(":")
            if not (number.isascii() and number.isdecimal()) or bool(separator) != bool(place):
                raise ValueError(f"{text[:100]!r} is not a position")
            numbers[place] = int(number)
        return cls.of(numbers)

    def number(self, place: str) -> int:
        """How far a place is."""
        return self.numbers.get(place, 0)

    @property
    def total(self) -> int:
        """All numbers together, to show how much there is."""
        return sum(self.numbers.values())

    def covers(self, other: "Position") -> bool:
        """Whether every place is as far as there."""
        return all(self.number(place) >= number for place, number in other.numbers.items())

    def joined(self, other: "Position") -> "Position":
        """The farther of the two, in each place."""
        places = {**self.numbers, **other.numbers}
        return Position.of({place: max(self.number(place), other.number(place)) for place in places})

    def __str__(self) -> str:
        """``120`` for a commit, ``events/0:7,journal/3:120`` on Kafka."""
        parts = sorted(self.numbers.items())
        return ",".join([f"{place}:{number}" if place else str(number) for place, number in parts])
