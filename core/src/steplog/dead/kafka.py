"""Dead letters in a topic, ``<prefix>.dead``: one record a letter, under its id; a tombstone forgets it.

A letter that is to be replayed has a record ``retry/<id>`` behind it, in the same partition. The topic is compacted, so
that a letter stays until somebody has dealt with it. Value and headers are the original's,
behind the headers that say where it comes from and why it is here: kcat shows both.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from steplog.dead.letters import Entry, Letter
from steplog.errors import LogUnavailable
from steplog.kafka_record import Headers, Record, read_record

TOPIC_CONFIG = {"cleanup.policy": "compact", "min.insync.replicas": "1"}
ANSWER_S = 10.0
READ_AT_ONCE = 500
MOST_BYTES = 1_000_000_000  # of a record, to the client: how large one may be is for the topic to say
WAIT_MS = 50  # that a broker keeps a reader, who has read everything, from asking for anything else
RETRY = "retry/"
logger = logging.getLogger(__name__)
_NAMES = ("entry", "value", "timestamp")  # of the headers that come first, each behind "steplog."
_NULL = b"null"  # the original had no value; without one this record would be a tombstone
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def to_record(letter: Letter) -> tuple[bytes, bytes, Headers]:
    """Key, value and headers of a letter's record."""
    timestamp = b"" if letter.timestamp_ms is None else b"%d" % letter.timestamp_ms
    kind = _NULL if letter.value is None else b""
    own = zip(_NAMES, (_encode(letter.entry), kind, timestamp), strict=True)
    headers = *((f"steplog.{name}", value) for name, value in own), *letter.headers
    return letter.entry.id.encode(), letter.value or b"", headers


def of_record(record: Record) -> Letter:
    """Read a record. Raises ``ValueError`` for one that is none of ours."""
    headers = record.headers or ()
    own = [value for _, value in headers[: len(_NAMES)]]
    if [name for name, _ in headers[: len(_NAMES)]] != [f"steplog.{name}" for name in _NAMES]:
        raise ValueError("the record has no headers that say where it comes from")
    return Letter(
        entry=_decode(own[0] or b""), value=None if own[1] == _NULL else record.value, headers=headers[len(_NAMES) :],
        timestamp_ms=int(own[2]) if own[2] else None,
    )  # fmt: skip


class _Write(NamedTuple):
    key: bytes
    value: bytes | None
    headers: Headers = ()
    partition: int = -1  # by the key


class _Kept(msgspec.Struct):
    """A letter without its content, and where that is."""

    entry: Entry
    partition: int
    offset: int


