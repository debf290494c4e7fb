"""Follows a log's journal and prints it, as any reader could; what is too much to read is counted instead.

The writer waits for nobody here, and what it writes under load is not even decoded.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from steplog.cli.lines import KnownRun, Lines, at
from steplog.cli.output import styled
from steplog.engine.records import EventRouted, Record, StoredEvent
from steplog.errors import LogUnavailable, NotFound, SteplogError
from steplog.history.position import Position
from steplog.history.queries import History, open_history
from steplog.history.source import Source, open_source
from steplog.log.sqlite import JournalReader, Row

POLL_S = 0.1
LINES_PER_S = 50  # more are counted: "412 events, …"
ROWS = 256  # read at once
BURST_BYTES = 256 << 10  # of one read; more is counted without decoding
FROM_OUTSIDE = ("key", "invoke")  # sources of events that somebody has sent
OPENED_EVERY_S = 5.0  # a log on Kafka that is away
BEFORE_END = 50  # records of each partition
KNOWN_EVENTS = 1_000
PASSES = 16  # of reading in one poll, so that keys and reload get their turn

_KINDS = {
    "event.routed": ("event", "events"), "run.scheduled": ("run", "runs"), "step.completed": ("step", "steps"),
    "step.errored": ("failed attempt", "failed attempts"), "run.completed": ("run completed", "runs completed"),
    "run.failed": ("run failed", "runs failed"),
}  # fmt: skip
_decode_records = msgspec.json.Decoder(list[Record]).decode
_decode_events = msgspec.json.Decoder(list[StoredEvent]).decode


class Transcript:
    """What happens in a log from a position on. ``poll`` prints what is new; ``history`` knows the runs of before."""

    def __init__(
        self, log_path: Path, history: str, say: Callable[[str], None], *, position: int, payloads: bool = False,
        kafka: str | None = None, clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.lines = Lines(self._find, payloads=payloads)
        self.last_event: StoredEvent | None = None  # the newest that was sent, and not by a run
        self._log_path, self._history_address = log_path, history
        self._say, self._clock_s = say, clock_s
        self._position = position
        self._reader: JournalReader | None = None
        self._topics = None if kafka is None else Topics(kafka)
        self._history: History | None = None
        self._second_s, self._left = 0.0, LINES_PER_S
        self._counts: Counter[str] = Counter()

    def poll(self) -> None:
        """Print, or count, what was committed since the last time."""
        now_s = self._clock_s()
        if now_s - self._second_s >= 1:
            self._sum_up()
            self._second_s, self._left = now_s, LINES_PER_S
        try:
            for _ in range(PASSES):
                if not self._read():
                    break
        except LogUnavailable:  # it is not there yet, or not any more; the engine tells more about that
            self.close()

    def close(self) -> None:
        """Close the files, until they are read again."""
        self._sum_up()
        for reader in (self._reader, self._history, self._topics):
            if reader is not None:
                reader.close()
        self._reader = self._history = None

    def _read(self) -> bool:
        """Take one batch; whether more may be there."""
        return self._read_rows() if self._topics is None else self._read_topics(self._topics)

    def _read_topics(self, topics: "Topics") -> bool:
        records, is_full = topics.read()
        if len(records) > max(self._left, 0):
            self._left = 0  # for the rest of the second
            self._counts.update(kind for record, _ in records if (kind := _kind(record)) in _KINDS)
            return is_full
        for record, event in records:
            self._tell(record, event)
        return is_full

    def _read_rows(self) -> bool:
        if self._reader is None:
            self._reader = JournalReader(self._log_path)
        rows = self._reader.journal(self._position, ROWS)
        if not rows:
            return False
        first, self._position = self._position, rows[-1].position
        if sum(len(row.data) for row in rows) > BURST_BYTES:
            for row in rows:
                self._count(row.data)
            return len(rows) == ROWS
        events = self._events(first, self._position)
        for row in rows:
            self._show(row, events)
        return len(rows) == ROWS

    def _show(self, row: Row, events: dict[str, StoredEvent]) -> None:
        if row.data.count(b'{"kind":"') > max(self._left, 0):
            self._count(row.data)
            return
        try:
            records = _decode_records(row.data)
        except ValueError:  # the audit tells about it
            return
        for record in records:
            self._tell(record, events.get(record.event) if isinstance(record, EventRouted) else None)

    def _tell(self, record: Record, event: StoredEvent | None) -> None:
        if event is not None and event.source in FROM_OUTSIDE:
            self.last_event = event
        for line in self.lines.of(record, None if event is None else bytes(event.data)):
            self._say(line)
            self._left -= 1

    def _count(self, data: bytes) -> None:
        self._left = 0  # for the rest of the second
        for kind in _KINDS:
            self._counts[kind] += data.count(b'{"kind":"%b"' % kind.encode())

    def _sum_up(self) -> None:
        if self._counts.total():
            parts = [f"{count:,} {_KINDS[kind][count != 1]}" for kind, count in self._counts.items() if count]
            text = f"{at(round(time.time() * 1000))}  …      {', '.join(parts)}; too many to show each"
            self._say(styled(text, dim=True))
        self._counts.clear()

    def _events(self, after: int, upto: int) -> dict[str, StoredEvent]:
        """The events that were accepted between two positions, by internal id."""
        assert self._reader is not None, "it is being read"
        rows = [row for row in self._reader.events(after, ROWS) if row.position <= upto]
        try:
            return {event.internal_id: event for row in rows for event in _decode_events(row.data)}
        except ValueError:  # the audit tells about it
            return {}

    def _find(self, run_id: str) -> KnownRun | None:
        """Ask the history for a run that began before."""
        try:
            if self._history is None:
                self._history = open_history(self._history_address)
            run = self._history.run(run_id)
        except (NotFound, LogUnavailable):
            return None
        return KnownRun(run.function.removeprefix(f"{run.app}-"), run.due_ms or run.scheduled_ms)


class Topics:
    """What is written to a log on Kafka from now on, in the order in which it comes from its partitions."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._since_ms = round(time.time() * 1000)
        self._source: Source | None = None
        self._position: Position | None = None
        self._opens_at_s = 0.0
        self._events: dict[str, StoredEvent] = {}  # the newest, by internal id

    def read(self) -> tuple[list[tuple[Record, StoredEvent | None]], bool]:
        """Records that are new, those of events with their event if it came before; and whether more may be there.

        Raises ``LogUnavailable``; for a while after that nothing is asked, because asking blocks.
        """
        if self._source is None:
            if time.monotonic() < self._opens_at_s:
                return [], False
            self._opens_at_s = time.monotonic() + OPENED_EVERY_S
            self._source = open_source(self._url)
        if self._position is None:  # some before the end: what has come since this was made is told
            self._position = Position.of({p: max(n - BEFORE_END, 0) for p, n in self._source.end().numbers.items()})
        portion = self._source.read(self._position)
        if portion is None:
            return [], False
        self._position = self._position.joined(portion.position)
        for event in (event for turn in portion.turns for event in turn.events):
            self._events[event.internal_id] = event
            if len(self._events) > KNOWN_EVENTS:
                del self._events[next(iter(self._events))]
        records = [record for turn in portion.turns for record in turn.records if record.at >= self._since_ms]
        found = [(r, self._events.get(r.event) if isinstance(r, EventRouted) else None) for r in records]
        return found, portion.is_full

    def close(self) -> None:
        """Close the client, until it is read again."""
        source, self._source = self._source, None
        if source is not None:
            source.close()


def _kind(record: Record) -> str:
    return str(record.__struct_config__.tag)


def open_runs(log_path: Path, history: str) -> tuple[int, int]:
    """How many runs of a log are open, and its position; zeros for one that is not there or cannot be read."""
    try:
        with JournalReader(log_path) as reader:
            position = reader.last_position()
    except SteplogError:
        return 0, 0
    try:
        with open_history(history) as opened:
            counts = opened.counts()
    except SteplogError:
        return 0, position
    return sum(count.runs for count in counts if count.state not in ("completed", "failed")), position
