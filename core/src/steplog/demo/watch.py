"""Follows the demo's log from outside, as any reader may while an engine writes it."""

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from steplog.demo.outside import Body
from steplog.engine.records import EventRouted, RunCompleted, RunFailed, StepCompleted, StepFailed
from steplog.history.journal import Tape
from steplog.log.sqlite import JournalReader


class _Order(msgspec.Struct):
    """What is needed of an event's data."""

    id: str


_decode_order = msgspec.json.Decoder(_Order).decode


class Watch:
    """What the log says, as far as it was read. Everything is by order, not by the ids that the engine makes."""

    def __init__(self, log: Path) -> None:
        self.results: Counter[Body] = Counter()  # records of results, which must be one for each body
        self.completed: set[str] = set()  # orders
        self.failed: set[str] = set()
        self._reader = JournalReader(log)
        self._tape = Tape(self._reader)
        self._position = 0
        self._order_of_event: dict[str, str] = {}
        self._order_of_run: dict[str, str] = {}

    def read(self) -> None:
        """Read what was committed since the last time."""
        while (batch := self._tape.read(self._position)) is not None:
            self._position = batch.position
            for turn in batch.turns:
                for event in turn.events:
                    self._order_of_event[event.internal_id] = _decode_order(event.data).id
                for record in turn.records:
                    match record:
                        case StepCompleted(run=run, step=step) | StepFailed(run=run, step=step):
                            self.results[Body(step, self._order_of_run[run])] += 1
                        case EventRouted(event=event_id, runs=runs):
                            self._order_of_run.update({ref.run: self._order_of_event[event_id] for ref in runs})
                        case RunCompleted(run=run):
                            self.completed.add(self._order_of_run[run])
                        case RunFailed(run=run):
                            self.failed.add(self._order_of_run[run])

    @property
    def finished(self) -> int:
        """How many runs have ended."""
        return len(self.completed) + len(self.failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._reader.close()
