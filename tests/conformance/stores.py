"""The logs as their contract sees them: where turns are committed, and what is found after a crash."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from steplog.engine import keys
from steplog.engine.operations import Produce
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.state import Slice
from steplog.errors import LogUnavailable, TopicsInvalid
from steplog.log.broker import Assigned, Refused
from steplog.log.cache import FileCache
from steplog.log.client import KafkaClient
from steplog.log.kafka import KafkaLog
from steplog.log.memory import MemoryLog
from steplog.log.redo import redo_place
from steplog.log.sqlite import JournalReader, SqliteLog
from steplog.log.topics import JOURNAL, TOMBSTONES_MS, Found, Layout, prepare, shared
from tests.kafka_clients import DEADLINE_S, QUICK, committed, create_topic

T = TypeVar("T")
PARTITIONS = 16  # more than there are checks: each has one of its own
NAME = "node"
REFUSED_BYTES = 2_000

Changes = dict[bytes, bytes | None]


class Store(Protocol):
    """A log that can be crashed. ``name`` is that of the runs whose records are read back."""

    name: str

    def load(self) -> LoadedState:
        """Read what was committed."""

    def commit(self, turn: Turn) -> None:
        """Make a turn durable."""

    def fail(self, turn: Turn) -> None:
        """Commit a turn that the log has to refuse."""

    def crash(self) -> None:
        """Go on with what is durable alone, as if the process had been killed."""

    def journal(self) -> list[Any]:
        """Read the records of all turns, as any reader does."""

    def close(self) -> None: ...


class MemoryStore:
    name = "run"

    def __init__(self) -> None:
        self.log = MemoryLog()

    def load(self) -> LoadedState:
        return asyncio.run(self.log.load())

    def commit(self, turn: Turn) -> None:
        asyncio.run(self.log.commit(turn))

    def fail(self, turn: Turn) -> None:
        try:
            self.commit(msgspec.structs.replace(turn, number=turn.number - 1))  # nothing else can be wrong with one
        except AssertionError:
            return
        raise AssertionError("it was committed")

    def crash(self) -> None:
        """Nothing is held but the log itself."""

    def journal(self) -> list[Any]:
        return [msgspec.json.decode(record) for _, records in self.log.journal for record in records]

    def close(self) -> None:
        self.log.close()


class SqliteStore:
    name = "run"

    def __init__(self, folder: Path) -> None:
        self._folder, self._crashes = folder, 0
        self.path = folder / "0" / "log.db"
        self.log = SqliteLog(self.path)
        self._opened = [self.log]

    def load(self) -> LoadedState:
        return asyncio.run(self.log.load())

    def commit(self, turn: Turn) -> None:
        asyncio.run(self.log.commit(turn))

    def fail(self, turn: Turn) -> None:
        try:
            self.commit(msgspec.structs.replace(turn, number=turn.number - 1))  # its row is there already
        except LogUnavailable:
            return
        raise AssertionError("it was committed")

    def crash(self) -> None:
        """Copy the file and its WAL as they lie there, and open the copy."""
        self._crashes += 1
        before, self.path = self.path, self._folder / f"{self._crashes}" / "log.db"
        self.path.parent.mkdir()
        for name in (before, before.with_name("log.db-wal")):
            shutil.copy(name, self.path.parent)
        self.log = SqliteLog(self.path)
        self._opened.append(self.log)

    def journal(self) -> list[Any]:
        with JournalReader(self.path) as reader:
            return [record for row in reader.journal(0, 1_000) for record in msgspec.json.decode(row.data)]

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


class _Member(KafkaClient):
    """The one member of its group: whoever asks is told what it owns, not only who asks first."""

    _is_told: Assigned | None = None

    async def poll(self) -> Assigned | None:
        self._is_told = await super().poll() or self._is_told
        return self._is_told


def make_topics(bootstrap: str, layout: Layout) -> Found:
    """Make a log's topics, however long a busy broker needs: a node gives up after ten seconds."""
    deadline_s = time.monotonic() + 2 * DEADLINE_S
    while True:
        try:
            return prepare(AdminClient({"bootstrap.servers": bootstrap, **QUICK}), layout, None)
        except (KafkaException, TopicsInvalid):
            if time.monotonic() > deadline_s:
                raise


