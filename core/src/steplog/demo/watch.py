"""Follows the demo's log from outside, as any reader may while an engine writes it."""

from collections import Counter
from types import TracebackType
from typing import Self

import msgspec

from steplog.demo.outside import Body
from steplog.engine.records import EventRouted, Record, RunCompleted, RunFailed, StepCompleted, StepFailed
from steplog.history.offline import portions
from steplog.history.position import Position
from steplog.history.source import Portion, Source


class _Order(msgspec.Struct):
    """What is needed of an event's data."""

    id: str


_decode_order = msgspec.json.Decoder(_Order).decode


class Watch:
    """What the log says, as far as it was read. Everything is by order, not by the ids that the engine makes."""

    def __init__(self, source: Source) -> None:
        self.results: Counter[Body] = Counter()  # records of results, which must be one for each body
        self.completed: set[str] = set()  # orders
        self.failed: set[str] = set()
        self._source = source
        self._position = Position()
        self._order_of_event: dict[str, str] = {}
        self._order_of_run: dict[str, str] = {}
        self._unknown: list[Record] = []  # whose run or event comes later, from another partition

    def read(self) -> None:
        """Read what was committed since the last time, as far as it is here."""
        while (portion := self._source.read(self._position)) is not None:
            self._take(portion)

    def read_to_end(self) -> None:
        """Read everything that was committed."""
        for portion in portions(self._source, self._position):
            self._take(portion)

    def _take(self, portion: Portion) -> None:
        self._position = self._position.joined(portion.position)
        for turn in portion.turns:
            for event in turn.events:
                self._order_of_event[event.internal_id] = _decode_order(event.data).id
        records = self._unknown + [record for turn in portion.turns for record in turn.records]
        self._unknown = []
        for record in sorted(records, key=_comes_later):
            if not self._note(record):
                self._unknown.append(record)

    def _note(self, record: Record) -> bool:
        """Enter a record; false where its order is not known yet."""
        if isinstance(record, EventRouted):
            order = self._order_of_event.get(record.event)
            if order is not None:
                self._order_of_run.update({ref.run: order for ref in record.runs})
            return order is not None
        order = self._order_of_run.get(record.run)
        if order is None:
            return False
        match record:
            case StepCompleted(step=step) | StepFailed(step=step):
                self.results[Body(step, order)] += 1
            case RunCompleted():
                self.completed.add(order)
            case RunFailed():
                self.failed.add(order)
        return True

    @property
    def finished(self) -> int:
        """How many runs have ended."""
        return len(self.completed) + len(self.failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._source.close()


def _comes_later(record: Record) -> bool:
    return not isinstance(record, EventRouted)  # it says whose the runs are
