"""What one process may keep, delete and release while others may have its partitions: single stories of the cluster."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from steplog.engine import keys
from steplog.engine.effects import Dispatch, Effect
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, EventTrigger, FunctionSpec, Registry
from steplog.engine.ids import ulid
from steplog.engine.operations import EventOut
from steplog.engine.processor import Turn
from steplog.engine.state import Slice
from steplog.log.broker import Assigned, Place, Produced
from steplog.log.cache import FileCache
from steplog.log.kafka import Cache, KafkaLog
from steplog.log.topics import REDO
from steplog.partitions import Partitions

from .broker import SESSION_S, Cluster, Connection, Troubles
from .cluster import Cache as CopyInMemory
from .cluster import VirtualLoop
from .plans import START_MS

KEY = keys.run(1, bytes(16))
REDO_PLACE = Place(REDO, 0)


class Process:
    """A log of two partitions, as one process has it."""

    def __init__(self, cluster: Cluster, name: str, cache: Callable[[int], Cache], most_redo: int = 30) -> None:
        self.connection = Connection(cluster, name)
        self.log = KafkaLog(
            self.connection, name, cache, partitions=2, now_ms=lambda: START_MS, tombstones_ms=1 << 40,
            most_redo=most_redo,
        )  # fmt: skip

    async def own(self) -> None:
        """Be the only one in the group, and begin."""
        await self.log.renew()
        while (assigned := await self.log.poll()) is None or assigned.token is None:
            pass
        self.turns = dict.fromkeys(assigned.partitions, 0)
        for partition, loaded in (await self.log.load(assigned.partitions)).items():
            self.turns[partition] = loaded.turn

    async def value(self) -> bytes | None:
        """What a start finds under ``KEY``."""
        loaded = await self.log.load([1])
        return loaded[1].table.get(KEY)

    async def commit(
        self, partition: int, *, changes: dict[bytes, bytes | None] | None = None, redo_from: int | None = None,
        flush: list[tuple[bytes, bytes | None]] | None = None,
    ) -> None:  # fmt: skip
        """Commit a turn; by default nothing of it is pending afterwards."""
        number = self.turns[partition] = self.turns[partition] + 1
        state = Slice(changes or {}, flush or [], number + 1 if redo_from is None else redo_from)
        await self.log.commit({partition: Turn(number=number, now_ms=START_MS, state=state, records=[], events=[])})


def play(story: Callable[[Cluster], Awaitable[None]]) -> None:
    """Tell a story of a cluster of two partitions, in virtual time."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(_told(story))
    finally:
        loop.close()


async def _told(story: Callable[[Cluster], Awaitable[None]]) -> None:
    await story(Cluster(Random(1), 2, Troubles(), lambda _: None))


def in_memory() -> Callable[[int], Cache]:
    copies: dict[int, CopyInMemory] = {}
    return lambda partition: copies.setdefault(partition, CopyInMemory())


def test_a_partition_is_kept_until_somebody_else_has_loaded_it() -> None:
    async def story(cluster: Cluster) -> None:
        one, other = Process(cluster, "one", in_memory()), Process(cluster, "other", in_memory())
        same_name = Process(cluster, "one", in_memory())
        await one.own()
        assert await one.log.kept([0, 1]) == [], "nothing shows yet that it was owned"
        await one.commit(0)
        assert await one.log.kept([0, 1]) == [0, 1]
        await other.log.load([0])
        assert await one.log.kept([0, 1]) == [1]
        await same_name.log.load([1])
        assert await one.log.kept([0, 1]) == []

    play(story)


@pytest.mark.spec("FAULT-F3")
def test_what_was_loaded_without_knowing_that_it_was_lost_is_not_kept() -> None:
    """Its owner was there before, and goes on without a word."""

    async def story(cluster: Cluster) -> None:
        one, owner = Process(cluster, "one", in_memory()), Process(cluster, "owner", in_memory())
        await one.own()
        await one.commit(0)
        cluster.leave("one")  # it stands still
        await owner.own()
        await one.log.renew()  # it goes on, and has heard nothing
        await one.log.load([0, 1])
        await owner.commit(0)
        assert await one.log.kept([0, 1]) == []

    play(story)