class KafkaShelf:
    """One log on Kafka, whose partitions are given out: each is an empty log of its own to who gets it."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.layout = Layout(prefix, PARTITIONS)
        self.small = f"{prefix}-small"  # a topic that refuses records
        self._runner = asyncio.Runner()
        self._partitions = iter(range(PARTITIONS))
        found = make_topics(bootstrap, self.layout)
        create_topic(bootstrap, self.small, settings={"max.message.bytes": str(REFUSED_BYTES)})
        self.client = self.run(self._join(found.message_bytes))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the client's loop."""
        return self._runner.run(work)

    def next(self) -> int:
        """A partition that nobody has had."""
        return next(self._partitions)

    def close(self) -> None:
        self.run(self.client.close())
        self._runner.close()

    async def _join(self, message_bytes: int) -> KafkaClient:
        settings = {"bootstrap.servers": self.bootstrap, **QUICK}
        client = _Member(settings, self.layout, NAME, message_bytes=message_bytes)
        deadline_s = time.monotonic() + DEADLINE_S
        while (assigned := await client.poll()) is None or not assigned.partitions:
            assert time.monotonic() < deadline_s, "the group has not said what is owned"
            await asyncio.sleep(0.02)
        return client


class KafkaStore:
    """A partition of a log on Kafka. ``keeps_copy``: the machine's copy of the state outlives a crash."""

    def __init__(self, shelf: KafkaShelf, *, keeps_copy: bool) -> None:
        self._shelf, self._keeps_copy = shelf, keeps_copy
        self._partition = shelf.next()
        self.name = f"run-{self._partition}"
        self._copies = itertools.count()
        self._cache: FileCache | None = None
        self.crash()

    def load(self) -> LoadedState:
        return self._shelf.run(self.log.load([self._partition]))[self._partition]

    def commit(self, turn: Turn) -> None:
        self._shelf.run(self.log.commit({self._partition: turn}))

    def fail(self, turn: Turn) -> None:
        """The broker has all of it, and then one record too many: the transaction is aborted."""
        before = self._end()
        large = Produce(topic=self._shelf.small, key=None, value=bytes(REFUSED_BYTES))
        try:
            self.commit(msgspec.structs.replace(turn, produced=[large]))
        except Refused:
            assert self._end() > before, "nothing was written of it"
            return
        raise AssertionError("it was committed")

    def crash(self) -> None:
        """Go on as another process of the same name."""
        shelf = self._shelf
        if self._cache is not None:
            self._cache.close()
        number = 0 if self._keeps_copy else next(self._copies)
        self._cache = cache = FileCache(shelf.folder / f"{self._partition}-{number}.db", shelf.layout.prefix)
        self.log = KafkaLog(
            shelf.client, NAME, lambda _: cache, partitions=PARTITIONS, now_ms=lambda: int(time.time() * 1_000),
            tombstones_ms=TOMBSTONES_MS,
        )  # fmt: skip
        shelf.run(self.log.renew())
        shelf.run(self.log.poll())

    def journal(self) -> list[Any]:
        name = self._shelf.layout.name(JOURNAL)
        values = committed(self._shelf.bootstrap, name, self._partition % shared(PARTITIONS))
        records = [msgspec.json.decode(value) for value in values if value is not None]
        return [record for record in records if record["run"] == self.name]

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def _end(self) -> int:
        redo = redo_place(self._partition, PARTITIONS)
        return self._shelf.run(self._shelf.client.ends([redo]))[redo]


# --- turns


def commit(
    store: Store, number: int, changes: Changes, flush: Changes | None = None, *, redo_from: int = 1, count: int = 0
) -> None:
    """Commit a turn with so many records."""
    store.commit(turn(store, number, changes, flush, redo_from=redo_from, count=count))


def turn(
    store: Store, number: int, changes: Changes, flush: Changes | None = None, *, redo_from: int = 1, count: int = 0
) -> Turn:
    """Make a turn; its records say which it is."""
    records = [msgspec.json.encode({"run": store.name, "turn": number, "n": n}) for n in range(count)]
    state = Slice(changes, sorted((flush or {}).items()), redo_from)
    return Turn(number=number, now_ms=number * 10, state=state, records=records, events=[])


def content(loaded: LoadedState) -> dict[bytes, bytes]:
    """The owners' keys with their values, without what a log notes for itself."""
    found = loaded.table.scan(b"\0", b"\xff", 1 << 30)
    return {key: value for key, value in found if key[0] != keys.NODE}
