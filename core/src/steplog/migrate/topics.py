"""A log on Kafka, at either end of a migration.

A source is closed before it is read: no engine is in its group, who was has been fenced, and its topic of events takes
no record. A target is written in transactions of one producer, so that a migration that was given up cannot go on.
"""

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Producer

from steplog.engine import keys
from steplog.engine.ids import hash16
from steplog.engine.messages import EventAccepted, Message, encode_message
from steplog.engine.records import Place
from steplog.engine.state import Table
from steplog.engine.waits import Path as EventPath
from steplog.engine.waits import path_hash
from steplog.errors import LogUnavailable
from steplog.kafka_record import Headers
from steplog.log.broker import Fetched
from steplog.log.broker import Place as At
from steplog.log.client import ALTERNATING
from steplog.log.encoding import decode_owner, journal, produced, understood
from steplog.log.moves import Move
from steplog.log.redo import Replay, decode_redo, redo_key, redo_place
from steplog.log.table import SqliteTable, open_table, write_table
from steplog.log.topics import (
    EVENTS,
    INBOX,
    JOURNAL,
    MOST_REPLICAS,
    REDO,
    REGISTRY,
    SETTINGS,
    STATE,
    Layout,
    make,
    prepare,
    shared,
)
from steplog.migrate.cluster import CALL_S, CLOSED_BYTES, Cluster, ours
from steplog.migrate.ends import Kept, Name, Totals
from steplog.paths import KafkaAddress

WRITTEN = 5_000  # rows, or records, in one transaction
WRITTEN_BYTES = 16 << 20
COMMIT_S = 60.0
_decode_head = msgspec.msgpack.Decoder(tuple[int, int]).decode
_decode_registered = msgspec.json.Decoder(tuple[int, str, EventPath]).decode
_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode


class _Received(msgspec.Struct):
    received_at: int = 0


class _Recorded(msgspec.Struct):
    at: int = 0


_decode_received = msgspec.json.Decoder(_Received).decode
_decode_recorded = msgspec.json.Decoder(_Recorded).decode


class KafkaSource:
    """A log on Kafka that is moved away. Raises ``LogUnavailable`` where there is none."""

    def __init__(self, address: KafkaAddress) -> None:
        self._cluster = Cluster(address)
        if not self._cluster.partitions:
            raise LogUnavailable(f"there is no log {address.prefix} on {address.servers}; there is nothing to move")
        self._stack = ExitStack()
        self._producer: Producer | None = None
        self._tables: list[SqliteTable] = []
        self._registry: dict[bytes, bytes] = {}
        self._positions: dict[tuple[str, int], int] = {}

    @property
    def move(self) -> Move | None:
        return self._cluster.move()

    def freeze(self, move: Move) -> None:
        cluster, is_new = self._cluster, not move.events_bytes
        if is_new:
            cluster.wait_until_empty()  # else those who are in it would end when they meet the mark
            move = msgspec.structs.replace(move, events_bytes=cluster.events_bytes)
        self.mark(move)
        try:
            cluster.wait_until_empty()  # whoever joins now has seen the mark
        except BaseException:
            if is_new:
                self.thaw()
            raise
        owners = {decode_owner(v).node for k, v in cluster.registry().items() if k.startswith(b"owner/")}
        cluster.fence(sorted(owners), ALTERNATING)
        cluster.close_events()

    def mark(self, move: Move) -> None:
        if self._producer is None:
            self._producer = self._cluster.producer()
        before = self._cluster.move()
        if before is not None and not move.events_bytes:
            move = msgspec.structs.replace(move, events_bytes=before.events_bytes)
        self._cluster.mark(self._producer, move)

    def thaw(self) -> None:
        move = self._cluster.move()
        if self._producer is None:
            self._producer = self._cluster.producer()
        if move is not None and move.events_bytes and self._cluster.events_bytes == str(CLOSED_BYTES):
            self._cluster.open_events(move.events_bytes)
        self._cluster.mark(self._producer, None)

    def load(self) -> Sequence[Table]:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="steplog-migrate-")))
        cluster = self._cluster
        self._registry = cluster.registry()
        for partition in range(cluster.partitions):
            connection, table = open_table(directory / f"{partition}.db")
            self._stack.callback(connection.close)
            for batch in _batches(cluster.records(STATE, partition)):
                last = {record.key: record.value for record in batch}
                connection.execute("BEGIN")
                write_table(connection, sorted(last.items()))
                connection.execute("COMMIT")
            replay = replayed(cluster, partition)
            head = {} if replay.head is None else {keys.HEAD: _encode(replay.head)}
            write_table(connection, sorted({**replay.changes(), **head}.items()))
            for topic in (EVENTS, INBOX):
                value = table.get(keys.position(topic))
                self._positions[topic, partition] = 0 if value is None else int.from_bytes(value, "big")
            self._tables.append(table)
        return self._tables

    @property
    def totals(self) -> Totals:
        heads = [_decode_head(head) for table in self._tables if (head := table.get(keys.HEAD)) is not None]
        is_drained = all(table.get(keys.DRAINED) is not None for table in self._tables if table.get(keys.HEAD))
        return Totals(
            max([turn for turn, _ in heads], default=0), max([now_ms for _, now_ms in heads], default=0), is_drained
        )  # fmt: skip

    @property
    def paths(self) -> Mapping[Name, Sequence[EventPath]]:
        found: dict[Name, list[EventPath]] = {}
        for key, value in self._registry.items():
            if key[0] == keys.PATH:
                env, name, path = _decode_registered(value)
                found.setdefault((env, name), []).append(path)
        return found

    def routed(self) -> Iterator[Kept]:
        parts = [
            self._cluster.records(EVENTS, p, 0, self._positions[EVENTS, p]) for p in range(self._cluster.partitions)
        ]
        return (_kept(record) for record in _merged(parts, _received_ms) if record.value is not None)

    def unrouted(self) -> Iterator[Kept]:
        parts = [self._cluster.records(EVENTS, p, self._positions[EVENTS, p]) for p in range(self._cluster.partitions)]
        return (_kept(record) for record in _merged(parts, _received_ms) if record.value is not None)

    def journal(self) -> Iterator[bytes]:
        parts = [self._cluster.records(JOURNAL, p) for p in range(self._cluster.layout.count(JOURNAL))]
        return (record.value for record in _merged(parts, _recorded_ms) if record.value is not None)

    def inbox(self) -> Iterator[Message]:
        for partition in range(self._cluster.partitions):
            for record in self._cluster.records(INBOX, partition, self._positions[INBOX, partition]):
                message = understood(record, None)
                if message is not None:
                    yield message

    def body(self, place: Place) -> bytes:
        raise AssertionError(f"the state of a log on Kafka has its mail with it, also {place}")

    def close(self) -> None:
        self._stack.close()


