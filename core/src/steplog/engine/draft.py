"""The turn that is being decided: what its messages have changed, written and asked for so far."""

from collections import deque

import msgspec

from steplog.engine.effects import Effect
from steplog.engine.ids import run_slot
from steplog.engine.keys import run_id_of
from steplog.engine.messages import EventAccepted, Message, Unreadable
from steplog.engine.operations import Produce
from steplog.engine.records import Place, Record
from steplog.engine.state import State

encode = msgspec.json.Encoder().encode


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """Which owners decide in a partition: those of the slots that leave ``partition`` when divided by ``partitions``.

    ``events_return``: an event is written first and routed when the log brings it, as on Kafka; otherwise the turn that
    accepts an event routes it.
    """

    partition: int = 0
    partitions: int = 1
    events_return: bool = False


class Draft:
    """Gathers a turn. Nothing of it is visible outside before it is committed.

    ``home`` says which owners decide here.
    """

    __slots__ = (
        "dead", "effects", "events", "follow_ups", "home", "messages", "met", "now_ms", "number", "offset", "outbox",
        "produced", "records", "registered", "state",
    )  # fmt: skip

    def __init__(self, state: State, home: Home = Home()) -> None:
        self.state, self.home = state, home
        self.number = 0
        self.now_ms = 0
        self.offset = 0  # in its topic, of what the log has brought last
        self.records: list[bytes] = []  # journal, JSON
        self.events: list[bytes] = []  # accepted, JSON
        self.effects: list[Effect] = []
        self.messages: deque[Message] = deque()  # between owners, decided before the turn ends
        self.outbox: list[tuple[int, Message]] = []  # by the log, to a partition
        self.produced: list[Produce] = []  # for topics of others
        self.registered: list[tuple[bytes, bytes]] = []  # what every partition has to know before this is committed
        self.dead: list[Unreadable] = []  # to be put aside
        self.follow_ups: list[Message] = []  # to be decided by a later turn
        self.met = 0  # waits that events were held against

    def begin(self, number: int, now_ms: int) -> None:
        """Start a turn with what nobody has taken from the last."""
        self.number, self.now_ms = number, now_ms
        self.records, self.events, self.effects, self.follow_ups = [], [], [], []
        self.outbox, self.produced, self.registered, self.dead = [], [], [], []
        self.met = 0

    @property
    def next_place(self) -> Place:
        """Where the next accepted event will stand."""
        return self.number, len(self.events)

    @property
    def place(self) -> Place:
        """Where the event stands that was accepted last: its turn and number there, or its offset in its topic."""
        return (self.offset, 0) if self.home.events_return else (self.number, len(self.events) - 1)

    def is_here(self, slot: int) -> bool:
        """Whether the owners of a slot decide in this partition."""
        return slot % self.home.partitions == self.home.partition

    def has(self, run_key: bytes) -> bool:
        """Whether a run decides in this partition."""
        return self.home.partitions == 1 or self.is_here(run_slot(run_id_of(run_key)))

    def send(self, slot: int, message: Message) -> None:
        """Send a message to an owner: it is decided in this turn, or goes to another partition's inbox with it."""
        if self.is_here(slot):
            self.messages.append(message)
        else:
            self.outbox.append((slot % self.home.partitions, message))

    def tell_run(self, run_key: bytes, message: Message) -> None:
        """Send a message to a run."""
        self.send(run_slot(run_id_of(run_key)), message)

    def accept(self, event: EventAccepted) -> None:
        """Have an event written and routed."""
        if self.home.events_return:
            self.outbox.append((event.slot % self.home.partitions, event))
        else:
            self.send(event.slot, event)

    def put_aside(self, unreadable: Unreadable) -> None:
        """Keep what cannot be read where somebody can look at it."""
        self.dead.append(unreadable)

    def journal(self, record: Record) -> None:
        """Write a record of what was decided."""
        self.records.append(encode(record))
