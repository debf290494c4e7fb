"""One process's connection to a Kafka cluster (``log/broker.py``), with confluent-kafka.

Its calls block, so each client object has a thread: the group and the transactions one, plain writes one, and each of
two readers one. Transactions alternate between two producers: the cluster still writes the marks of one while the next
has begun, and a single producer would have to wait for it. One transaction is open at a time.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from steplog.log.broker import (
    ANY_PARTITION,
    Assigned,
    BrokerError,
    Fenced,
    Fetched,
    Place,
    Produced,
    Refused,
    Replaced,
    Target,
)
from steplog.log.fetcher import Fetcher
from steplog.log.topics import EVENTS, INBOX, NO_OFFSET, Layout, offset_in, offsets

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

K = TypeVar("K")
T = TypeVar("T")
SESSION_MS = 6_000  # a process that is silent for so long has lost its partitions
TRANSACTION_MS = 10_000  # one that is open for so long is ended by the cluster
CALL_S = 10.0
ALTERNATING = 2  # producers
LEAVES_S = 1.0
SILENT_S = 2.0  # a cluster that has confirmed nothing for so long gets no more to write until it has
PROBE_S = 0.5


class KafkaClient:
    """The cluster, as one process sees it. Made on the loop that uses it; ``name`` is stable over restarts.

    ``settings`` are those of the client library: ``bootstrap.servers`` and what security needs.
    """

    def __init__(self, settings: Mapping[str, Any], layout: Layout, name: str, *, message_bytes: int) -> None:
        from confluent_kafka.admin import AdminClient

        self._loop = asyncio.get_running_loop()
        self._settings, self._layout, self._name = dict(settings), layout, name
        self._message_bytes = message_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="steplog-kafka")
        self._admin: AdminClient = AdminClient(self._settings)
        self._callback: Callable[[], None] = lambda: None
        self._inputs = Fetcher(self._settings, layout, self._tell)
        self._others = Fetcher(self._settings, layout, lambda: None)
        self._plain = _Plain(self._settings, layout, message_bytes)
        self._group: Consumer | None = None
        self._assigned: Assigned | None = None
        self.events = EventsReader(self)
        self._producers: list[Producer] = []
        self._turns = itertools.count()

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    async def poll(self) -> Assigned | None:
        return await self._call(self._poll)

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        return await self._reader(place).read(place, offset, wait_s)

    def is_at_end(self, place: Place, offset: int) -> bool:
        return self._reader(place).is_at_end(place, offset)

    def reopen(self) -> None:
        stopped, self._inputs = self._inputs, Fetcher(self._settings, self._layout, self._tell)
        threading.Thread(target=stopped.close, name="steplog-kafka-close", daemon=True).start()

    def forget(self, place: Place) -> None:
        self._reader(place).forget(place)

    def _reader(self, place: Place) -> Fetcher:
        return self._inputs if place.topic in (EVENTS, INBOX) else self._others

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        return await self._ask_offsets(places)

    async def _ask_offsets(self, places: Sequence[Place], at_ms: int | None = None) -> dict[Place, int]:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        asked = {self._partition(place): place for place in places}
        try:
            answers = offsets(self._admin, list(asked), at_ms)
            return {asked[each]: offset_in(found) for each, found in (await _all(answers)).items()}
        except (KafkaException, TimeoutError) as error:
            self._admin = AdminClient(self._settings)  # it would ask with the leader's old epoch for ever
            raise _ours(error) from error

    async def offset_at(self, place: Place, at_ms: int) -> int:
        """The offset of the first record of this time or a later one; the end where there is none."""
        (offset,) = (await self._ask_offsets([place], at_ms)).values()
        return offset if offset >= 0 else (await self.ends([place]))[place]

    def fetcher(self) -> Fetcher:
        """A further reader, for who closes it."""
        return Fetcher(self._settings, self._layout, lambda: None)

    async def transact(
        self, records: Sequence[Produced], positions: dict[Place, int], token: object
    ) -> dict[Place, int]:
        return await self._call(self._transact, records, positions, token)

    async def append(self, records: Sequence[Produced]) -> dict[Place, int]:
        return await self._plain.append(records)

    async def describe(self, topic: str) -> Target | None:
        from steplog.log.describing import describe_topic

        return await asyncio.to_thread(describe_topic, self._admin, topic)

    async def trim(self, until: dict[Place, int]) -> None:
        from confluent_kafka import KafkaException

        if not until:
            return
        asked = [self._partition(place, offset) for place, offset in until.items()]
        try:
            await _all(self._admin.delete_records(asked, request_timeout=CALL_S))
        except (KafkaException, TimeoutError) as error:
            raise _ours(error) from error

    async def renew(self) -> None:
        await self._call(self._renew)

    async def fence(self, name: str) -> None:
        await self._call(self._fence, name)

    async def close(self) -> None:
        """Leave the group, so that others take over at once, and end every thread."""
        await self._call(self._leave)
        await self._call(self._drop_producers)
        for close in (self._inputs.close, self._others.close, self._plain.close, self.events.close):
            await self._loop.run_in_executor(self._executor, close)
        self._executor.shutdown(wait=False)

    # --- in the thread of the group and the transactions

    async def _call(self, function: "Callable[..., T]", *arguments: object) -> T:
        from confluent_kafka import KafkaException

        try:
            return await self._loop.run_in_executor(self._executor, function, *arguments)
        except KafkaException as error:
            raise _ours(error) from error

    def _poll(self) -> Assigned | None:
        from confluent_kafka import KafkaError

        if self._group is None:
            self._group = self._join()
        message = self._group.poll(0)
        error = None if message is None else message.error()
        if error is not None and error.code() == KafkaError._FATAL:  # to a consumer there is one: its name was taken
            self._group.close()
            self._group = self._assigned = None
            raise Replaced(self._name)
        assigned, self._assigned = self._assigned, None
        return assigned

    def _join(self) -> "Consumer":
        from confluent_kafka import Consumer

        group = Consumer(
            {
                **self._settings, "group.id": f"{self._layout.prefix}.engine", "group.instance.id": self._name,
                "partition.assignment.strategy": "range", "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": SESSION_MS // 4, "max.poll.interval.ms": 300_000,
                "enable.auto.commit": False, "auto.offset.reset": "error",
            }
        )  # fmt: skip
        topics = [self._layout.name(topic) for topic in (EVENTS, INBOX)]
        group.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)
        return group

    def _assign(self, group: "Consumer", partitions: "list[TopicPartition]") -> None:
        from confluent_kafka import TopicPartition

        # The group says who owns what; others read, from the positions that the state has. So nothing is fetched here.
        kept = [TopicPartition(each.topic, each.partition, 0) for each in partitions]
        group.assign(kept)
        group.pause(kept)
        owned = tuple(sorted({each.partition for each in partitions}))
        self._assigned = Assigned(owned, group.consumer_group_metadata())
        self._loop.call_soon_threadsafe(self._tell)

    def _revoke(self, group: "Consumer", _: "list[TopicPartition]") -> None:
        group.unassign()
        self._assigned = Assigned((), None)
        self._loop.call_soon_threadsafe(self._tell)

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.unsubscribe()  # a member of a stable name would keep its partitions until its session is over
            group.poll(LEAVES_S)
            group.close()

    def _transact(self, records: Sequence[Produced], positions: dict[Place, int], token: object) -> dict[Place, int]:
        from confluent_kafka import KafkaException

        if not self._producers:
            raise BrokerError("the producer has failed, and a new one was not made yet")
        producer = self._producers[next(self._turns) % ALTERNATING]
        first: dict[Place, int] = {}
        refused: list[Refused] = []
        producer.begin_transaction()  # after an error it is not used again: ``renew`` makes another
        produce, name, seen = producer.produce, self._layout.name, set[Place]()
        for record in records:
            place = record.place
            options: dict[str, Any] = {}
            if record.is_foreign:
                options["on_delivery"] = _refusal(refused)
            elif place not in seen:
                seen.add(place)
                options["on_delivery"] = _first_offset(first, place)
            if place.partition != ANY_PARTITION:
                options["partition"] = place.partition
            if record.headers:
                options["headers"] = list(record.headers)
            try:
                produce(place.topic if record.is_foreign else name(place.topic), record.value, record.key, **options)
            except KafkaException as error:
                if record.is_foreign:
                    raise Refused(place.topic, error.args[0].str()) from error
                raise
        if producer.flush(CALL_S):
            raise BrokerError(f"records are not durable after {CALL_S:.0f} s")
        if refused:
            raise refused[0]
        # Only now: an owner that comes after has its assignment later than this, and finds these records.
        offsets = [self._partition(place, offset) for place, offset in positions.items()]
        producer.send_offsets_to_transaction(offsets, token, CALL_S)
        producer.commit_transaction(CALL_S)
        return first

    def _renew(self) -> None:
        self._drop_producers()
        self._producers = [self._producer(f"{self._name}.{n}") for n in range(ALTERNATING)]

    def _fence(self, name: str) -> None:
        for number in range(ALTERNATING):
            _drop(self._producer(f"{name}.{number}"))

    def _producer(self, transactional_id: str) -> "Producer":
        from confluent_kafka import Producer

        producer = Producer(
            {
                **self._settings, "transactional.id": f"{self._layout.prefix}.{transactional_id}",
                "transaction.timeout.ms": TRANSACTION_MS, "linger.ms": 0, "retry.backoff.ms": 2,
                "retry.backoff.max.ms": 50, "message.max.bytes": self._message_bytes,
                "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 512 << 10,
            }
        )  # fmt: skip
        producer.init_transactions(CALL_S)
        return producer

    def _drop_producers(self) -> None:
        producers, self._producers = self._producers, []
        for producer in producers:
            _drop(producer)

    def _partition(self, place: Place, offset: int = NO_OFFSET) -> "TopicPartition":
        from confluent_kafka import TopicPartition

        return TopicPartition(self._layout.name(place.topic), place.partition, offset)

    def _tell(self) -> None:
        self._callback()


class EventsReader:
    """Reads the events of any partition (``log/lookback.py``): outside the group, and beside what the log reads."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._fetcher: Fetcher | None = None  # with the first wait that looks back

    async def read(self, place: Place, offset: int, *, wait_s: float = 0) -> tuple[list[Fetched], int]:
        if self._fetcher is None:
            self._fetcher = self._client.fetcher()
        return await self._fetcher.read(place, offset, wait_s)

    def forget(self, place: Place) -> None:
        if self._fetcher is not None:
            self._fetcher.forget(place)

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        return await self._client.ends(places)

    async def offset_at(self, place: Place, at_ms: int) -> int:
        return await self._client.offset_at(place, at_ms)

    def close(self) -> None:
        """End its thread; blocks for a moment."""
        if self._fetcher is not None:
            self._fetcher.close()


