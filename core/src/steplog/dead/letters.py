"""Letters, and the port that keeps them: ``sqlite.py`` beside a file, ``kafka.py`` in a topic.

A letter is known by where its record stands. Who parked it also replays it: ``retry`` only asks for that.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from steplog.kafka_record import Headers

State = Literal["parked", "retry"]
CUT = "steplog.cut"  # the only header of a letter whose record was too large to be kept
TOO_LARGE = "it is too large to be kept here, so it cannot be replayed: read it where it stood"
INCARNATION_CHARACTERS = 6  # of a topic's id: enough to tell it from one that was deleted


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a letter without its content."""

    topic: str
    partition: int
    offset: int
    reason: str
    parked_ms: int
    connector: str | None = None  # that read it; None: a topic of steplog's own
    incarnation: str = ""  # the id of the topic, which is another one when it is made anew
    key: bytes | None = None
    state: State = "parked"
    behind: str | None = None  # nothing is wrong with it: it waits for the letter of its key that has this id

    @property
    def id(self) -> str:
        """``orders:payments/3/1812@xZtrUU``: connector, topic, partition, offset, incarnation."""
        connector = "" if self.connector is None else f"{self.connector}:"
        incarnation = f"@{self.incarnation[:INCARNATION_CHARACTERS]}" if self.incarnation else ""
        return f"{connector}{self.topic}/{self.partition}/{self.offset}{incarnation}"

    @property
    def place(self) -> tuple[str, str, int, int]:
        """What letters are ordered by."""
        return self.connector or "", self.topic, self.partition, self.offset


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was put aside, as it was read."""

    entry: Entry
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether its content is not here."""
        return self.value is None and self.headers == ((CUT, None),)

    def cut(self) -> "Letter":
        """The letter without its content."""
        entry = msgspec.structs.replace(self.entry, reason=f"{self.entry.reason}; {TOO_LARGE}")
        return msgspec.structs.replace(self, entry=entry, value=None, headers=((CUT, None),))


class DeadLetters(Protocol):
    """Where letters are kept. Of one thread; raises ``LogUnavailable`` where it cannot be read or written."""

    def entries(self) -> list[Entry]:
        """Everything that is there now, by connector, topic, partition and offset."""

    def find(self, id_: str) -> Letter | None:
        """Read a letter, with its content."""

    def park(self, letters: Sequence[Letter]) -> None:
        """Keep letters, in place of those with the same ids; they are durable when this returns.

        Of one that is too large to be kept, where it stood.
        """

    def retry(self, ids: Sequence[str]) -> None:
        """Ask for letters to be replayed, by whoever parked them. Ids that are not there are passed over."""

    def drop(self, ids: Sequence[str]) -> None:
        """Forget letters."""

    def has_changed(self) -> bool:
        """Whether there may be something else than at the last call of ``entries``."""

    def close(self) -> None:
        """Let go of what is held open."""
