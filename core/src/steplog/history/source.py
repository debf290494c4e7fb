"""Where the projector reads: a log, portion by portion."""

from pathlib import Path
from typing import Protocol

import msgspec

from steplog.history.journal import Tape, TurnRecords
from steplog.history.position import COMMITS, Position
from steplog.log.sqlite import JournalReader
from steplog.paths import KafkaAddress, file_path, is_kafka


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """What comes next in some places of a log: everything from ``start`` to ``position``.

    Records of one run are in order; events and runs may come before or after each other.
    """

    start: Position
    position: Position
    turns: list[TurnRecords]
    is_full: bool  # more may be waiting


class Source(Protocol):
    """A log that somebody else writes. Its methods raise ``LogUnavailable``."""

    @property
    def log_id(self) -> str:
        """Which log it is: another one has another id."""
        ...

    def read(self, after: Position) -> Portion | None:
        """Read what comes after a position; None where nothing is there at the moment. Does not wait."""
        ...

    def end(self) -> Position:
        """Where everything ends that was committed before this was asked."""
        ...

    def has_come_to(self, position: Position) -> bool:
        """Whether the log was ever that far: false for a position that can only be of another log."""
        ...

    def close(self) -> None: ...


class FileSource:
    """A log in one file."""

    def __init__(self, path: Path) -> None:
        self._reader = JournalReader(path)
        self._tape = Tape(self._reader)

    @property
    def log_id(self) -> str:
        return self._reader.log_id

    def read(self, after: Position) -> Portion | None:
        batch = self._tape.read(after.number(COMMITS))
        if batch is None:
            return None
        return Portion(
            start=after, position=Position.commit(batch.position), turns=batch.turns, is_full=batch.is_full
        )  # fmt: skip

    def end(self) -> Position:
        return Position.commit(self._reader.last_position())

    def has_come_to(self, position: Position) -> bool:
        return self.end().covers(position)

    def close(self) -> None:
        self._reader.close()


def open_source(log: str, *, is_shared: bool = False, member: str = "") -> Source:
    """Open a log by its address: ``sqlite:PATH``, or ``kafka://SERVERS/PREFIX``.

    With ``is_shared``, its partitions are shared with the other projectors of the same history, among whom this one is
    ``member``.
    """
    if not is_kafka(log):
        return FileSource(file_path(log))
    from steplog.history.kafka import KafkaSource  # for start-up time, and it needs the client

    return KafkaSource(KafkaAddress.parse(log), is_shared=is_shared, member=member)
