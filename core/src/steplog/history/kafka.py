"""The journal and the events of a log on Kafka, read by a consumer: each partition in order, committed records alone.

Where to go on is said by the history, never by the group, whose offsets are for tools that show the lag. Invariant: a
portion holds every committed record between its start and its position, or says which are gone.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from steplog.engine.records import Record, StoredEvent
from steplog.errors import LogUnavailable
from steplog.history import journal
from steplog.history.journal import TurnRecords, Unreadable, unreadable_record
from steplog.history.position import Position
from steplog.history.source import Portion
from steplog.paths import KafkaAddress

TOPICS: tuple[journal.Source, ...] = ("journal", "events")
ASKING_S = 10.0  # for what the cluster knows
RECORDS, RECORDS_AT_FIRST = 8192, 512  # read at once
BATCH_BYTES = 4 << 20  # aimed at; decoded it takes several times as much
HELD_MS = 50  # a request for records that are not there yet, by the broker: the end of a partition is seen this late
PREFETCHED_KBYTES = 16 << 10
SESSION_MS = 6_000  # as that of the engine's group: a projector that has died is missed so late
UNREACHABLE = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION)  # what is told once, by no message

logger = logging.getLogger(__name__)
T = TypeVar("T")

_decode_record = msgspec.json.Decoder[Record](Record).decode
_decode_records = msgspec.json.Decoder(list[Record]).decode
_decode_stored = msgspec.json.Decoder(StoredEvent).decode
_decode_all_stored = msgspec.json.Decoder(list[StoredEvent]).decode


def decode_event(value: bytes) -> StoredEvent:
    """Read a record of ``events``. Raises ``ValueError``."""
    return _decode_stored(value)


def decode_events(values: Sequence[bytes]) -> list[StoredEvent]:
    """Read many records of ``events`` at once. Raises ``ValueError``."""
    return _decode_all_stored(_joined(values))


class KafkaSource:
    """The log's partitions: all of them; with ``is_shared`` those that the group of projectors leaves to this one.

    ``member`` is a name in the group that stays over restarts: whoever starts with it again has its partitions at once,
    also after a crash. Without one they wait until the group misses the old process.
    """

    def __init__(self, address: KafkaAddress, *, is_shared: bool = False, member: str = "") -> None:
        self._address, self._is_shared, self._member = address, is_shared, member
        self._topics = {address.topic(name): name for name in TOPICS}
        self._count = RECORDS_AT_FIRST
        self._after = Position()  # as it was asked for last
        self._at: dict[str, int] = {}  # where the next record of each place comes from
        self._assigned: list[tuple[str, int]] = []
        self._is_new, self._is_lost = False, True
        self._failure = ""
        self.log_id, self._places = self._describe()
        self._consumer = Consumer(self._settings())
        if is_shared:
            self._consumer.subscribe(list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke)
        else:
            self._assigned = self._places

    def read(self, after: Position) -> Portion | None:
        """Read what has come. Where that is partitions, the portion is empty: the history says how far they are."""
        self._show_lag(after)
        self._after = after
        is_elsewhere = any(after.number(place) != number for place, number in self._at.items())
        if self._assigned and (self._is_lost or is_elsewhere):
            self._begin()
        messages = self._call(lambda: self._consumer.consume(self._count, 0))
        if self._is_new:
            self._is_new, self._is_lost = False, True  # what came with the partitions is read again
            here = Position.of({place: after.number(place) for place in self._at})
            return Portion(start=here, position=here, turns=[], is_full=True)
        if not messages:
            self._raise_failure()
            return None
        return self._portion(messages)

    def end(self) -> Position:
        ends = {}
        for topic, partition in self._places:
            place = TopicPartition(topic, partition)
            _, ends[self._place(topic, partition)] = self._call(
                lambda place=place: self._consumer.get_watermark_offsets(place, timeout=ASKING_S)  # type: ignore[misc]  # a loop's variable
            )
        return Position.of(ends)

    def has_come_to(self, position: Position) -> bool:
        """Always: another topic has another id, and a partition that was cut back is told of when it is read."""
        return True

    def close(self) -> None:
        self._consumer.close()

    # --- the group

    def _on_assign(self, _: Consumer, partitions: Iterable[TopicPartition]) -> None:
        self._assigned = [(each.topic, each.partition) for each in partitions]
        self._is_new = True
        self._begin()

    def _on_revoke(self, consumer: Consumer, _: Iterable[TopicPartition]) -> None:
        self._assigned, self._at = [], {}
        consumer.unassign()

    def _begin(self) -> None:
        """Go on reading where the history is."""
        self._at = {self._place(*each): self._after.number(self._place(*each)) for each in self._assigned}
        places = [
            TopicPartition(topic, partition, self._at[self._place(topic, partition)] or OFFSET_BEGINNING)
            for topic, partition in self._assigned
        ]
        self._call(lambda: self._consumer.assign(places))
        self._is_lost = False

    def _show_lag(self, after: Position) -> None:
        """Tell the group what is in the history, for tools that show its lag."""
        if not self._is_shared:
            return
        moved = [
            TopicPartition(topic, partition, after.number(self._place(topic, partition)))
            for topic, partition in self._assigned
            if after.number(self._place(topic, partition)) > self._after.number(self._place(topic, partition))
        ]
        if moved:
            self._call(lambda: self._consumer.commit(offsets=moved, asynchronous=True))

    # --- records

    def _portion(self, messages: Sequence[Message]) -> Portion | None:
        found: dict[tuple[str, int], tuple[list[int], list[bytes]]] = {}
        reached: dict[str, int] = {}
        turns: list[TurnRecords] = []
        for message in messages:
            topic, partition, offset = self._where(message)
            place, error = self._place(topic, partition), message.error()
            if place not in self._at:  # it was taken away meanwhile
                continue
            if error is None:
                offsets, values = found.setdefault((topic, partition), ([], []))
                offsets.append(offset)
                values.append(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                reached[place] = offset
            elif (gap := self._gap(topic, partition, error)) is not None:
                turns.append(gap)
                reached[place] = gap.position
        for (topic, partition), (offsets, values) in found.items():
            place = self._place(topic, partition)
            reached[place] = max(reached.get(place, 0), offsets[-1] + 1)
            turns.append(_turn(self._topics[topic], partition, offsets, values))
        is_full = len(messages) >= self._count
        size = sum([len(value) for _, values in found.values() for value in values])
        self._count = max(1, min(BATCH_BYTES * self._count // max(size, 1), 2 * self._count, RECORDS))
        start = {place: self._at[place] for place in reached}
        if start == reached:
            return None
        self._at.update(reached)
        return Portion(start=Position.of(start), position=Position.of(reached), turns=turns, is_full=is_full)

    def _where(self, message: Message) -> tuple[str, int, int]:
        topic, partition, offset, error = message.topic(), message.partition(), message.offset(), message.error()
        if topic is None or partition is None or offset is None:
            assert error is not None, "a record is somewhere"
            self._is_lost = True
            raise LogUnavailable(f"{self._address.servers}: {error.str()}")
        return topic, partition, offset

    def _gap(self, topic: str, partition: int, error: KafkaError) -> TurnRecords | None:
        """Go on after records that are gone, and say which; any other error is raised.

        None: nothing is gone, the client complains of where it was to begin before.
        """
        self._is_lost = True
        if error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogUnavailable(f"{topic}, partition {partition}: {error.str()}")
        first, end = self._call(
            lambda: self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ASKING_S)
        )
        at = self._at[self._place(topic, partition)]
        if first <= at <= end:
            return None
        if at < first:
            reason = f"records {at} to {first - 1} were deleted, by the topic's retention, before they were projected"
            onward = first
        else:
            reason = f"the partition ends at {end}, and was projected up to {at}: the cluster has lost records"
            onward = end
        logger.warning("%s, partition %d: %s", topic, partition, reason)
        gone = Unreadable(position=at, partition=partition, source=self._topics[topic], reason=reason)
        return TurnRecords(position=onward, partition=partition, unreadable=[gone])

    # --- the cluster

    def _describe(self) -> tuple[str, list[tuple[str, int]]]:
        """Ask which topics these are: their ids, and partitions."""
        admin = AdminClient(self._shared_settings())
        found = admin.describe_topics(TopicCollection(list(self._topics)), request_timeout=ASKING_S)
        ids, places = [], []
        for topic in self._topics:
            described = self._call(found[topic].result)
            ids.append(str(described.topic_id))
            places += [(topic, each.id) for each in described.partitions]
        return "/".join(ids), places

    def _settings(self) -> dict[str, Any]:
        name = "history" if self._is_shared else "history.reader"
        return {
            **self._shared_settings(),
            "group.id": self._address.topic(name),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": HELD_MS,
            "queued.max.messages.kbytes": PREFETCHED_KBYTES,
            "partition.assignment.strategy": "range",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": SESSION_MS // 3,
            **({"group.instance.id": self._address.topic(self._member)} if self._is_shared and self._member else {}),
            "error_cb": self._on_error,
        }

    def _shared_settings(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._address.servers, "client.id": self._address.topic("history"), "log_level": 0,
            **dict(self._address.settings),
        }  # fmt: skip

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in UNREACHABLE or error.fatal():
            self._failure = error.str()

    def _raise_failure(self) -> None:
        if self._failure:
            reason, self._failure = self._failure, ""
            raise LogUnavailable(f"{self._address.servers}: {reason}")

    def _call(self, call: Callable[[], Any]) -> Any:
        """Call the client. Its errors become ours."""
        try:
            return call()
        except KafkaException as error:
            self._is_lost = True
            raise LogUnavailable(f"{self._address.servers}: {error.args[0].str()}") from error

    def _place(self, topic: str, partition: int) -> str:
        return f"{self._topics[topic]}/{partition}"


def _turn(source: journal.Source, partition: int, offsets: list[int], values: list[bytes]) -> TurnRecords:
    """Decode some records of a partition."""
    turn = TurnRecords(position=offsets[0], partition=partition, offsets=offsets)
    if source == "journal":
        turn.records = _decoded(turn, source, values, lambda all_: _decode_records(_joined(all_)), _decode_record)
    else:
        turn.events = _decoded(turn, source, values, decode_events, decode_event)
    return turn


def _decoded(
    turn: TurnRecords, source: journal.Source, values: list[bytes], decode_all: Callable[[Sequence[bytes]], list[T]],
    decode: Callable[[bytes], T],
) -> list[T]:  # fmt: skip
    """Decode values at once, or what can be read of them one by one."""
    try:
        found = decode_all(values)
        if len(found) == len(values):
            return found
    except ValueError:
        pass
    offsets, found = [], []
    for offset, value in zip(turn.offsets, values, strict=True):
        try:
            found.append(decode(value))
            offsets.append(offset)
        except ValueError as error:
            turn.unreadable.append(
                unreadable_record(value, position=offset, partition=turn.partition, source=source, reason=str(error))
            )
    turn.offsets = offsets
    return found


def _joined(values: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"
