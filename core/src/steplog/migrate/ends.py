"""The two ends of a migration, as ``copying.py`` sees them: a log that is read, and one that is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from steplog.engine.messages import EventAccepted, Message
from steplog.engine.records import Place
from steplog.engine.state import Table
from steplog.engine.waits import Path
from steplog.kafka_record import Headers
from steplog.log.moves import Move

Name = tuple[int, str]  # environment, name of events


class Kept(NamedTuple):
    """An event in a log."""

    place: Place  # of a source on Kafka: partition and offset; of a file: the turn and its number there
    body: bytes
    key: bytes | None = None
    headers: Headers = ()


class Totals(NamedTuple):
    """What stands for a log as a whole."""

    turn: int
    now_ms: int
    is_drained: bool  # whoever ran last has handed back what was in flight


class Source(Protocol):
    """A log that is moved away. It can be opened while it is marked."""

    @property
    def move(self) -> Move | None: ...

    def freeze(self, move: Move) -> None:
        """Mark the log: from here on nothing starts on it, and nothing is written to it.

        Raises ``MigrationRefused`` where an engine runs; then it is not marked.
        """

    def mark(self, move: Move) -> None:
        """Set another mark: durable when it returns."""

    def thaw(self) -> None:
        """Take the mark away: the log is as it was."""

    def load(self) -> Sequence[Table]:
        """Read the state, by partition, as it was committed."""

    @property
    def totals(self) -> Totals: ...

    @property
    def paths(self) -> Mapping[Name, Sequence[Path]]:
        """Where the events of each name are looked into for waits, so far as the state does not say it."""

    def routed(self) -> Iterator[Kept]:
        """The events that were routed, in their order of receipt; of one partition, in the partition's."""

    def unrouted(self) -> Iterator[Kept]:
        """Those that were accepted, and not routed yet."""

    def journal(self) -> Iterator[bytes]:
        """The records, those of each run in order."""

    def inbox(self) -> Iterator[Message]:
        """What was sent between partitions, and not decided yet."""

    def body(self, place: Place) -> bytes:
        """The record of one event."""

    def close(self) -> None: ...


class Target(Protocol):
    """A log that is made. Nothing starts on it before it is ``complete``."""

    partitions: int

    @property
    def move(self) -> Move | None:
        """Its mark; None where there is no log, or one that is not marked."""

    @property
    def exists(self) -> bool: ...

    def create(self, move: Move) -> None:
        """Make it, empty and marked."""

    def remove(self) -> None:
        """Delete what a migration has made there."""

    def routed(self, kept: Kept, slot: int, received_ms: int, note: "Callable[[Place], None] | None") -> None:
        """Write an event that is not to be routed again; ``note`` is told where it stands, at ``flush`` at the latest.

        A place is a partition and an offset there, or a turn and a number.
        """

    def unrouted(self, kept: Kept, event: EventAccepted, note: "Callable[[Place], None] | None") -> None:
        """Write an event that is."""

    def trigger(self, place: Place | None) -> tuple[Place, Place]:
        """What a run's head, and its waits, say of where the event stands that has started it; None: not kept."""

    def journal(self, record: bytes, slot: int, at_ms: int) -> None: ...

    def message(self, message: Message, slot: int) -> None:
        """Write what an owner has to decide."""

    def put(self, key: bytes, value: bytes, slot: int | None) -> None:
        """Write a key of the state. None: in every partition."""

    def path(self, env: int, name: str, path: Path) -> None:
        """Let everybody know where the events of a name are looked into."""

    def flush(self) -> None:
        """Make everything durable."""

    def finish(self, totals: Totals) -> None:
        """Write what stands for the log as a whole."""

    def complete(self) -> None:
        """Take the mark away: an engine may start."""

    def close(self) -> None: ...
