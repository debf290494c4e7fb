"""Reads a log on Kafka as any consumer can, and holds it against what has to be true after any fault (faults.md §2).

It knows documented JSON, and of the state only the number of each partition's turns and the positions.
"""

import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from steplog.engine import keys, records
from steplog.log.encoding import decode_owner
from steplog.log.redo import Redo, decode_redo
from steplog.log.topics import EVENTS, INBOX, JOURNAL, REDO, REGISTRY, Layout, offset_in, offsets
from tests.kafka_clients import DEADLINE_S, QUICK

Ending = records.RunCompleted | records.RunFailed
_decode_event = msgspec.json.Decoder(records.StoredEvent).decode
_decode_record = msgspec.json.Decoder(records.Record).decode
_decode_head = msgspec.msgpack.Decoder(tuple[int, int]).decode


class Ledger:
    """What is committed on events, journal and state, read from the beginning; closed as a context.

    What it reads while faults go on is held against what came before at once: a record of an aborted or a foreign
    transaction cannot hide among later ones.
    """

    def __init__(self, bootstrap: str, layout: Layout) -> None:
        self._bootstrap, self._layout = bootstrap, layout
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": f"{layout.prefix}.ledger", "enable.auto.commit": False,
                "auto.offset.reset": "error", "fetch.wait.max.ms": 50,
                "isolation.level": "read_committed", "enable.partition.eof": True,
                **QUICK,
            }
        )  # fmt: skip
        self._places = [
            TopicPartition(layout.name(topic), partition, 0)
            for topic in (EVENTS, JOURNAL, REDO, REGISTRY)
            for partition in range(layout.count(topic))
        ]
        self._consumer.assign(self._places)
        self._ends: dict[tuple[str, int], int] = {}  # where a partition had nothing more when it was last read
        self.accepted: Counter[str] = Counter()  # internal ids of events
        self.ids: dict[str, str] = {}  # those that their senders gave, by the internal ones
        self.unreadable = 0  # records among the events that are none
        self.places: dict[str, tuple[int, int]] = {}  # of each event: partition and offset
        self.routed: Counter[str] = Counter()  # in their order
        self.scheduled: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.failed = 0
        self.steps: Counter[tuple[str, str]] = Counter()
        self.journal: list[tuple[int, records.Record]] = []  # with its partition
        self.owners: dict[int, str] = {}  # of each partition: the node that has loaded it last
        self.turns: dict[int, int] = {}  # the last one of each partition
        self._seq: dict[str, int] = {}
        self._positions: dict[tuple[int, bytes], int] = {}

    def read(self, wait_s: float = 0.05) -> Self:
        """Take some of what is there by now."""
        for message in self._consumer.consume(5_000, wait_s):
            self._note(message)
        return self

    def read_all(self) -> Self:
        """Read up to where each partition ends, open transactions included: they have to end."""
        deadline_s = time.monotonic() + DEADLINE_S
        ends = self._asked_ends(deadline_s)
        while behind := [place for place, end in ends.items() if self._ends.get(place, 0) < end]:
            assert time.monotonic() < deadline_s, f"what is committed does not reach the end of {behind}"
            self.read()
        return self

    def _asked_ends(self, until_s: float) -> dict[tuple[str, int], int]:
        """Ask where everything ends, again where others lead since a moment ago."""
        while True:
            admin = AdminClient({"bootstrap.servers": self._bootstrap, **QUICK})
            answers = offsets(admin, self._places)
            try:
                return {(p.topic, p.partition): offset_in(answer.result(DEADLINE_S)) for p, answer in answers.items()}
            except KafkaException:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.1)

    @property
    def open(self) -> set[str]:
        """Runs that have not ended."""
        return self.scheduled.keys() - self.ended.keys()

    def partitions_of(self, kind: type[records.Record]) -> Counter[int]:
        """How many records of a kind each partition has."""
        return Counter(partition for partition, record in self.journal if isinstance(record, kind))

    def assert_adds_up(self, *, runs: int, steps: int, failed: int = 0) -> None:
        """Check that every event is routed once, every step recorded once, every run ended once; nothing is missing."""
        self.read_all()
        assert not (lost := self.accepted.keys() - self.routed.keys()), f"{len(lost)} events unaccounted: {_some(lost)}"
        assert not (twice := _repeated(self.accepted)), f"stored twice: {_some(twice)}"
        assert not (twice := _repeated(self.routed)), f"routed twice: {_some(twice)}"
        for order in self._orders().values():
            assert order == sorted(order), "events of a partition are routed in their order (P9)"
        assert not (foreign := self.routed.keys() - self.accepted.keys()), f"never accepted: {_some(foreign)}"
        assert not (twice := _repeated(self.scheduled)), f"scheduled twice: {_some(twice)}"
        assert not (twice := _repeated(self.ended)), f"ended twice: {_some(twice)}"
        assert not self.open, f"{len(self.open)} runs are open: {_some(self.open)}"
        assert not (steps_twice := [step for step, count in self.steps.items() if count > 1]), steps_twice[:5]
        assert (len(self.ended), self.failed, len(self.steps)) == (runs, failed, steps)

    def _orders(self) -> dict[int, list[int]]:
        """The offsets of events as they were routed, by partition."""
        found: dict[int, list[int]] = {}
        for event in self.routed:
            if event in self.places:
                partition, offset = self.places[event]
                found.setdefault(partition, []).append(offset)
        return found

    def _note(self, message: Message) -> None:
        topic, partition = message.topic() or "", message.partition() or 0
        if error := message.error():
            if error.code() == KafkaError._PARTITION_EOF:
                self._ends[topic, partition] = message.offset() or 0
            else:
                assert not error.fatal(), error
            return
        value = message.value()
        if topic == self._layout.name(REDO):
            assert value is not None
            self._note_turn(decode_redo(value))
        elif value is None:
            pass
        elif topic == self._layout.name(REGISTRY):
            self._note_registered(message.key() or b"", value)
        elif topic == self._layout.name(EVENTS):
            self._note_event(value, partition, message.offset() or 0)
        else:
            self._note_record(partition, _decode_record(value))

    def _note_registered(self, key: bytes, value: bytes) -> None:
        kind, _, partition = key.partition(b"/")
        if kind == b"owner":
            self.owners[int(partition)] = decode_owner(value).node

    def _note_event(self, value: bytes, partition: int, offset: int) -> None:
        try:
            event = _decode_event(value)
        except msgspec.MsgspecError:
            self.unreadable += 1
            return
        self.accepted[event.internal_id] += 1
        self.ids[event.internal_id] = event.id
        self.places.setdefault(event.internal_id, (partition, offset))

    def _note_record(self, partition: int, record: records.Record) -> None:
        self.journal.append((partition, record))
        match record:
            case records.EventRouted(event=event):
                self.routed[event] += 1
                return
            case records.RunScheduled(run=run):
                self.scheduled[run] += 1
            case records.StepCompleted(run=run, id=step):
                self.steps[run, step] += 1
            case records.RunCompleted(run=run) | records.RunFailed(run=run):
                self.ended[run] += 1
                self.failed += isinstance(record, records.RunFailed)
        key, seq = getattr(record, "run", None), getattr(record, "seq", None)
        if key is not None and seq is not None:
            assert seq == self._seq.get(key, seq - 1) + 1, f"{key}: {seq} follows {self._seq[key]}"
            self._seq[key] = seq

    def _note_turn(self, redo: Redo) -> None:
        partition, last = redo.partition, self.turns.get(redo.partition)
        assert last is None or redo.turn == last + 1, f"partition {partition}: turn {redo.turn} follows {last}"
        self.turns[partition] = redo.turn
        for key in (keys.position(EVENTS), keys.position(INBOX)):
            value = redo.changes.get(key)
            if value is not None:
                position = int.from_bytes(value, "big")
                assert position >= self._positions.get((partition, key), 0), f"{partition}: its position went back"
                self._positions[partition, key] = position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._consumer.close()


def _repeated(counted: Counter[str]) -> set[str]:
    return {key for key, count in counted.items() if count > 1}


def _some(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)[:5])
