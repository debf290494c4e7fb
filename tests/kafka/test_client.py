"""The client and the topics on a real broker: what ``log/broker.py`` promises."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.engine.functions import EngineConfig, Registry
from steplog.errors import LogUnavailable, TopicsInvalid
from steplog.log.broker import Assigned, BrokerError, Fenced, Fetched, OffsetOutOfRange, Place, Produced
from steplog.log.client import KafkaClient
from steplog.log.topics import (
    EVENTS,
    INBOX,
    JOURNAL,
    MESSAGE_BYTES,
    REDO,
    REGISTRY,
    STATE,
    Found,
    Layout,
    checked_ids,
    prepare,
)
from steplog.member import ClusterConfig, Member
from tests.faults.kafka_proxy import KafkaProxy
from tests.kafka_clients import QUICK, alter_topic, committed, create_topic, produce, transactional

T = TypeVar("T")
SOON_S = 30.0
CLIENT = {name: str(value) for name, value in QUICK.items()}
ENGINE = (Registry([]), EngineConfig())
FEWER = {REGISTRY: 1, REDO: 2, JOURNAL: 2}  # partitions that they have in a log of 17
HERE, THERE = Place(STATE, 0), Place(JOURNAL, 0)


def admin_of(kafka: Cluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap, **QUICK})


@pytest.fixture
def layout(kafka: Cluster, kafka_prefix: str) -> Layout:
    """A log's topics, made."""
    layout = Layout(kafka_prefix, 2)
    prepare(admin_of(kafka), layout, None)
    return layout


@asynccontextmanager
async def client(kafka: Cluster, layout: Layout, name: str = "node") -> AsyncIterator[KafkaClient]:
    made = KafkaClient({"bootstrap.servers": kafka.bootstrap, **QUICK}, layout, name, message_bytes=MESSAGE_BYTES)
    try:
        yield made
    finally:
        await made.close()