class Between(Connection):
    """Its group is between two assignments, when it is told so."""

    is_between, transactions = False, 0

    async def poll(self) -> Assigned | None:
        return Assigned((), None) if self.is_between else await super().poll()

    async def transact(
        self, records: Sequence[Produced], positions: dict[Place, int], token: object
    ) -> dict[Place, int]:  # fmt: skip
        self.transactions += 1
        return await super().transact(records, positions, token)


@pytest.mark.parametrize("is_between", [False, True])
def test_a_process_that_ends_commits_what_it_has_unless_it_is_between_two_assignments(is_between: bool) -> None:
    async def story(cluster: Cluster) -> None:
        connection = Between(cluster, "one")
        log = KafkaLog(connection, "one", in_memory(), partitions=2, now_ms=lambda: START_MS, tombstones_ms=1 << 40)
        partitions = Partitions(
            log, Connection(cluster, "reader", is_reader=True), Registry([]), EngineConfig(), 2,
            deliver=lambda _: None, on_lost=lambda *_: None, clocks=lambda: (START_MS, START_MS),
        )  # fmt: skip
        task = asyncio.get_running_loop().create_task(partitions.run())
        await asyncio.sleep(2)
        assert partitions.owned
        connection.is_between, before = is_between, connection.transactions
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await partitions.finish()
        assert connection.transactions - before == (not is_between)

    play(story)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_copy_keeps_nothing_that_only_the_redo_had(kind: str, tmp_path: Path) -> None:
    files: dict[int, FileCache] = {}

    def open_cache(partition: int) -> Cache:
        return files.setdefault(partition, FileCache(tmp_path / f"{partition}.db", "cluster/topic"))

    async def story(cluster: Cluster) -> None:
        owner = Process(cluster, "owner", in_memory())
        late = Process(cluster, "late", in_memory() if kind == "memory" else open_cache)
        await owner.own()
        await owner.commit(1, changes={KEY: b"1"}, redo_from=1)
        assert await late.value() == b"1"  # it was given the partition, and has lost it again without a commit
        await owner.commit(1, changes={KEY: None})  # born and gone within the redo: nothing else tells of it
        assert await late.value() is None

    play(story)
    for each in files.values():
        each.close()