class KafkaDeadLetters:
    """The letters in a topic (``DeadLetters``). ``options`` are for the client: brokers, and security."""

    def __init__(self, topic: str, options: Mapping[str, Any]) -> None:
        self._topic = topic
        own = {"log_level": 2}  # errors come with the calls
        self._producer = Producer({
            **options, **own, "enable.idempotence": True, "linger.ms": 0, "message.max.bytes": MOST_BYTES,
        })  # fmt: skip
        self._options = {
            **options, **own, "group.id": f"{topic}.reader", "enable.auto.commit": False, "enable.partition.eof": True,
            "allow.auto.create.topics": False, "fetch.wait.max.ms": WAIT_MS,
        }  # fmt: skip
        self._consumer = Consumer(self._options)
        self._reader: Consumer | None = None  # of single letters
        self._next: dict[int, int] = {}  # partition → the offset that is read next
        self._kept: dict[str, _Kept] = {}
        self._has_changed = False

    def entries(self) -> list[Entry]:
        self._catch_up()
        self._has_changed = False
        return sorted([kept.entry for kept in self._kept.values()], key=lambda entry: entry.place)

    def find(self, id_: str) -> Letter | None:
        self._catch_up()
        kept = self._kept.get(id_)
        if kept is None:
            return None
        if self._reader is None:
            self._reader = Consumer(self._options)
        try:
            self._reader.assign([TopicPartition(self._topic, kept.partition, kept.offset)])
            message = self._reader.poll(ANSWER_S)
            self._reader.unassign()
        except KafkaException as error:
            raise self._unavailable(error) from error
        if message is None or message.error() is not None:
            raise LogUnavailable(f"topic {self._topic}: {_reason(message)}")
        letter = of_record(read_record(message))
        return msgspec.structs.replace(letter, entry=kept.entry)

    def park(self, letters: Sequence[Letter]) -> None:
        refused = self._write([_Write(*to_record(letter)) for letter in letters])
        large = [letter for letter in letters if letter.entry.id.encode() in refused]
        if large and self._write([_Write(*to_record(letter.cut())) for letter in large]):
            raise LogUnavailable(f"topic {self._topic} does not take {large[0].entry.id} without its content either")

    def retry(self, ids: Sequence[str]) -> None:
        self._catch_up()
        known = [(id_, self._kept[id_].partition) for id_ in ids if id_ in self._kept]
        self._write([_Write(f"{RETRY}{id_}".encode(), b"1", partition=partition) for id_, partition in known])

    def drop(self, ids: Sequence[str]) -> None:
        self._catch_up()
        known = [(id_, self._kept[id_].partition) for id_ in ids if id_ in self._kept]
        self._write([_Write(f"{what}{id_}".encode(), None, partition=p) for id_, p in known for what in ("", RETRY)])

    def has_changed(self) -> bool:
        try:
            self._take(self._consumer.consume(READ_AT_ONCE, 0))
        except KafkaException as error:
            raise self._unavailable(error) from error
        return self._has_changed

    def close(self) -> None:
        self._consumer.close()
        if self._reader is not None:
            self._reader.close()

    def _catch_up(self) -> None:
        """Read up to what is there now."""
        try:
            self._assign()
            ends = {
                partition: self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=ANSWER_S
                )[1]
                for partition in self._next
            }
            until_s = time.monotonic() + ANSWER_S
            while any(self._next[partition] < end for partition, end in ends.items()):
                if time.monotonic() > until_s:
                    raise LogUnavailable(f"topic {self._topic} cannot be read to its end within {ANSWER_S:g} s")
                self._take([message] if (message := self._consumer.poll(0.1)) is not None else [])
                self._take(self._consumer.consume(READ_AT_ONCE, 0))
        except KafkaException as error:
            raise self._unavailable(error) from error

    def _assign(self) -> None:
        """Begin to read, the first time."""
        if self._next:
            return
        found = self._consumer.list_topics(self._topic, timeout=ANSWER_S).topics[self._topic]
        if found.error is not None:
            raise LogUnavailable(f"topic {self._topic}: {found.error.str()}")
        self._next = dict.fromkeys(found.partitions, 0)
        self._consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in found.partitions])

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                self._next[partition] = offset
                continue
            self._next[partition] = offset + 1
            self._has_changed = True
            self._fold(read_record(message))

    def _fold(self, record: Record) -> None:
        key, value = (record.key or b"").decode(errors="replace"), record.value
        if key.startswith(RETRY):
            kept = self._kept.get(key.removeprefix(RETRY))
            if kept is not None and value is not None:
                kept.entry = msgspec.structs.replace(kept.entry, state="retry")
        elif value is None:
            self._kept.pop(key, None)
        else:
            try:
                entry = of_record(record).entry
            except (ValueError, msgspec.MsgspecError) as error:
                fields = {"topic": self._topic, "partition": record.partition, "offset": record.offset}
                logger.warning(
                    "a record is no letter; it is passed over", extra={"fields": {**fields, "problem": str(error)}}
                )
                return
            self._kept[key] = _Kept(entry, record.partition, record.offset)

    def _write(self, records: Sequence[_Write]) -> set[bytes]:
        """Write records; raises where one of them does not arrive. Returns the keys of those that are too large."""
        failed: list[KafkaError] = []
        large: set[bytes] = set()

        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                large.add(message.key() or b"")
            elif error is not None:
                failed.append(error)

        try:
            for key, value, headers, partition in records:
                self._producer.produce(
                    self._topic, value, key, headers=[*headers], partition=partition, on_delivery=told
                )
            left = self._producer.flush(ANSWER_S)
        except (KafkaException, BufferError) as error:
            raise self._unavailable(error) from error
        if failed or left:
            raise LogUnavailable(f"topic {self._topic}: {failed[0].str() if failed else 'no broker answers'}")
        return large

    def _unavailable(self, error: Exception) -> LogUnavailable:
        return LogUnavailable(f"topic {self._topic}: {_text(error)}")


def _reason(message: Message | None) -> str:
    error = None if message is None else message.error()
    return "no broker answers" if error is None else error.str()


def _text(error: Exception) -> str:
    found = error.args[0] if error.args else error
    return found.str() if isinstance(found, KafkaError) else str(found)
