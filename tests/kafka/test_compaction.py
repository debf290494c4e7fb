"""The topic of the state is compacted while it is read, and until its deletions are gone (fault B13)."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.engine.state import Slice, Table
from steplog.log.broker import Fetched, Place
from steplog.log.cache import FileCache
from steplog.log.client import KafkaClient
from steplog.log.kafka import KafkaLog
from steplog.log.topics import MESSAGE_BYTES, STATE, TOMBSTONES_MS, Layout, prepare
from tests.kafka_clients import QUICK, alter_topic, committed

KEYS = [keys.run(1, n.to_bytes(16, "big")) for n in range(120)]
A_TURN = 60  # of these keys, with values of so many bytes
VALUE_BYTES = 6_000
TURNS = 30  # 11 MB, in segments of 1 MiB; 0.7 MB are left of that
SOON_S = 60.0
HERE = Place(STATE, 0)
State = dict[bytes, bytes]


class Reader(KafkaClient):
    """A client that stands still in the middle of the state, until something has happened."""

    meanwhile: Callable[[], Awaitable[None]] | None = None
    read_before = read_after = 0  # records of the state

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        if place == HERE and self.meanwhile is not None and self.read_after > A_TURN:
            happens, self.meanwhile = self.meanwhile, None
            self.read_before, self.read_after = self.read_after, 0
            await happens()
        fetched, after = await super().read(place, offset, wait_s=wait_s)
        self.read_after += len(fetched) if place == HERE else 0
        return fetched, after


class Process:
    """A log of one partition, as one process has it, and a copy of its state in a file."""

    def __init__(self, client: KafkaClient, name: str, path: Path, tombstones_ms: int) -> None:
        self._copy, self._turn = FileCache(path, "cluster/topic"), 0
        self.log = KafkaLog(
            client, name, lambda _: self._copy, partitions=1, now_ms=lambda: round(time.time() * 1000),
            tombstones_ms=tombstones_ms,
        )  # fmt: skip

    async def own(self) -> None:
        """Be the only one in the group, and begin."""
        await self.log.renew()
        until_s = time.monotonic() + SOON_S
        while (assigned := await self.log.poll()) is None or assigned.token is None:
            assert time.monotonic() < until_s, "the group gives it nothing"
            await asyncio.sleep(0.02)
        await self.log.load([0])

    async def commit(self, flush: dict[bytes, bytes | None]) -> None:
        """Commit a turn whose changes go to the state at once."""
        self._turn += 1
        state = Slice({}, sorted(flush.items()), self._turn + 1)
        await self.log.commit({0: Turn(number=self._turn, now_ms=self._turn, state=state, records=[], events=[])})

    async def state(self) -> State:
        """What a start finds."""
        return dump((await self.log.load([0]))[0].table)

    def close(self) -> None:
        self._copy.close()


def dump(table: Table) -> State:
    return dict(table.scan(KEYS[0], keys.after(KEYS[-1]), 2 * len(KEYS)))


@pytest.fixture
def layout(kafka: Cluster, kafka_prefix: str) -> Layout:
    """A log's topics, whose state is cut into small pieces and not compacted yet."""
    layout = Layout(kafka_prefix, 1)
    prepare(AdminClient({"bootstrap.servers": kafka.bootstrap, **QUICK}), layout, None)
    alter_topic(kafka.bootstrap, layout.name(STATE), "segment.bytes", str(1 << 20))
    alter_topic(kafka.bootstrap, layout.name(STATE), "min.cleanable.dirty.ratio", "1")
    return layout


@asynccontextmanager
async def process(
    kafka: Cluster, layout: Layout, name: str, path: Path, *, tombstones_ms: int = TOMBSTONES_MS,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Process, Reader]]:  # fmt: skip
    client = Reader({"bootstrap.servers": kafka.bootstrap, **QUICK}, layout, name, message_bytes=MESSAGE_BYTES)
    client.meanwhile = meanwhile
    made = Process(client, name, path, tombstones_ms)
    try:
        yield made, client
    finally:
        await client.close()
        made.close()


async def until(is_true: Callable[[], Awaitable[bool]], why: str) -> None:
    until_s = time.monotonic() + SOON_S
    while not await is_true():
        assert time.monotonic() < until_s, why
        await asyncio.sleep(0.1)


@pytest.mark.spec("FAULT-B13")
async def test_the_state_is_compacted_while_it_is_read(
    kafka: Cluster, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, expected, name = random.Random(seed), State(), layout.name(STATE)
    monkeypatch.setattr("steplog.log.fetcher.FULL_BYTES", 100_000)
    monkeypatch.setattr("steplog.log.fetcher.BATCH", 10)

    async def compacted() -> None:
        alter_topic(kafka.bootstrap, name, "min.cleanable.dirty.ratio", "0")

        async def is_smaller() -> bool:
            return len(await asyncio.to_thread(committed, kafka.bootstrap, name)) < written / 2

        await until(is_smaller, "the cleaner does not run")

    async with process(kafka, layout, "one", tmp_path / "one.db") as (one, _):
        await one.own()
        for _ in range(TURNS):
            await write(one, chance, expected, chance.sample(KEYS, A_TURN))
        written = len(await asyncio.to_thread(committed, kafka.bootstrap, name))
        assert written == TURNS * (A_TURN + 1)

        async with process(kafka, layout, "two", tmp_path / "two.db", meanwhile=compacted) as (two, reader):
            assert await two.state() == expected
            assert (reader.read_before > 0, reader.read_before + reader.read_after < written) == (True, True)
        async with process(kafka, layout, "three", tmp_path / "three.db") as (three, reader):
            assert await three.state() == expected
            assert reader.read_after < written / 2

        shutil.copy(tmp_path / "two.db", tmp_path / "old.db")
        alter_topic(kafka.bootstrap, name, "delete.retention.ms", "1")
        gone = sorted(expected)[::2]
        kept = [key for key in KEYS if key not in gone]
        await one.commit(dict.fromkeys(gone))
        for key in gone:
            del expected[key]

        async def are_forgotten() -> bool:
            await write(one, chance, expected, kept, deleted=0)
            return None not in await asyncio.to_thread(committed, kafka.bootstrap, name)

        await until(are_forgotten, "the cleaner keeps deletions")
        async with process(kafka, layout, "two", tmp_path / "two.db", tombstones_ms=1) as (two, _):
            assert await two.state() == expected
        async with process(kafka, layout, "two", tmp_path / "old.db") as (old, _):
            assert (await old.state()).keys() == expected.keys() | set(gone), "a copy too old brings them back"


async def write(
    process: Process, chance: random.Random, expected: State, some: list[bytes], *, deleted: float = 0.1
) -> None:
    """Write these keys, and delete a part of them."""
    changes = {key: None if chance.random() < deleted else chance.randbytes(VALUE_BYTES) for key in some}
    await process.commit(changes)
    for key, value in changes.items():
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value
