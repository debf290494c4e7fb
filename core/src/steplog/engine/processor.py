"""One partition's pipeline: take what waits, decide it as a turn, hand out the commit, then release the effects.

Sans-IO: the shell (``node.py``, or the simulation) moves the turn to the log and says when it is durable. If a commit
fails, or the process dies, everything here is dropped and made anew from the log: there is one recovery path.
"""

from collections import deque

import msgspec

from steplog.engine import keys
from steplog.engine.draft import Home
from steplog.engine.effects import Effect
from steplog.engine.engine import Engine
from steplog.engine.functions import ENVIRONMENTS, EngineConfig, Registry
from steplog.engine.messages import EventAccepted, Input, Message, SweepSeen, TimerFired, Unreadable
from steplog.engine.operations import Produce
from steplog.engine.recent import EventLog
from steplog.engine.state import Limits, Slice, State, Table

TURN_MESSAGES = 2_000
TURN_BYTES = 4 << 20
TURN_TIMERS = 1_000


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one commit writes, all or nothing."""

    number: int
    now_ms: int
    state: Slice
    records: list[bytes]  # journal, JSON
    events: list[bytes]  # accepted, JSON
    outbox: list[tuple[int, Message]] = []  # messages for other partitions, and events for any
    produced: list[Produce] = []  # records for topics of others
    registered: list[tuple[bytes, bytes]] = []  # keys and values that every partition has to know first
    dead: list[Unreadable] = []
    taken: dict[str, int] = {}  # of each input, the offset behind what this turn has decided


class LoadedState(msgspec.Struct, frozen=True, kw_only=True):
    """What a log has committed."""

    turn: int  # the last one; 0 for an empty log
    now_ms: int  # the partition's time then
    table: Table
    events: EventLog | None = None  # None: those of before are read by an effect


class Processor:
    """Decides the turns of one partition."""

    def __init__(
        self,
        loaded: LoadedState,
        registry: Registry,
        config: EngineConfig,
        limits: Limits = Limits(),
        home: Home = Home(),
    ) -> None:
        self.engine = Engine(State(loaded.table, limits), loaded.events, registry, config, home)
        self.engine.deciders[Input] = self._take
        self._turn = loaded.turn
        self._now_ms = loaded.now_ms
        self._inbox: deque[Message | Input] = deque()
        self._taken_up_to: dict[str, int] = {}  # of each input that the open turn has taken from
        self.is_open = False
        self._is_group_open = False
        self.is_committing = False
        self._taken = self._bytes = 0
        self._has_more = self._is_settling = False
        self._swept_day = loaded.now_ms // keys.DAY_MS
        self._effects: list[Effect] = []

    def recover(self, *, is_counted: bool = True) -> None:
        """Queue what was in flight when the log was last written.

        ``is_counted``: the process that executed it is gone; false where only the log was unavailable.
        """
        self._inbox.extend(self.engine.recover(is_counted=is_counted))

    def post(self, *messages: Message | Input) -> None:
        """Put messages in the mailbox."""
        self._inbox.extend(messages)

    def settle(self) -> None:
        """Have the next turn give the table all that is pending."""
        self._is_settling = True

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._inbox)

    @property
    def is_unsettled(self) -> bool:
        """Whether something is decided and not committed."""
        return self.is_open or self.is_committing

    def has_work(self, now_ms: int) -> bool:
        """Whether a turn would decide anything."""
        if self._inbox or self._has_more or self.is_open or self._is_settling:
            return True
        due = self.next_due_ms()
        return due is not None and due <= now_ms

    def next_due_ms(self) -> int | None:
        """When the next timer is due."""
        key = self.engine.state.first(keys.TIMER)
        return None if key is None else keys.timer_due_ms(key)

    def advance(self, now_ms: int, most: int = TURN_MESSAGES) -> bool:
        """Decide at most ``most`` messages of the open turn; begin one where none is open.

        Returns whether the turn is complete and can be sealed. ``now_ms`` never goes back within a partition.
        """
        if not self.is_open:
            self._begin(now_ms)
        inbox, apply, between_owners = self._inbox, self.engine.apply, self.engine.draft.messages
        for _ in range(most):
            if not inbox or (not self._is_group_open and self._is_full()):
                break
            message = inbox.popleft()
            apply(message)
            while between_owners:
                apply(between_owners.popleft())
            self._taken += 1
            if isinstance(message, EventAccepted):
                self._bytes += len(message.body)
                self._is_group_open = not message.is_last
        return not self._is_group_open and (not inbox or self._is_full())

    def seal(self) -> Turn:
        """End the open turn and hand it out to be committed. The next may be decided meanwhile."""
        assert not self.is_committing, "the last turn is not committed yet"
        engine = self.engine
        self._has_more = engine.pump()
        draft = engine.draft
        for topic, offset in self._taken_up_to.items():
            engine.state.put(keys.position(topic), keys.number(offset))
        taken, self._taken_up_to = self._taken_up_to, {}
        state = engine.state.seal(self._turn, is_whole=self._is_settling)
        self._is_settling = False
        turn = Turn(
            number=self._turn, now_ms=self._now_ms, state=state, records=draft.records,
            events=draft.events, outbox=draft.outbox, produced=draft.produced, registered=draft.registered,
            dead=draft.dead, taken=taken,
        )  # fmt: skip
        self._effects = draft.effects
        self._inbox.extend(draft.follow_ups)
        self.is_open, self.is_committing = False, True
        return turn

    def committed(self) -> list[Effect]:
        """The turn is durable: release its effects, in the order in which they were decided."""
        assert self.is_committing, "no turn is being committed"
        self.is_committing = False
        self.engine.state.landed()
        self.engine.runs.forget_idle(self._turn if self.is_open else None)
        released, self._effects = self._effects, []
        return released

    def _begin(self, now_ms: int) -> None:
        self.is_open = True
        self._turn += 1
        self._now_ms = max(self._now_ms, now_ms)
        self._taken = self._bytes = 0
        engine, now = self.engine, self._now_ms
        engine.draft.begin(self._turn, now)
        day = now // keys.DAY_MS
        if day != self._swept_day:
            self._swept_day = day
            self._inbox.extend(SweepSeen(env=env) for env in ENVIRONMENTS)
        engine.open_mail()
        self._decide_messages()
        state = engine.state
        due: list[bytes] = []
        while len(due) < TURN_TIMERS and (key := state.first(keys.TIMER)) is not None and keys.timer_due_ms(key) <= now:
            due.append(key)
            state.delete(key)
        engine.runs.preload([keys.timer_owner(key)[0] for key in due])
        for key in due:
            run, step = keys.timer_owner(key)
            engine.apply(TimerFired(run=run, step=step, due_ms=keys.timer_due_ms(key)))
            self._decide_messages()

    def _decide_messages(self) -> None:
        """Decide what owners have sent each other."""
        messages = self.engine.draft.messages
        while messages:
            self.engine.apply(messages.popleft())

    def _take(self, given: Input) -> None:
        """Decide what a log has brought, and note how far it has come."""
        self._taken_up_to[given.topic] = given.offset + 1
        self.engine.draft.offset = given.offset
        self.engine.apply(given.message)
        if isinstance(given.message, EventAccepted):
            self._bytes += len(given.message.body)

    def _is_full(self) -> bool:
        return self._taken >= TURN_MESSAGES or self._bytes >= TURN_BYTES