def test_what_the_redo_had_stays_with_the_first_commit(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        owner = Process(cluster, "owner", in_memory())
        await owner.own()
        await owner.commit(1, changes={KEY: b"1"}, redo_from=1)
        file = FileCache(tmp_path / "1.db", "cluster/topic")
        heir = Process(cluster, "owner", lambda partition: file if partition else CopyInMemory())
        await heir.own()
        await heir.commit(1)
        file.close()
        again = FileCache(tmp_path / "1.db", "cluster/topic")
        assert again.table.get(KEY) == b"1"
        assert again.offset == len(cluster.log(Place("state", 1)))
        again.close()

    play(story)


def test_redo_goes_when_no_partition_needs_it_and_an_idle_one_is_asked_to_let_it_go() -> None:
    async def story(cluster: Cluster) -> None:
        one = Process(cluster, "one", in_memory(), most_redo=30)
        await one.own()
        await one.commit(1, changes={KEY: b"1"}, redo_from=1)
        for _ in range(20):
            await one.commit(0)
        assert await one.log.shorten() == []
        await one.commit(0)  # says where its redo begins
        assert await one.log.shorten() == []
        assert cluster.first(REDO_PLACE) == 0, "the other partition needs all of it"
        for _ in range(20):
            await one.commit(0)
        assert await one.log.shorten() == [1]
        await one.commit(1, flush=[(KEY, b"1")])
        await one.commit(0)
        assert await one.log.shorten() == []
        assert cluster.first(REDO_PLACE) > 40
        other = Process(cluster, "other", in_memory())
        assert await other.value() == b"1"

    play(story)


class Standing(Connection):
    """Stands still after a commit, for longer than its session."""

    is_still = False

    async def transact(
        self, records: list[Produced], positions: dict[Place, int], token: object  # type: ignore[override]
    ) -> dict[Place, int]:  # fmt: skip
        first = await super().transact(records, positions, token)
        if self.is_still:
            await asyncio.sleep(SESSION_S * 3)
        return first


class Deciding:
    """A process that takes part."""

    def __init__(self, cluster: Cluster, connection: Connection, name: str) -> None:
        function = FunctionSpec(id="app-f", app="app", name="f", triggers=(EventTrigger(event="go"),))
        self.effects: list[Effect] = []
        self.log = KafkaLog(
            connection, name, in_memory(), partitions=2, now_ms=lambda: START_MS, tombstones_ms=1 << 40
        )  # fmt: skip
        self.partitions = Partitions(
            self.log, Connection(cluster, f"{name}-reader", is_reader=True), Registry([function]), EngineConfig(), 2,
            deliver=self.effects.extend, on_lost=lambda *_: None, clocks=lambda: (START_MS, START_MS),
        )  # fmt: skip
        self.task = asyncio.get_running_loop().create_task(self.partitions.run())

    @property
    def dispatches(self) -> list[Effect]:
        return [each for each in self.effects if isinstance(each, Dispatch)]

    async def stop(self) -> None:
        """Cancel it, which has to be enough."""
        assert self.task.cancel()
        await asyncio.wait([self.task], timeout=SESSION_S)
        assert self.task.cancelled()


async def send_event(cluster: Cluster) -> None:
    event = accept_event(
        EventOut(name="go", data=b"{}"), ulid(START_MS, bytes(10)), env=DEFAULT_ENV, received_ms=START_MS,
        source="story", is_seeded=False,
    )  # fmt: skip
    sender = KafkaLog(
        Connection(cluster, "sender"), "sender", in_memory(), partitions=2, now_ms=lambda: START_MS,
        tombstones_ms=1 << 40,
    )  # fmt: skip
    await sender.append([event])


def test_effects_are_not_released_after_others_have_gone_on() -> None:
    async def story(cluster: Cluster) -> None:
        standing = Standing(cluster, "one")
        one = Deciding(cluster, standing, "one")
        await asyncio.sleep(1)
        standing.is_still = True
        await send_event(cluster)
        await asyncio.sleep(1)
        other = Deciding(cluster, Connection(cluster, "other"), "other")
        await asyncio.sleep(SESSION_S * 6)
        assert other.dispatches, "the other has gone on"
        assert not one.dispatches
        for each in (one, other):
            await each.stop()

    play(story)


def test_a_process_ends_though_something_comes_in_the_same_moment() -> None:
    async def story(cluster: Cluster) -> None:
        for n in range(20):
            one = Deciding(cluster, Connection(cluster, "one"), "one")
            await asyncio.sleep(0.5 + 0.013 * n)
            cluster.listeners["one"]()
            await one.stop()
            await one.partitions.finish()

    play(story)


class Slow(Connection):
    """Commits slowly."""

    is_committing = False

    async def transact(
        self, records: list[Produced], positions: dict[Place, int], token: object  # type: ignore[override]
    ) -> dict[Place, int]:  # fmt: skip
        self.is_committing = True
        await asyncio.sleep(SESSION_S / 6)
        return await super().transact(records, positions, token)


def test_a_process_that_stops_in_the_middle_of_a_commit_hands_back_what_is_in_flight() -> None:
    async def story(cluster: Cluster) -> None:
        slow = Slow(cluster, "one")
        one = Deciding(cluster, slow, "one")
        await asyncio.sleep(3)
        slow.is_committing = False
        await send_event(cluster)
        while not slow.is_committing:
            await asyncio.sleep(0.01)
        await one.stop()
        await one.partitions.finish()
        assert one.dispatches
        loaded = await Process(cluster, "other", in_memory()).log.load([0, 1])
        assert [loaded[p].table.get(keys.DRAINED) for p in (0, 1)] == [b"1", b"1"]

    play(story)