class _Plain:
    """Writes outside transactions, for many callers at once; its thread hears when they are durable.

    While the cluster is silent, callers are refused at once: nobody waits for what will not come, nothing piles up.
    """

    def __init__(self, settings: Mapping[str, Any], layout: Layout, message_bytes: int) -> None:
        from confluent_kafka import Producer

        self._loop, self._layout = asyncio.get_running_loop(), layout
        self._producer = Producer(
            {
                **settings, "enable.idempotence": True, "acks": "all", "linger.ms": 0.5,
                "delivery.timeout.ms": CALL_S * 1000, "message.max.bytes": message_bytes,
                "queue.buffering.max.messages": 200_000, "queue.buffering.max.kbytes": 128 << 10,
            }
        )  # fmt: skip
        self._heard_s = 0.0  # when a write was last confirmed, or begun with none before it
        self._has_failed = False  # and the cluster has not answered since
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="steplog-kafka-append", daemon=True)
        self._thread.start()

    async def append(self, records: Sequence[Produced]) -> dict[Place, int]:
        """Write records; returns when all of them are durable (``Broker.append``)."""
        from confluent_kafka import KafkaException

        if not records:
            return {}
        if self._is_silent():
            raise BrokerError("the cluster does not answer")
        group = _Group(self._loop, len(records), self._hear)
        try:
            for record in records:
                self._producer.produce(
                    self._layout.name(record.place.topic), record.value, record.key, record.place.partition,
                    on_delivery=group.delivered(record.place), headers=list(record.headers),
                )  # fmt: skip
        except BufferError as error:
            raise BrokerError("too much waits to be written") from error
        except KafkaException as error:
            raise _ours(error) from error
        return await group.done

    def close(self) -> None:
        self._producer.flush(CALL_S)
        self._is_closed = True
        self._thread.join()

    def _is_silent(self) -> bool:
        if self._has_failed:
            return True
        now_s = time.monotonic()
        if not len(self._producer):
            self._heard_s = now_s
        return now_s - self._heard_s > SILENT_S

    def _hear(self, error: "KafkaError | None") -> None:
        from confluent_kafka import KafkaError

        if error is None:
            self._heard_s = time.monotonic()
        elif error.code() == KafkaError._MSG_TIMED_OUT:
            self._has_failed = True

    def _run(self) -> None:
        while not self._is_closed:
            self._producer.poll(0.1)
            if self._has_failed:
                self._probe()

    def _probe(self) -> None:
        from confluent_kafka import KafkaException

        with suppress(KafkaException):
            self._producer.list_topics(timeout=PROBE_S)
            self._has_failed = False


