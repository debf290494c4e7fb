"""Reads a log's journal and events as records, turn by turn, in batches of bounded size.

Invariant: nothing that stands in the log is passed over in silence; what cannot be read is handed out too, as
``Unreadable``.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from steplog.engine.records import LogRestored, Record, StoredEvent
from steplog.errors import LogCorrupt
from steplog.log.sqlite import JournalReader, Row

ROWS = 256  # read at once
ROWS_AT_FIRST = 16
BATCH_BYTES = 4 << 20  # aimed at; decoded it takes several times as much

Source = Literal["journal", "events"]
T = TypeVar("T")


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A record, or a whole row, that does not fit the format."""

    position: int
    source: Source
    reason: str
    data: str = ""
    partition: int = 0
    env: str = ""
    run: str = ""  # where at least this could be read
    seq: int = 0


class TurnRecords(msgspec.Struct, kw_only=True):
    """What one turn wrote; on Kafka, some records of one partition, which may be of several turns."""

    position: int
    offsets: list[int] = []  # of its records, or of its events, where each has its own
    partition: int = 0
    records: list[Record] = []
    events: list[StoredEvent] = []
    unreadable: list[Unreadable] = []
    restored: LogRestored | None = None  # the commits before this one are missing


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Turns in order. Everything up to ``position`` is in this batch or was in one before."""

    position: int
    turns: list[TurnRecords]
    is_full: bool  # more may be waiting


class Tape:
    """Reads a log in batches, with fewer rows at once where rows are large."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._rows = ROWS_AT_FIRST

    def read(self, after: int) -> Batch | None:
        """Read what was committed after a position; None where nothing was."""
        last = self._reader.last_position()
        if last <= after:
            return None
        limit = self._rows
        rows, damaged = self._read("journal", after, last)
        is_full = len(rows) == limit
        position = rows[-1].position if is_full else max(last, rows[-1].position if rows else 0)
        events, damaged_events = self._read_events(after, position)
        size = sum([len(row.data) for row in rows]) + sum([len(row.data) for row in events])
        self._rows = max(1, min(BATCH_BYTES * limit // max(size, 1), 2 * limit, ROWS))
        turns = _turns(rows, events, [bad for bad in damaged + damaged_events if bad.position <= position])
        return Batch(position=position, turns=turns, is_full=is_full)

    def _read_events(self, after: int, upto: int) -> tuple[list[Row], list[Unreadable]]:
        rows: list[Row] = []
        damaged: list[Unreadable] = []
        while after < upto:
            page, bad = self._read("events", after, upto)
            rows += [row for row in page if row.position <= upto]
            damaged += bad
            if len(page) < self._rows:
                break
            after = page[-1].position
        return rows, damaged

    def _read(self, source: Source, after: int, upto: int) -> tuple[list[Row], list[Unreadable]]:
        read = self._reader.journal if source == "journal" else self._reader.events
        try:
            return read(after, self._rows), []
        except LogCorrupt as error:
            if error.__cause__ is not None:  # the file as a whole, not one row
                raise
            return _step_over(read, source, after, upto, self._rows)


def _step_over(
    read: Callable[[int, int], list[Row]], source: Source, after: int, upto: int, limit: int
) -> tuple[list[Row], list[Unreadable]]:
    """Read row by row, past those that do not match their checksums.

    The reader says what is wrong with the next row, but not its position: that is where it stops to complain.
    """
    rows: list[Row] = []
    damaged: list[Unreadable] = []
    reason = ""
    while len(rows) < limit:
        page, problem = list[Row](), ""
        try:
            page = read(after, 1)
        except LogCorrupt as error:
            if error.__cause__ is not None:
                raise
            problem = str(error)  # it names the row
        if reason and problem != reason:
            damaged.append(Unreadable(position=after, source=source, reason=reason))
        reason = problem
        if after >= upto or not (page or problem):
            break
        rows += page
        after = page[0].position if page else after + 1
    return rows, damaged


def _turns(rows: list[Row], events: list[Row], damaged: list[Unreadable]) -> list[TurnRecords]:
    """Decode rows, and put together what one turn wrote."""
    turns: dict[int, TurnRecords] = {}
    for row in rows:
        turn = turns[row.position] = TurnRecords(position=row.position)
        if row.data.startswith(_RESTORED):
            turn.restored = _decode_restored(row.data)[0]
        else:
            turn.records = _decoded(row, "journal", _decode_records, _decode_record, turn.unreadable)
    for row in events:
        turn = turns.setdefault(row.position, TurnRecords(position=row.position))
        turn.events = _decoded(row, "events", _decode_events, _decode_event, turn.unreadable)
    for bad in damaged:
        turns.setdefault(bad.position, TurnRecords(position=bad.position)).unreadable.append(bad)
    return [turns[position] for position in sorted(turns)]


def _decoded(
    row: Row,
    source: Source,
    decode_all: Callable[[bytes], list[T]],
    decode: Callable[[msgspec.Raw], T],
    unreadable: list[Unreadable],
) -> list[T]:
    """Decode a row at once, or what can be read of it one by one."""
    try:
        return decode_all(row.data)
    except ValueError as error:
        reason = str(error)
    found: list[T] = []
    try:
        each = _decode_each(row.data)
    except ValueError:
        unreadable.append(Unreadable(position=row.position, source=source, reason=reason, data=_shown(row.data)))
        return found
    for raw in each:
        try:
            found.append(decode(raw))
        except ValueError as error:
            unreadable.append(unreadable_record(bytes(raw), position=row.position, source=source, reason=str(error)))
    return found


def unreadable_record(
    data: bytes, *, position: int, source: Source, reason: str, partition: int = 0
) -> Unreadable:  # fmt: skip
    """Keep a record that does not fit, with what at least can be read of it."""
    head = _head(data)
    return Unreadable(
        position=position, partition=partition, source=source, reason=reason, data=_shown(data), env=head.env,
        run=head.run, seq=head.seq,
    )  # fmt: skip


class _Head(msgspec.Struct, frozen=True):
    """What nearly every record has."""

    env: str = ""
    run: str = ""
    seq: int = 0


def _head(raw: bytes) -> _Head:
    try:
        return _decode_head(raw)
    except ValueError:
        return _Head()


def _shown(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


_RESTORED = b'[{"kind":"log.restored"'
_decode_restored = msgspec.json.Decoder(list[LogRestored]).decode
_decode_records = msgspec.json.Decoder(list[Record]).decode
_decode_record = msgspec.json.Decoder[Record](Record).decode
_decode_events = msgspec.json.Decoder(list[StoredEvent]).decode
_decode_event = msgspec.json.Decoder(StoredEvent).decode
_decode_each = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_head = msgspec.json.Decoder(_Head).decode