class KafkaTarget:
    """A log on Kafka that is made, of ``partitions``."""

    def __init__(self, address: KafkaAddress, partitions: int, replication: int | None = None) -> None:
        self._cluster = Cluster(address)
        self.partitions, self._replication = partitions, replication
        self._producer: Producer | None = None
        self._written = self._written_bytes = 0
        self._failed: list[Any] = []
        self._ends: dict[int, int] = {}  # of the events that are routed

    @property
    def move(self) -> Move | None:
        return self._cluster.move()

    @property
    def exists(self) -> bool:
        topics = set(self._cluster.topics)
        return bool(topics - {REGISTRY}) or bool(topics and self._cluster.registry())  # else it was only begun

    def create(self, move: Move) -> None:
        cluster = self._cluster
        layout = Layout(cluster.address.prefix, self.partitions)
        with ours(cluster.address):
            brokers = len(cluster.admin.list_topics(timeout=CALL_S).brokers)
            replication = self._replication or min(MOST_REPLICAS, brokers)
            make(cluster.admin, layout, [REGISTRY], replication)  # first, and marked: nobody takes it for a whole log
            cluster.mark(self._open(), move)
            make(cluster.admin, layout, [topic for topic in SETTINGS if topic != REGISTRY], replication)
            prepare(cluster.admin, layout, self._replication)
        cluster.look()

    def remove(self) -> None:
        self._open()  # whoever writes on is fenced
        self._cluster.delete()

    def routed(self, kept: Kept, slot: int, received_ms: int, note: Callable[[Place], None] | None) -> None:
        self._write(EVENTS, slot % self.partitions, kept.key, kept.body, kept.headers, received_ms, note)

    def unrouted(self, kept: Kept, event: EventAccepted, note: Callable[[Place], None] | None) -> None:
        self._settle()
        partition, record = event.slot % self.partitions, produced(0, event)
        self._write(EVENTS, partition, record.key, kept.body, record.headers, event.received_ms, note)

    def trigger(self, place: Place | None) -> tuple[Place, Place]:
        if place is None:
            return (-1, 0), (-1, -1)
        return (place[1], 0), place

    def journal(self, record: bytes, slot: int, at_ms: int) -> None:
        partition = slot % shared(self.partitions)
        written = journal(At(JOURNAL, partition), record)
        self._write(JOURNAL, partition, written.key, record, (), at_ms)

    def message(self, message: Message, slot: int) -> None:
        self._write(INBOX, slot % self.partitions, b"", encode_message(message))

    def put(self, key: bytes, value: bytes, slot: int | None) -> None:
        for partition in range(self.partitions) if slot is None else (slot % self.partitions,):
            self._write(STATE, partition, key, value)

    def path(self, env: int, name: str, path: EventPath) -> None:
        key = keys.path(env, hash16(name.encode("utf8", "surrogatepass")), path_hash(path))
        self._write(REGISTRY, 0, key, _encode_json((env, name, path)))

    def flush(self) -> None:
        if not self._written or self._producer is None:
            return
        with ours(self._cluster.address):
            self._producer.flush(COMMIT_S)
            if self._failed:
                raise LogUnavailable(f"{self._cluster.address.servers}: {self._failed[0].str()}")
            self._producer.commit_transaction(COMMIT_S)
        self._written = self._written_bytes = 0

    def finish(self, totals: Totals) -> None:
        self._settle()
        for partition in range(self.partitions):
            self._write(STATE, partition, keys.HEAD, _encode((totals.turn + 1, totals.now_ms)))
            self._write(STATE, partition, keys.position(EVENTS), keys.number(self._ends[partition]))
            if totals.is_drained:
                self._write(STATE, partition, keys.DRAINED, b"1")
        self.flush()

    def complete(self) -> None:
        self._cluster.mark(self._open(), None)

    def close(self) -> None:
        pass

    def _settle(self) -> None:
        """Remember where the events end that are routed: behind the marks of their transactions as well.

        Should retention delete them all, that is where the topic begins.
        """
        if not self._ends:
            self.flush()
            self._ends = {p: self._cluster.settled_end(EVENTS, p) for p in range(self.partitions)}

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = self._cluster.producer(
                **{
                    "transaction.timeout.ms": 120_000, "message.max.bytes": 100 << 20,
                    "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 512 << 10,
                }
            )  # fmt: skip
        return self._producer

    def _write(
        self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers = (), at_ms: int = 0,
        note: Callable[[Place], None] | None = None,
    ) -> None:  # fmt: skip
        producer = self._open()
        with ours(self._cluster.address):
            if not self._written:
                producer.begin_transaction()
            options: dict[str, Any] = {"headers": list(headers)} if headers else {}
            if at_ms > 0:
                options["timestamp"] = at_ms  # waits look back by it, and retention counts from it
            producer.produce(
                self._cluster.address.topic(topic), value, key, partition, on_delivery=self._told(note), **options
            )
            producer.poll(0)
        self._written += 1
        self._written_bytes += len(value)
        if self._written >= WRITTEN or self._written_bytes >= WRITTEN_BYTES:
            self.flush()

    def _told(self, note: Callable[[Place], None] | None) -> Callable[[Any, Any], None]:
        def told(error: Any, message: Any) -> None:
            if error is not None:
                self._failed.append(error)
            elif note is not None:
                note((message.partition(), message.offset()))

        return told


