"""What the log asks of a Kafka client: ``log/kafka.py`` holds the rules, a client or a simulated broker does the calls.

Every call may fail with ``BrokerError``, and then nothing is known of what it did.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class BrokerError(Exception):
    """A call failed, or its answer did not come."""


class Fenced(BrokerError):
    """Another process writes under this name, or has taken the partitions over."""


class Replaced(Fenced):
    """Another process of the same name has joined the group: this one must not begin again, or both do without end."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another process named {name} has joined")
        self.name = name


class Refused(BrokerError):
    """A foreign topic takes no such record; the transaction that it was part of is aborted."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"topic {topic} refuses a record: {reason}")
        self.topic, self.reason = topic, reason


class Place(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


Headers = tuple[tuple[str, bytes], ...]


class Fetched(NamedTuple):
    """A committed record."""

    place: Place
    offset: int
    key: bytes
    value: bytes | None  # None: a tombstone
    headers: Headers = ()


class Produced(NamedTuple):
    """A record to write. One ``is_foreign``: its topic is not steplog's, and is named in full."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    is_foreign: bool = False


ANY_PARTITION = -1  # of a foreign topic: by the key, as the client's partitioner chooses


class Target(NamedTuple):
    """What is known of a foreign topic."""

    partitions: int
    record_bytes: int  # of the largest record that it takes
    is_compacted: bool = False  # then its records need keys


class Assigned(NamedTuple):
    """Which partitions are owned since when. ``token`` is the group's metadata as it was when the assignment came."""

    partitions: tuple[int, ...]
    token: object


class Broker(Protocol):
    """One process's connection to the cluster: a consumer in the group, and one transactional producer."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have somebody told when there may be something new to read, or a new assignment."""

    async def poll(self) -> Assigned | None:
        """Take part in the group. Returns the new assignment, where there is one; what was owned before is given up."""

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        """Read some committed records from an offset on; returns them, and the offset behind all that was looked at.

        Where there is nothing it waits a moment, at most ``wait_s``. Raises ``OffsetOutOfRange`` where the topic does
        not go back that far, or ends before.
        """

    def is_at_end(self, place: Place, offset: int) -> bool:
        """Whether there would be nothing to read from an offset on, as far as is known here."""

    def reopen(self) -> None:
        """Read inputs by a new connection: the present one has stopped, and nobody says why."""

    def forget(self, place: Place) -> None:
        """Nobody reads on there."""

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The high watermarks: the offsets behind everything that was written, committed or not."""

    async def transact(
        self, records: Sequence[Produced], positions: dict[Place, int], token: object
    ) -> dict[Place, int]:
        """Write records and positions in one transaction; returns the first offset that it has in each place.

        The token says in which assignment it was decided: after another one the broker refuses it (``Fenced``).
        Raises ``Refused`` where a foreign topic does not take its record.
        """

    async def describe(self, topic: str) -> Target | None:
        """Look at a foreign topic; None where there is none. Raises where this process may not write it."""

    async def append(self, records: Sequence[Produced]) -> dict[Place, int]:
        """Write records outside any transaction; returns the offset behind the last one in each place."""

    async def trim(self, until: dict[Place, int]) -> None:
        """Let what stands before an offset be deleted."""

    async def renew(self) -> None:
        """Begin again as a new producer of the same name: ends what the last one left, and fences it."""

    async def fence(self, name: str) -> None:
        """End what the producer of another name has left hanging."""


class OffsetOutOfRange(BrokerError):
    """Records that are needed are gone."""
