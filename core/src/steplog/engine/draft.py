"""The turn that is being decided: what its messages have changed, written and asked for so far."""

from collections import deque

import msgspec

from steplog.engine.effects import Effect
from steplog.engine.messages import Message
from steplog.engine.records import Place, Record
from steplog.engine.state import State

encode = msgspec.json.Encoder().encode


class Draft:
    """Gathers a turn. Nothing of it is visible outside before it is committed."""

    __slots__ = ("effects", "events", "follow_ups", "messages", "met", "now_ms", "number", "records", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self.number = 0
        self.now_ms = 0
        self.records: list[bytes] = []  # journal, JSON
        self.events: list[bytes] = []  # accepted, JSON
        self.effects: list[Effect] = []
        self.messages: deque[Message] = deque()  # between owners, decided before the turn ends
        self.follow_ups: list[Message] = []  # to be decided by a later turn
        self.met = 0  # waits that events were held against

    def begin(self, number: int, now_ms: int) -> None:
        """Start a turn with what nobody has taken from the last."""
        self.number, self.now_ms = number, now_ms
        self.records, self.events, self.effects, self.follow_ups = [], [], [], []
        self.met = 0

    @property
    def next_place(self) -> Place:
        """Where the next accepted event will stand."""
        return self.number, len(self.events)

    def journal(self, record: Record) -> None:
        """Write a record of what was decided."""
        self.records.append(encode(record))