def replayed(cluster: Cluster, partition: int) -> Replay:
    """Read a partition's redo."""
    replay, place = Replay(), redo_place(partition, cluster.partitions)
    for record in cluster.records(REDO, place.partition):
        if record.key == redo_key(partition) and record.value is not None:
            replay.add(decode_redo(record.value))
    return replay


def _kept(record: Fetched) -> Kept:
    return Kept((record.place.partition, record.offset), record.value or b"", record.key, record.headers)


def _merged(parts: Iterable[Iterator[Fetched]], time_of: Callable[[bytes], int]) -> Iterator[Fetched]:
    """Bring partitions into one order, of time; each of them keeps its own."""

    def timed(part: Iterator[Fetched]) -> Iterator[tuple[int, int, int, Fetched]]:
        latest_ms = 0
        for record in part:
            latest_ms = max(latest_ms, time_of(record.value or b""))
            yield latest_ms, record.place.partition, record.offset, record

    return (record for *_, record in heapq.merge(*map(timed, parts)))


def _received_ms(value: bytes) -> int:
    try:
        return _decode_received(value).received_at
    except (msgspec.MsgspecError, ValueError):
        return 0


def _recorded_ms(value: bytes) -> int:
    try:
        return _decode_recorded(value).at
    except (msgspec.MsgspecError, ValueError):
        return 0


def _batches(records: Iterator[Fetched]) -> Iterator[list[Fetched]]:
    batch: list[Fetched] = []
    for record in records:
        batch.append(record)
        if len(batch) >= WRITTEN:
            yield batch
            batch = []
    if batch:
        yield batch