class _Group:
    """Records that are answered together."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, count: int, hear: "Callable[[KafkaError | None], None]"
    ) -> None:  # fmt: skip
        self._loop, self._waiting, self._hear = loop, count, hear
        self._ends: dict[Place, int] = {}
        self._error: BrokerError | None = None
        self.done: asyncio.Future[dict[Place, int]] = loop.create_future()

    def delivered(self, place: Place) -> "Callable[[KafkaError | None, Any], None]":
        """What the producer's thread is to call about a record."""

        def note(error: "KafkaError | None", message: Any) -> None:
            self._hear(error)
            if error is not None:
                self._error = BrokerError(error.str())
            else:
                self._ends[place] = max(self._ends.get(place, 0), message.offset() + 1)
            self._waiting -= 1
            if not self._waiting:
                self._loop.call_soon_threadsafe(self._finish)

        return note

    def _finish(self) -> None:
        if self.done.done():
            return
        if self._error is not None:
            self.done.set_exception(self._error)
        else:
            self.done.set_result(self._ends)


async def _all(answers: "Mapping[K, Future[T]]") -> dict[K, T]:
    """Wait for what was asked of brokers, not for ever: of one that has died there may be no answer and no error.

    What was asked together comes together: the loop is woken once.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    seen: list[object] = []

    def note(answer: object) -> None:
        seen.append(answer)
        if len(seen) == len(answers) and not loop.is_closed():
            loop.call_soon_threadsafe(finish)

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    for answer in answers.values():
        answer.add_done_callback(note)
    if answers:
        async with asyncio.timeout(CALL_S):
            await done
    return {asked: answer.result() for asked, answer in answers.items()}


def _first_offset(first: dict[Place, int], place: Place) -> "Callable[[KafkaError | None, Any], None]":
    def note(error: "KafkaError | None", message: Any) -> None:
        if error is None:
            first[place] = message.offset()

    return note


def _refusal(refused: list[Refused]) -> "Callable[[KafkaError | None, Any], None]":
    from confluent_kafka import KafkaError

    gone = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FENCED, KafkaError._MSG_TIMED_OUT)

    def note(error: "KafkaError | None", message: Any) -> None:
        if error is not None and error.code() not in gone:  # else the transaction has failed for another reason
            refused.append(Refused(message.topic(), error.str()))

    return note


def _drop(producer: "Producer") -> None:
    """Give a producer up, with what it has not sent."""
    producer.purge()


def _ours(error: Exception) -> BrokerError:
    from confluent_kafka import KafkaError

    if isinstance(error, TimeoutError):
        return BrokerError(f"no answer after {CALL_S:.0f} s")
    cause = error.args[0]
    fenced = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH,
              KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID)  # fmt: skip
    return (Fenced if cause.code() in fenced else BrokerError)(cause.str())
