"""A Kafka source: the records of topics become events.

The client blocks, so it has a thread. The thread reads some records, hands the events to the node's loop, and commits
the offsets when they are durable: a record is read at least once, and its event's id makes that once. While the node
takes nothing the partitions are paused and the thread goes on polling, so that the group does not put it out.

A record that no event can be made of is parked (``parking.py``), and so is what follows of its key. Where a process
that is given a partition begins, and which keys are parked, is read again at each assignment.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import wait
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from steplog.config.client import as_settings
from steplog.config.connectors import KafkaConnector
from steplog.connectors.parking import Parking
from steplog.connectors.records import Poison, to_event
from steplog.connectors.running import Cluster, Surroundings
from steplog.dead.letters import TOO_LARGE, DeadLetters, Entry, Letter
from steplog.engine.operations import EventOut
from steplog.errors import LogUnavailable, SteplogError
from steplog.kafka_record import Record, read_record
from steplog.server.validation import Misfit

logger = logging.getLogger(__name__)

AtPlace = tuple[str, int]  # topic and partition
MOST_RECORDS = 500  # at once
MOST_BYTES = 4 << 20  # of events in one group
POLL_S = 0.2
TEND_S = 0.5  # between two looks at what was asked of parked letters
PATIENCE_S = 0.5  # how long a group may take before partitions are paused
ANSWER_S = 10.0
AGAIN_S, MOST_AGAIN_S = 0.1, 5.0  # after a failure; twice as long after the next
TOLD_AGAIN_S = 60.0  # of quiet: then an outage is another one
STOP_S = 10.0
REBALANCING = (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID)
OPTIONS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "allow.auto.create.topics": False,
    "auto.offset.reset": "error",  # what is gone is told, see ``_starts``
    "session.timeout.ms": 10_000,  # after which the partitions of a process that was killed are another's
    "topic.metadata.refresh.interval.ms": 5_000,  # how long a topic that is made may go unnoticed
    "queued.max.messages.kbytes": 16_384,
    "log_level": 2,  # what is to be known comes by ``error_cb``, and is told once
}


async def run(name: str, table: KafkaConnector, surroundings: Surroundings) -> None:
    """Read until cancelled."""
    source = KafkaSource(name, table, surroundings, asyncio.get_running_loop())
    ended: ThreadFuture[None] = ThreadFuture()
    threading.Thread(target=source.run, args=(ended,), name=f"steplog-connector-{name}", daemon=True).start()
    over = asyncio.wrap_future(ended)
    try:
        await asyncio.shield(over)
    finally:
        source.stop()
        await asyncio.wait({over}, timeout=STOP_S)


class Stopped(Exception):
    """The connector is to end."""


class KafkaSource:
    """What the thread does. Only ``stop`` is called by another one."""

    def __init__(
        self, name: str, table: KafkaConnector, surroundings: Surroundings, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._name, self._table, self._loop = name, table, loop
        self._client_id = "-".join(filter(None, ("steplog", surroundings.node, name)))
        self._accept = surroundings.entrance(f"connector/{name}")
        self._open_dead, self._event_bytes = surroundings.open_dead, surroundings.event_bytes
        self._options = connection(table, surroundings.cluster)
        self._group = group_of(name, table, surroundings.prefix)
        self._stopping = threading.Event()
        self._failed_s = self._missed_s = 0.0  # when that was last heard of
        self._consumer: Consumer
        self._admin: AdminClient
        self._dead: DeadLetters
        self._parking = Parking(name)
        self._owned: set[AtPlace] = set()
        self._epoch = 0  # rises with each assignment, and each loss of one
        self._incarnations: dict[str, str] = {}
        self._since: dict[str, str] = {}  # topic → how many partitions it had when it was read first, see ``_starts``
        self._held: list[Message] = []  # that came while nothing was to come
        self._is_paused = False
        self._tend_at_s, self._again_s = 0.0, AGAIN_S

    def stop(self) -> None:
        """Let the thread end; what it has in hand and is not accepted yet is read again by the next."""
        self._stopping.set()

    def run(self, ended: "ThreadFuture[None]") -> None:
        """Read, and begin anew after each failure."""
        while not self._stopping.is_set():
            try:
                self._read()
            except Stopped:
                break
            except (KafkaException, LogUnavailable) as error:
                self._tell_failure(_text(error))
            except Exception:
                logger.exception("a connector failed; it begins anew", extra=self._fields())
            self._stopping.wait(self._again_s)
            self._again_s = min(2 * self._again_s, MOST_AGAIN_S)
        ended.set_result(None)

    # --- reading

    def _read(self) -> None:
        self._dead = self._open_dead()
        self._consumer = Consumer({
            **OPTIONS, "client.id": self._client_id, **self._options, "group.id": self._group,
            "error_cb": self._hear_error,
        })  # fmt: skip
        self._admin = AdminClient({**self._options, "log_level": 2})
        self._held, self._is_paused = [], False
        try:
            self._consumer.subscribe(
                list(self._table.topics), on_assign=self._assigned, on_revoke=self._lost, on_lost=self._lost
            )
            while not self._stopping.is_set():
                messages, self._held = self._held, []
                if not messages:
                    first = self._consumer.poll(POLL_S)
                    messages = [] if first is None else [first, *self._consumer.consume(MOST_RECORDS - 1, 0)]
                self._take(messages)
                if time.monotonic() >= self._tend_at_s:
                    self._tend()
        finally:
            self._owned = set()
            self._consumer.close()
            self._dead.close()

    def _take(self, messages: Iterable[Message]) -> None:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(read_record(message))
            else:
                self._note(error, message)
        if records:
            if self._failed_s:
                self._failed_s = 0.0
                logger.info("a connector reads again", extra=self._fields())
            self._handle(records)
            self._again_s = AGAIN_S

    def _note(self, error: KafkaError, message: Message) -> None:
        """Something else than a record came."""
        if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(error)
        now_s = time.monotonic()
        if not self._missed_s or now_s - self._missed_s > TOLD_AGAIN_S:
            logger.warning(
                "a connector's topic does not exist; it is read as soon as it does",
                extra=self._fields(topic=message.topic()),
            )
        self._missed_s = now_s

    def _handle(self, records: Sequence[Record]) -> None:
        """Accept the events of some records, park what is none, and commit how far that is."""
        epoch, halt = self._epoch, None
        pending: list[tuple[Record, EventOut]] = []
        letters: list[Letter] = []
        for index, record in enumerate(records):
            try:
                event = self._event(record, letters)
            except Poison as poison:
                halt = self._refuse(record, str(poison), letters)
                if halt is not None:
                    records = records[:index]
                    break
            else:
                pending += [] if event is None else [(record, event)]
        while pending:
            group = _group(pending)
            misfit = self._hand_in([event for _, event in group])
            if misfit is None:
                pending = pending[len(group) :]
                continue
            record, _ = pending[misfit.index]
            stopped = self._refuse(record, misfit.problem, letters)
            if stopped is None:
                later = [each for each in pending[misfit.index + 1 :] if not self._parked_behind(each[0], letters)]
                pending = [*pending[: misfit.index], *later]
            else:
                halt, records, pending = stopped, records[: records.index(record)], pending[: misfit.index]
        if letters:
            self._dead.park(letters)
        self._commit(records, epoch)
        if halt is not None:
            logger.error(
                "a connector has stopped at a record that is no event (on_poison); the next start begins with it",
                extra=self._fields(topic=halt.topic, partition=halt.partition, offset=halt.offset, problem=halt.reason),
            )
            raise Stopped

    def _event(self, record: Record, letters: list[Letter]) -> EventOut | None:
        """Make a record into an event; None where it is parked, or is now. Raises ``Poison``."""
        if self._parking.has(self._letter(record, "").entry.id) or self._parked_behind(record, letters):
            return None
        return to_event(record, self._table, self._incarnations.get(record.topic, ""), self._event_bytes)

    def _refuse(self, record: Record, reason: str, letters: list[Letter]) -> Entry | None:
        """Park a record that is no event; returns it where the connector is to stop instead."""
        letter = self._letter(record, reason)
        if self._table.on_poison == "stop":
            return letter.entry
        self._park(letter, letters)
        return None

    def _parked_behind(self, record: Record, letters: list[Letter]) -> bool:
        """Park a record whose key is parked."""
        blocker = self._parking.blocker(record.topic, record.key)
        if blocker is None:
            return False
        letter = self._letter(record, f"waits behind {blocker}", behind=blocker)
        letters.append(letter)
        self._parking.add(letter.entry)
        return True

    def _park(self, letter: Letter, letters: list[Letter]) -> None:
        entry = letter.entry
        letters.append(letter)
        self._parking.add(entry)
        logger.warning(
            "a record is no event; it is parked, and what follows of its key waits: steplog dead show ID",
            extra=self._fields(
                id=entry.id, topic=entry.topic, partition=entry.partition, offset=entry.offset, problem=entry.reason
            ),
        )

    def _letter(self, record: Record, reason: str, *, behind: str | None = None) -> Letter:
        entry = Entry(
            topic=record.topic, partition=record.partition, offset=record.offset, reason=reason,
            parked_ms=time.time_ns() // 1_000_000, connector=self._name, key=record.key, behind=behind,
            incarnation=self._incarnations.get(record.topic, ""),
        )  # fmt: skip
        return Letter(entry=entry, value=record.value, headers=record.headers or (), timestamp_ms=record.timestamp_ms)

    def _commit(self, records: Iterable[Record], epoch: int) -> None:
        """Records have become events, or are parked. What is not ours any more is committed by those who have it."""
        if epoch != self._epoch:
            return
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        if ends:
            try:
                self._commit_offsets([(at, offset) for at, offset in ends.items() if at in self._owned])
            except KafkaException as error:  # they are read again
                if error.args[0].code() not in REBALANCING:
                    self._tell_failure(_text(error))

    def _commit_offsets(self, offsets: Iterable[tuple[AtPlace, int]]) -> None:
        given = [TopicPartition(*at, offset, metadata=self._since[at[0]]) for at, offset in offsets]
        if given:
            self._consumer.commit(offsets=given, asynchronous=False)

    # --- what is parked

    def _tend(self) -> None:
        """Replay what may be replayed now."""
        self._tend_at_s = time.monotonic() + TEND_S
        if self._dead.has_changed():
            self._parking = Parking(self._name, self._dead.entries())
        for entries in self._parking.due(self._owned):
            self._replay(entries)

    def _replay(self, entries: Sequence[Entry]) -> None:
        """Make letters of one key into events after all, in order, up to the first that still is none."""
        for entry in entries:
            letter = self._dead.find(entry.id)
            if letter is None:  # dropped meanwhile
                self._parking.remove(entry)
                continue
            record = Record(
                entry.topic, entry.partition, entry.offset, entry.key, letter.value, letter.headers,
                letter.timestamp_ms,
            )  # fmt: skip
            try:
                if letter.is_cut:
                    raise Poison(TOO_LARGE)
                event = to_event(record, self._table, entry.incarnation, self._event_bytes)
                misfit = self._hand_in([event])
                if misfit is not None:
                    raise Poison(misfit.problem)
            except Poison as poison:
                again: list[Letter] = []
                self._park(self._letter(record, str(poison)), again)
                self._dead.park(again)
                return
            self._dead.drop([entry.id])
            self._parking.remove(entry)
            logger.info("a parked record was replayed", extra=self._fields(id=entry.id))

    # --- the group

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._epoch += 1
        self._owned = {(each.topic, each.partition) for each in partitions}
        topics = sorted({each.topic for each in partitions})
        if topics:
            described = self._admin.describe_topics(TopicCollection(topics), request_timeout=ANSWER_S)
            self._incarnations.update((topic, str(found.result().topic_id)) for topic, found in described.items())
        starts = [start for topic in topics for start in self._starts(topic, partitions)]
        consumer.assign(starts)
        if self._is_paused and starts:
            consumer.pause(starts)
        self._parking = Parking(self._name, self._dead.entries())

    def _lost(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._epoch += 1
        self._owned = set()
        consumer.unassign()

    def _starts(self, topic: str, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Where to begin in the partitions of a topic; for those that are read for the first time it is committed.

        How many partitions the topic had when it was read first stands with each offset: those that were added later
        are read from their beginning, with ``start = "latest"`` too, or what came before they were noticed was lost.
        """
        consumer = self._consumer
        count = len(consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions)
        committed = consumer.committed([TopicPartition(topic, p) for p in range(count)], timeout=ANSWER_S)
        known = {each.partition: each for each in committed if each.offset >= 0}
        first = next((each.metadata for each in known.values() if (each.metadata or "").isdecimal()), None)
        self._since[topic] = since = first or str(count)
        starts, new = [], []
        for each in partitions:
            if each.topic != topic:
                continue
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, each.partition), timeout=ANSWER_S)
            if each.partition in known:
                offset = known[each.partition].offset
                if offset < low:
                    logger.error(
                        "records are gone that a connector has not read; it goes on with the first that is left",
                        extra=self._fields(topic=topic, partition=each.partition, offset=offset, first=low),
                    )
                starts.append(TopicPartition(topic, each.partition, max(offset, low)))
                continue
            is_late = self._table.start == "latest" and each.partition < int(since)
            new.append(((topic, each.partition), high if is_late else low))
            starts.append(TopicPartition(topic, each.partition, new[-1][1]))
        self._commit_offsets(new)
        return starts

    # --- waiting

    def _hand_in(self, events: Sequence[EventOut]) -> Misfit | None:
        """Have events accepted; where the node takes none now, again and again."""

        async def accept() -> Misfit | None:
            return await self._accept(events)

        again_s = AGAIN_S
        while True:
            done = asyncio.run_coroutine_threadsafe(accept(), self._loop)
            wait([done], PATIENCE_S)
            while not done.done():
                self._poll_paused(POLL_S)
                if self._stopping.is_set():
                    wait([done], STOP_S / 2)
                    if not done.cancel():
                        break
                    raise Stopped
            try:
                misfit = done.result()
            except SteplogError as error:
                if not error.retryable:
                    raise
                self._tell_failure(str(error))
                until_s = time.monotonic() + again_s
                while time.monotonic() < until_s:
                    self._poll_paused(min(POLL_S, again_s))
                    if self._stopping.is_set():
                        raise Stopped from error
                again_s = min(2 * again_s, MOST_AGAIN_S)
                continue
            self._resume()
            return misfit

    def _poll_paused(self, for_s: float) -> None:
        """Stay in the group, without anything to read."""
        if not self._is_paused:
            self._is_paused = True
            self._pause_or_resume(self._consumer.pause)
        message = self._consumer.poll(for_s)
        if message is not None:
            self._held.append(message)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._pause_or_resume(self._consumer.resume)

    def _pause_or_resume(self, do: Any) -> None:  # any: two methods of the client, which has no types
        assigned = self._consumer.assignment()
        if assigned:
            do(assigned)

    # --- telling

    def _hear_error(self, error: KafkaError) -> None:
        """The client is in trouble; it goes on trying by itself."""
        self._tell_failure(error.str())

    def _tell_failure(self, problem: str) -> None:
        """Once for each outage."""
        now_s = time.monotonic()
        if not self._failed_s or now_s - self._failed_s > TOLD_AGAIN_S:
            logger.warning("a connector cannot go on; it tries again", extra=self._fields(problem=problem))
        self._failed_s = now_s

    def _fields(self, **fields: object) -> dict[str, dict[str, object]]:
        return {"fields": {"connector": self._name, **fields}}


def connection(table: KafkaConnector, cluster: Cluster | None) -> dict[str, str]:
    """How brokers are reached: the table's own, else those of the log, as the log's clients do."""
    options = as_settings(table.options)
    if table.brokers:
        return {"bootstrap.servers": ",".join(table.brokers), **options}
    assert cluster is not None, "the configuration was checked"
    return {"bootstrap.servers": cluster.brokers, **cluster.settings, **options}


def group_of(name: str, table: KafkaConnector, prefix: str) -> str:
    """The consumer group of a connector."""
    return table.group or f"{prefix}.connector.{name}"


def _group(pending: Sequence[tuple[Record, EventOut]]) -> Sequence[tuple[Record, EventOut]]:
    """As many of the first as go into one group."""
    size_bytes = 0
    for index, (_, event) in enumerate(pending):
        size_bytes += len(event.data)
        if size_bytes > MOST_BYTES and index:
            return pending[:index]
    return pending


def _text(error: Exception) -> str:
    found = error.args[0] if error.args else error
    return found.str() if isinstance(found, KafkaError) else str(found)