async def until(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until there is an answer."""
    deadline_s = time.monotonic() + SOON_S
    while (answer := await ask()) is None:
        assert time.monotonic() < deadline_s, "it never came"
        await asyncio.sleep(0.02)
    return answer


async def owning(member: KafkaClient) -> Assigned:
    """Wait for an assignment that has partitions."""

    async def ask() -> Assigned | None:
        assigned = await member.poll()
        return assigned if assigned is not None and assigned.partitions else None

    return await until(ask)


async def read_all(reader: KafkaClient, place: Place, offset: int = 0) -> list[Fetched]:
    """Read everything that is committed, up to the watermark."""
    end, found = (await reader.ends([place]))[place], []
    while offset < end:
        fetched, offset = await reader.read(place, offset, wait_s=SOON_S)
        found += fetched
    return found


def values(fetched: Sequence[Fetched]) -> Iterator[bytes | None]:
    return (each.value for each in fetched)


# --- topics


def test_topics_are_made_with_what_they_need_and_found_again(kafka: Cluster, kafka_prefix: str) -> None:
    layout = Layout(kafka_prefix, 17)
    made = prepare(admin_of(kafka), layout, None)
    again = prepare(admin_of(kafka), layout, None)
    assert (made.is_new, again.is_new) == (True, False)
    assert made.message_bytes == MESSAGE_BYTES
    assert made.topic_ids == again.topic_ids
    topics = admin_of(kafka).list_topics(timeout=SOON_S).topics
    counts = {name: len(topic.partitions) for name, topic in topics.items() if name.startswith(f"{kafka_prefix}.")}
    assert counts == {f"{kafka_prefix}.{topic}": FEWER.get(topic, 17) for topic in made.topic_ids}


@pytest.mark.spec("FAULT-B11")
def test_a_changed_count_of_partitions_is_refused_with_what_to_do(kafka: Cluster, kafka_prefix: str) -> None:
    prepare(admin_of(kafka), Layout(kafka_prefix, 2), None)
    with pytest.raises(TopicsInvalid, match=r"has 2 partitions, a log of 3 has 3.*partitions = 2.*steplog migrate"):
        prepare(admin_of(kafka), Layout(kafka_prefix, 3), None)


@pytest.mark.parametrize("partitions", [0, 4097])
def test_a_count_that_no_slot_fits_is_refused(kafka: Cluster, kafka_prefix: str, partitions: int) -> None:
    with pytest.raises(TopicsInvalid, match="from 1 to 4096"):
        prepare(admin_of(kafka), Layout(kafka_prefix, partitions), None)


@pytest.mark.spec("FAULT-B10")
@pytest.mark.parametrize("topic", [STATE, INBOX, EVENTS])
def test_a_topic_that_is_gone_is_not_made_anew(kafka: Cluster, layout: Layout, topic: str) -> None:
    delete(kafka, layout.name(topic))
    with pytest.raises(TopicsInvalid, match=f"{layout.name(topic)} is missing.*is gone"):
        prepare(admin_of(kafka), layout, None)


@pytest.mark.spec("FAULT-B10")
async def test_a_topic_that_was_made_anew_is_refused_at_the_next_start(kafka: Cluster, layout: Layout) -> None:
    member = member_of(kafka, layout)
    await member.open()
    await member.finish()
    delete(kafka, layout.name(STATE))
    create_topic(kafka.bootstrap, layout.name(STATE), partitions=2, settings={"cleanup.policy": "compact"})
    again = member_of(kafka, layout)
    with pytest.raises(TopicsInvalid, match="was deleted and made again"):
        await again.open()
    await again.finish()


def test_a_topic_that_would_lose_its_state_is_refused(kafka: Cluster, layout: Layout) -> None:
    alter_topic(kafka.bootstrap, layout.name(STATE), "cleanup.policy", "delete")
    with pytest.raises(TopicsInvalid, match=r"cleanup.policy = delete, it must be compact: kafka-configs.sh"):
        prepare(admin_of(kafka), layout, None)


def test_the_smallest_message_of_all_topics_is_the_limit(kafka: Cluster, layout: Layout) -> None:
    alter_topic(kafka.bootstrap, layout.name(JOURNAL), "max.message.bytes", "1000000")
    assert prepare(admin_of(kafka), layout, None).message_bytes == 1_000_000


def test_only_what_the_log_rests_on_is_compared() -> None:
    found = Found(cluster_id="c", topic_ids={STATE: "2", REGISTRY: "2"}, message_bytes=1, is_new=False)
    checked_ids({REGISTRY: "1"}, found, Layout("p", 1))
    with pytest.raises(TopicsInvalid):
        checked_ids({STATE: "1"}, found, Layout("p", 1))


async def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steplog.log.topics.ADMIN_S", 0.5)
    config = ClusterConfig(brokers="127.0.0.1:9", prefix="p", partitions=1, node="n", data="/nowhere", client=CLIENT)
    member = Member(config, *ENGINE, deliver=lambda _: None, on_lost=lambda _: None)
    with pytest.raises(LogUnavailable, match=r"no Kafka broker answers at 127\.0\.0\.1:9"):
        await member.open()
    await member.finish()


# --- reading and writing


async def test_what_is_appended_is_read_back_with_its_key_and_headers(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        records = [Produced(HERE, b"k", b"v%d" % n, (("h", b"\x00\xff"),)) for n in range(3)]
        assert await one.append(records) == {HERE: 3}
        found = await read_all(one, HERE)
    assert [(f.offset, f.key, f.value, f.headers) for f in found] == [
        (n, b"k", b"v%d" % n, (("h", b"\x00\xff"),)) for n in range(3)
    ]


async def test_a_tombstone_has_no_value(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        await one.append([Produced(HERE, b"k", None)])
        assert [(f.key, f.value) for f in await read_all(one, HERE)] == [(b"k", None)]


async def test_reading_goes_on_behind_what_was_aborted(kafka: Cluster, layout: Layout) -> None:
    name = layout.name(JOURNAL)
    producer = transactional(kafka.bootstrap, "aborts")
    producer.begin_transaction()
    producer.produce(name, b"never", partition=0)
    producer.flush()
    producer.abort_transaction()
    async with client(kafka, layout) as one:

        async def end() -> int | None:
            return 2 if (await one.ends([THERE]))[THERE] == 2 else None  # a record and a mark

        await until(end)
        assert await read_all(one, THERE) == []


async def test_what_is_open_is_seen_in_the_watermark_and_not_read(kafka: Cluster, layout: Layout) -> None:
    name = layout.name(JOURNAL)
    produce(kafka.bootstrap, name, b"before")
    producer = transactional(kafka.bootstrap, "open")
    producer.begin_transaction()
    producer.produce(name, b"open", partition=0)
    producer.flush()
    async with client(kafka, layout) as one:
        assert (await one.ends([THERE]))[THERE] == 2
        found, after = await until_some(one, THERE)
        assert (list(values(found)), after) == ([b"before"], 1)
        assert await one.read(THERE, 1, wait_s=0.05) == ([], 1)
        producer.commit_transaction()
        found, after = await until_some(one, THERE, 1)
        assert list(values(found)) == [b"open"]


async def test_a_place_is_read_again_from_an_earlier_offset(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        await one.append([Produced(HERE, b"", b"%d" % n) for n in range(5)])
        assert len(await read_all(one, HERE)) == 5
        assert list(values(await read_all(one, HERE, 2))) == [b"2", b"3", b"4"]
        one.forget(HERE)
        assert len(await read_all(one, HERE)) == 5


async def test_more_is_read_than_is_kept_in_memory_at_once(
    kafka: Cluster, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steplog.log.fetcher.FULL_BYTES", 100_000)
    monkeypatch.setattr("steplog.log.fetcher.BATCH", 10)
    async with client(kafka, layout) as one:
        for _ in range(4):
            await one.append([Produced(HERE, b"", bytes(10_000)) for _ in range(50)])
        assert len(await read_all(one, HERE)) == 200


@pytest.mark.spec("FAULT-B10")
@pytest.mark.parametrize("offset", [0, 9])
async def test_what_is_gone_or_never_was_is_an_error_and_not_the_latest(
    kafka: Cluster, layout: Layout, offset: int
) -> None:
    async with client(kafka, layout) as one:
        await one.append([Produced(Place(INBOX, 0), b"", b"x")] * 3)
        await one.trim({Place(INBOX, 0): 2})
        with pytest.raises(OffsetOutOfRange):
            await one.read(Place(INBOX, 0), offset, wait_s=SOON_S)
        assert list(values(await read_all(one, Place(INBOX, 0), 2))) == [b"x"]


@pytest.mark.spec("FAULT-B12")
async def test_a_record_that_is_too_large_is_refused_at_once(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        with pytest.raises(BrokerError, match="too large"):
            await one.append([Produced(HERE, b"", bytes(MESSAGE_BYTES + 1))])


@pytest.mark.spec("FAULT-B8")
async def test_where_nobody_answers_a_partition_has_no_end_and_is_not_empty(
    kafka: Cluster, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client tells it by a number, which must not be taken for an end."""
    monkeypatch.setattr("steplog.log.topics.ADMIN_S", 1.0)
    settings = {"bootstrap.servers": kafka.proxied_bootstrap, **QUICK}
    with KafkaProxy(kafka.brokers[0]) as proxy:
        one = KafkaClient(settings, layout, "node", message_bytes=MESSAGE_BYTES)
        try:
            await one.append([Produced(HERE, b"", b"x")])
            assert await one.ends([HERE]) == {HERE: 1}
            proxy.stall()
            for _ in range(2):
                with pytest.raises(BrokerError):
                    await one.ends([HERE])
            proxy.resume()

            async def end() -> int | None:
                with suppress(BrokerError):
                    return (await one.ends([HERE]))[HERE]
                return None

            assert await until(end) == 1
        finally:
            await one.close()


# --- transactions and the group


async def test_a_transaction_writes_everywhere_and_moves_the_positions(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        assigned = await owning(one)
        await one.renew()
        records = [Produced(HERE, b"a", b"1"), Produced(HERE, b"b", b"2"), Produced(Place(INBOX, 1), b"", b"{}")]
        for number in range(4):  # both producers in turn
            first = await one.transact(records, {Place(EVENTS, 0): number}, assigned.token)
            assert first == {HERE: number * 3, Place(INBOX, 1): number * 2}
    assert committed(kafka.bootstrap, layout.name(STATE)) == [b"1", b"2"] * 4
    assert committed(kafka.bootstrap, layout.name(INBOX), 1) == [b"{}"] * 4


@pytest.mark.spec("FAULT-B3")
async def test_a_process_of_the_same_name_fences_the_one_before(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout) as one:
        assigned = await owning(one)
        await one.renew()
        async with client(kafka, layout) as other:
            await other.renew()
            for _ in range(2):  # each of its producers
                with pytest.raises(BrokerError):
                    await one.transact([Produced(HERE, b"", b"zombie")], {Place(EVENTS, 0): 1}, assigned.token)
    assert committed(kafka.bootstrap, layout.name(STATE)) == []


async def test_who_has_lost_the_partitions_cannot_commit(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout, "one") as one, client(kafka, layout, "two") as two:
        assigned = await owning(one)
        await one.renew()

        async def both() -> Assigned | None:
            await one.poll()
            return await two.poll()

        shared = await until(both)
        while not shared.partitions:
            shared = await until(both)
        with pytest.raises(Fenced):
            await one.transact([Produced(HERE, b"", b"late")], {Place(EVENTS, 0): 1}, assigned.token)
    assert committed(kafka.bootstrap, layout.name(STATE)) == []


async def test_partitions_of_events_and_inbox_go_together_and_come_back(kafka: Cluster, layout: Layout) -> None:
    async with client(kafka, layout, "one") as one:
        assert (await owning(one)).partitions == (0, 1)
        async with client(kafka, layout, "two") as two:
            found: dict[str, tuple[int, ...]] = {}

            async def shared() -> bool | None:
                for name, each in (("one", one), ("two", two)):
                    assigned = await each.poll()
                    if assigned is not None:
                        found[name] = assigned.partitions
                return True if sorted(sum(found.values(), ())) == [0, 1] and len(found) == 2 else None

            await until(shared)
            assert all(len(each) == 1 for each in found.values())
        assert (await owning(one)).partitions == (0, 1)  # the other has left, and was not waited for


@pytest.mark.spec("FAULT-B4")
async def test_what_a_dead_process_has_left_open_is_ended(kafka: Cluster, layout: Layout) -> None:
    hanging = transactional(kafka.bootstrap, f"{layout.prefix}.dead.1")
    hanging.begin_transaction()
    hanging.produce(layout.name(JOURNAL), b"half", partition=0)
    hanging.flush()
    async with client(kafka, layout) as one:
        assert await one.read(THERE, 0, wait_s=0.05) == ([], 0)
        await one.fence("dead")
        found, after = await until_some(one, THERE)
    assert (found, after) == ([], 2)
    with pytest.raises(KafkaException):
        hanging.commit_transaction()


async def until_some(reader: KafkaClient, place: Place, offset: int = 0) -> tuple[list[Fetched], int]:
    """Read until there is something, or the offset has moved."""

    async def ask() -> tuple[list[Fetched], int] | None:
        fetched, after = await reader.read(place, offset, wait_s=0.2)
        return (fetched, after) if after > offset else None

    return await until(ask)


def delete(kafka: Cluster, name: str) -> None:
    """Delete a topic, and wait until it is gone."""
    admin = admin_of(kafka)
    for deleted in admin.delete_topics([name]).values():
        deleted.result(SOON_S)
    deadline_s = time.monotonic() + SOON_S
    while name in admin.list_topics(timeout=SOON_S).topics:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def member_of(kafka: Cluster, layout: Layout, name: str = "node") -> Member:
    config = ClusterConfig(
        brokers=kafka.bootstrap,
        prefix=layout.prefix,
        partitions=layout.partitions,
        node=name,
        data="/tmp",
        client=CLIENT,
    )
    return Member(config, *ENGINE, deliver=lambda _: None, on_lost=lambda _: None)
