"""A log in one file, at either end of a migration."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from steplog.engine import keys
from steplog.engine.messages import EventAccepted, Message, encode_message
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.records import Place
from steplog.engine.state import Slice, Table
from steplog.engine.waits import Path as EventPath
from steplog.errors import LogUnavailable
from steplog.log.moves import Move
from steplog.log.sqlite import JournalReader, Row, SqliteLog
from steplog.log.table import foreign
from steplog.migrate.ends import Kept, Name, Totals
from steplog.paths import dead_path

ROWS = 64  # read at once
TURN_RECORDS, TURN_BYTES = 500, 1 << 20  # in a row that is written
HERE = 1 << 29  # stands for the partition of an event that came with the log: the file's own is 0
_decode_all = msgspec.json.Decoder(list[msgspec.Raw]).decode


class FileSource:
    """A file that is moved away; its lock is held meanwhile. Raises ``LogLocked`` where an engine has it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise LogUnavailable(f"{path} does not exist; there is nothing to move")
        self._log = SqliteLog(path, is_moving=True)
        self._path = path
        self._loaded: LoadedState | None = None

    @property
    def move(self) -> Move | None:
        return self._log.move

    def freeze(self, move: Move) -> None:
        self._log.mark(move)

    def mark(self, move: Move) -> None:
        self._log.mark(move)

    def thaw(self) -> None:
        self._log.mark(None)

    def load(self) -> Sequence[Table]:
        self._loaded = asyncio.run(self._log.load())
        return [self._loaded.table]

    @property
    def totals(self) -> Totals:
        loaded = self._loaded
        assert loaded is not None, "it is read first"
        return Totals(loaded.turn, loaded.now_ms, loaded.table.get(keys.DRAINED) is not None)

    @property
    def paths(self) -> Mapping[Name, Sequence[EventPath]]:
        return {}

    def routed(self) -> Iterator[Kept]:
        with JournalReader(self._path) as reader:
            for row in _rows(reader.events):
                for index, body in enumerate(_decode_all(row.data)):
                    yield Kept((row.position, index), bytes(body))

    def unrouted(self) -> Iterator[Kept]:
        return iter(())  # the turn that accepts an event routes it

    def journal(self) -> Iterator[bytes]:
        with JournalReader(self._path) as reader:
            for row in _rows(reader.journal):
                yield from map(bytes, _decode_all(row.data))

    def inbox(self) -> Iterator[Message]:
        return iter(())

    def body(self, place: Place) -> bytes:
        turn, index = place
        ((_, bodies),) = self._log.accepted(turn, turn)
        return bodies[index]

    def close(self) -> None:
        self._log.close()


def _rows(read: Callable[[int, int], list[Row]]) -> Iterator[Row]:
    after = -1
    while rows := read(after, ROWS):
        yield from rows
        after = rows[-1].position


class FileTarget:
    """A file that is made. What is not decided yet comes with the state: its engine decides it first."""

    partitions = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = SqliteLog(path, is_moving=True) if _is_made(path) else None
        self._turn = 0
        self._carried = 0
        self._now_ms = 0
        self._events: list[bytes] = []
        self._records: list[bytes] = []
        self._pairs: list[tuple[bytes, bytes | None]] = []
        self._size_bytes = 0

    @property
    def move(self) -> Move | None:
        return None if self._log is None else self._log.move

    @property
    def exists(self) -> bool:
        return self._log is not None

    def create(self, move: Move) -> None:
        self._log = SqliteLog(self._path, is_moving=True, move=move)
        asyncio.run(self._log.load())

    def remove(self) -> None:
        path = self._path
        for suffix in ("-wal", "-shm", ".head"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        dead_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # with its mark, at last
        if self._log is not None:
            self._log.close()
            self._log = None

    def routed(self, kept: Kept, slot: int, received_ms: int, note: Callable[[Place], None] | None) -> None:
        if note is not None:
            note((self._turn + 1, len(self._events)))
        self._events.append(kept.body)
        self._added(len(kept.body))

    def unrouted(self, kept: Kept, event: EventAccepted, note: Callable[[Place], None] | None) -> None:
        self.message(event, event.slot)

    def trigger(self, place: Place | None) -> tuple[Place, Place]:
        if place is None:
            return (0, 0), (-1, -1)
        return place, (HERE, place[0] << 20 | place[1])

    def journal(self, record: bytes, slot: int, at_ms: int) -> None:
        self._records.append(record)
        self._added(len(record))

    def message(self, message: Message, slot: int) -> None:
        self.put(keys.carried(self._carried), encode_message(message), None)
        self._carried += 1

    def put(self, key: bytes, value: bytes, slot: int | None) -> None:
        self._pairs.append((key, value))
        self._added(len(value))

    def path(self, env: int, name: str, path: EventPath) -> None:
        pass  # it is in the state

    def flush(self) -> None:
        if not (self._events or self._records or self._pairs):
            return
        assert self._log is not None, "it is made first"
        self._turn += 1
        state = Slice(changes={}, flush=sorted(self._pairs), redo_from=self._turn)
        turn = Turn(number=self._turn, now_ms=self._now_ms, state=state, records=self._records, events=self._events)
        asyncio.run(self._log.commit(turn))
        self._events, self._records, self._pairs, self._size_bytes = [], [], [], 0

    def finish(self, totals: Totals) -> None:
        self._now_ms = totals.now_ms
        if totals.is_drained:
            self.put(keys.DRAINED, b"1", None)
        assert self._log is not None, "it is made first"
        self.flush()
        self._turn += 1
        state = Slice(changes={}, flush=[], redo_from=self._turn)
        asyncio.run(self._log.commit(Turn(number=self._turn, now_ms=totals.now_ms, state=state, records=[], events=[])))

    def complete(self) -> None:
        assert self._log is not None, "it is made first"
        self._log.mark(None)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _added(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes >= TURN_BYTES or len(self._events) + len(self._records) + len(self._pairs) >= TURN_RECORDS:
            self.flush()


def _is_made(path: Path) -> bool:
    """Whether a file holds anything: one that was only begun does not."""
    if not path.exists():
        return False
    with foreign(path), closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(count)
