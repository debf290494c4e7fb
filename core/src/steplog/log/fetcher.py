"""Reads places of a Kafka cluster from given offsets on, in a thread of its own.

Every place has a *tape*: what was read and not taken yet, and how far reading has come, beyond what was aborted and the
marks of transactions. A tape that is full is paused, so memory is bounded however far behind its reader is.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from steplog.kafka_record import read_record
from steplog.log.broker import BrokerError, Fetched, Headers, OffsetOutOfRange, Place
from steplog.log.topics import NO_OFFSET, Layout

if TYPE_CHECKING:
    from confluent_kafka import Message, TopicPartition

POLL_S = 0.02  # what is asked of the thread waits so long
FETCH_MS = 50  # a request that waits holds up the places that are new
BATCH = 2_000
FIRST_ANSWER_S = 10.0
FULL_BYTES = 16 << 20  # of one place: reading pauses there


class _Tape:
    """What was read of one place."""

    __slots__ = ("after", "bytes", "error", "is_answered", "is_paused", "records", "taken")

    def __init__(self, offset: int) -> None:
        self.taken = offset  # everything before was taken
        self.after = offset  # and was read
        self.records: list[Fetched] = []
        self.bytes = 0
        self.is_answered = False  # the cluster has said something about it
        self.is_paused = False
        self.error: BrokerError | None = None


class Fetcher:
    """A consumer of committed records without a group. ``on_data`` is called on the loop that made it."""

    def __init__(self, settings: Mapping[str, Any], layout: Layout, on_data: Callable[[], None]) -> None:
        from confluent_kafka import Consumer

        self._loop = asyncio.get_running_loop()
        self._layout, self._on_data = layout, on_data
        self._consumer = Consumer(
            {
                **settings, "group.id": f"{layout.prefix}.reader", "enable.auto.commit": False,
                "auto.offset.reset": "error", "isolation.level": "read_committed", "enable.partition.eof": True,
                "fetch.message.max.bytes": 16 << 20, "queued.max.messages.kbytes": 64 << 10,
                "fetch.wait.max.ms": FETCH_MS, "fetch.error.backoff.ms": 50, "fetch.queue.backoff.ms": 20,
            }
        )  # fmt: skip
        self._tapes: dict[Place, _Tape] = {}
        self._places: dict[tuple[str, int], Place] = {}
        self._lock = threading.Lock()  # around the tapes
        self._asked: deque[Callable[[], None]] = deque()  # of the thread: only that one calls the client
        self._is_closed = False
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="steplog-kafka-fetch", daemon=True)
        self._thread.start()

    async def read(self, place: Place, offset: int, wait_s: float) -> tuple[list[Fetched], int]:
        """Take what was read from an offset on (``Broker.read``).

        Whoever waits does so until the cluster has said at least that there is nothing, however long a new connection
        takes: that nothing came is then known, and not only that it has not come yet.
        """
        began_s = self._loop.time()
        while True:
            self._changed.clear()
            found = self._take(place, offset)
            limit_s = wait_s if self._tapes[place].is_answered or not wait_s else FIRST_ANSWER_S
            rest_s = began_s + limit_s - self._loop.time()
            if found[0] or found[1] > offset or rest_s <= 0:
                return found
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), rest_s)

    def forget(self, place: Place) -> None:
        """Stop reading a place."""
        with self._lock:
            tape = self._tapes.pop(place, None)
        if tape is not None:
            gone = [self._partition(place)]
            self._asked.append(lambda: self._consumer.incremental_unassign(gone))

    def close(self) -> None:
        """End the thread and the connection; blocks for a moment."""
        self._is_closed = True
        self._thread.join()
        self._consumer.close()

    def _take(self, place: Place, offset: int) -> tuple[list[Fetched], int]:
        tape = self._tapes.get(place)
        if tape is not None and tape.error is not None:
            self.forget(place)
            raise tape.error
        if tape is None or tape.taken != offset:  # it is read for the first time, or again
            self.forget(place)
            self._begin(place, offset)
            return [], offset
        with self._lock:
            records, tape.records = tape.records, []
            tape.taken, was_paused = tape.after, tape.is_paused
            tape.bytes, tape.is_paused = 0, False
        if was_paused:
            resumed = [self._partition(place)]
            self._asked.append(lambda: self._consumer.resume(resumed))
        return records, tape.taken

    def _begin(self, place: Place, offset: int) -> None:
        with self._lock:
            self._tapes[place] = _Tape(offset)
            self._places[self._layout.name(place.topic), place.partition] = place
        begun = [self._partition(place, offset)]
        self._asked.append(lambda: self._consumer.incremental_assign(begun))

    def _partition(self, place: Place, offset: int = NO_OFFSET) -> "TopicPartition":
        from confluent_kafka import TopicPartition

        return TopicPartition(self._layout.name(place.topic), place.partition, offset)

    def _run(self) -> None:
        consumer = self._consumer
        while not self._is_closed:
            while self._asked:
                self._asked.popleft()()
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            self._put([message, *consumer.consume(BATCH, 0)])
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._changed.set()
        self._on_data()

    def _put(self, messages: "list[Message]") -> None:
        full: list[Place] = []
        with self._lock:
            for message in messages:
                place = self._places.get((message.topic() or "", message.partition() or 0))
                tape = None if place is None else self._tapes.get(place)
                if place is None or tape is None:
                    continue
                tape.is_answered = True
                error, offset = message.error(), message.offset() or 0
                if error is not None:
                    self._note(tape, place, error, offset)
                elif offset >= tape.after:
                    record = read_record(message)
                    headers: Headers = tuple([(name, value or b"") for name, value in record.headers or ()])
                    tape.records.append(Fetched(place, offset, record.key or b"", record.value, headers))
                    tape.after = offset + 1
                    tape.bytes += len(message)
                    if tape.bytes > FULL_BYTES and not tape.is_paused:
                        tape.is_paused = True
                        full.append(place)
        if full:
            self._consumer.pause([self._partition(place) for place in full])

    def _note(self, tape: _Tape, place: Place, error: Any, offset: int) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._PARTITION_EOF:
            tape.after = max(tape.after, offset)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            tape.error = OffsetOutOfRange(f"{self._layout.name(place.topic)} [{place.partition}]: {error.str()}")
        elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            tape.error = BrokerError(f"{self._layout.name(place.topic)} [{place.partition}]: {error.str()}")
