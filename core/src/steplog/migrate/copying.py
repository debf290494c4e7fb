"""Copies everything that a log has into one with other partitions.

What is said of places is said anew: where the event stands that has started a run, in its head and its waits. Events
that go on over several turns (``engine/mail.py``) become messages to the places of the index that they are held
against; so do those that were on their way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from steplog.dead.letters import DeadLetters
from steplog.dead.opening import open_dead
from steplog.engine import keys
from steplog.engine.ids import decode_ulid, hash16, run_slot, slot_of
from steplog.engine.messages import EventAccepted, EventMet, EventOffered, Message, Origin, Unreadable, decode_message
from steplog.engine.placing import slot_of_key, slot_of_message, with_origin
from steplog.engine.records import Place, event_seen
from steplog.engine.run import RunHead, StepState
from steplog.engine.state import Table
from steplog.engine.waits import Path, path_hash, places_of, slot_of_place
from steplog.log import encoding
from steplog.log.broker import Fetched
from steplog.log.broker import Place as At
from steplog.log.topics import EVENTS
from steplog.migrate.ends import Kept, Name, Source, Target

PAGE = 2_000  # keys that are read at once
TOLD_EVERY = 2_000  # records
NOWHERE = 1 << 30  # stands for the partition of an event that is not kept any more

_encode = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(RunHead).decode
_decode_step = msgspec.json.Decoder(StepState).decode
_decode_path = msgspec.json.Decoder(tuple[str, Path]).decode
_decode_number = msgspec.json.Decoder(tuple[int, msgspec.Raw]).decode
_decode_mail = msgspec.json.Decoder(tuple[int, str, bytes]).decode
_decode_mailed = msgspec.json.Decoder(tuple[Place, Origin, bytes, dict[str, Any]]).decode


class _Unbegun(msgspec.Struct, array_like=True):
    id: str
    head: RunHead
    events: list[msgspec.Raw]


_decode_unbegun = msgspec.json.Decoder(_Unbegun).decode


class _Event(msgspec.Struct):
    """What is asked of an event's record."""

    internal_id: str
    slot: int
    received_at: int


_decode_event = msgspec.json.Decoder(_Event).decode


class _Record(msgspec.Struct):
    """What is asked of a record of the journal."""

    kind: str
    at: int
    run: str = ""
    event: str = ""
    runs: list[dict[str, str]] = []


_decode_record = msgspec.json.Decoder(_Record).decode


class Counts(msgspec.Struct):
    """What was copied."""

    runs: int = 0
    keys: int = 0
    events: int = 0
    unrouted: int = 0
    records: int = 0
    messages: int = 0
    dead: int = 0
    left_out: int = 0  # records that say of the old log alone what was lost in it, or that make no sense

    @property
    def total(self) -> int:
        return self.keys + self.events + self.unrouted + self.records + self.messages + self.dead


Tell = Callable[[str, Counts], None]


class Copy:
    """One copy of a source into an empty target. ``tell`` is called between two portions, with what is copied."""

    def __init__(self, source: Source, target: Target, tell: Tell) -> None:
        self._source, self._target, self._tell = source, target, tell
        self.counts = Counts()
        self._places: dict[object, Place | None] = {}  # by internal id, or place in the source: of wanted events
        self._paths: dict[Name, dict[Path, bytes]] = {}
        self._messages: list[Message] = []
        self._dead: list[Unreadable] = []

    def run(self) -> Counts:
        """Copy everything but the dead letters; what is there is durable when this returns."""
        self._tell("state", self.counts)
        tables = self._source.load()
        self._gather(tables)
        self._copy_events()
        self._copy_journal()
        for message in self._messages:
            self._send(message)
        self._next("messages")
        self._copy_state(tables)
        for (env, name), paths in self._paths.items():
            for path in paths:
                self._target.path(env, name, path)
        self._target.finish(self._source.totals)
        self._tell("finished", self.counts)
        return self.counts

    def copy_dead(self, source_url: str, target_url: str) -> None:
        """Copy the dead letters, and put aside what made no sense on the way; copying again changes nothing."""
        source, target = open_dead(source_url), open_dead(target_url)
        try:
            _park(source, target, self.counts)
            target.park([encoding.letter(0, each, self._source.totals.now_ms) for each in self._dead])
        finally:
            source.close()
            target.close()
        self._tell("dead letters", self.counts)

    # --- what is to be known first

    def _gather(self, tables: Sequence[Table]) -> None:
        """Find out which events have to be found again, and what is on its way."""
        mailed: list[tuple[int, bytes, bytes, bytes | None]] = []
        for partition, table in enumerate(tables):
            for key, value in _pairs(table):
                kind = key[0]
                if kind == keys.RUN and key[21:] == b"\x01" + bytes(8):
                    self._places[_decode_event(value).internal_id] = None
                elif kind == keys.QUEUE and value:
                    self._places[_decode_event(_decode_unbegun(value).events[0]).internal_id] = None
                elif kind == keys.PATH:
                    name, path = _decode_path(value)
                    self._know(int.from_bytes(key[1:5], "big"), name, path)
                elif kind == keys.MAIL and len(key) == keys.MAIL_BYTES:
                    mailed.append((partition, key, value, table.get(keys.mail_event(key))))
                elif key.startswith(keys.CARRIED):
                    self._messages.append(decode_message(value))
        for (env, name), paths in self._source.paths.items():
            for path in paths:
                self._know(env, name, path)
        self._messages[:0] = [message for mail in mailed for message in self._offers(*mail, len(tables))]
        self._messages += self._source.inbox()
        for message in self._messages:
            if isinstance(message, EventOffered | EventMet):
                self._places[message.origin[:2]] = None

    def _know(self, env: int, name: str, path: Path) -> None:
        self._paths.setdefault((env, name), {})[path] = path_hash(path)

    def _offers(
        self, partition: int, key: bytes, value: bytes, kept: bytes | None, partitions: int
    ) -> Iterator[EventOffered]:
        """Offer an event that is not done to every place of the index that it is held against."""
        env, name, _ = _decode_mail(value)
        if kept is None:
            body = self._source.body(keys.mail_place(key))
            event, prefix = event_seen(body), b""
            origin: Origin = (*keys.mail_place(key), _decode_event(body).received_at)
        else:
            _, origin, prefix, event = _decode_mailed(kept)
        places = [prefix] if prefix else [
            place for place in places_of(env, name, event, self._paths.get((env, name), {}))
            if slot_of_place(place) % partitions == partition
        ]  # fmt: skip
        for place in places:
            yield EventOffered(prefix=place, name=name, event=_encode(event), origin=origin)

    # --- events and journal

    def _copy_events(self) -> None:
        for kept in self._source.routed():
            try:
                event = _decode_event(kept.body)
            except (msgspec.MsgspecError, ValueError):  # it is among the dead letters
                self.counts.left_out += 1
                continue
            self._target.routed(kept, event.slot, event.received_at, self._note(kept, event.internal_id))
            self.counts.events += 1
            self._portion("events", self.counts.events)
        self._next("events")
        for kept in self._source.unrouted():
            fetched = Fetched(
                At(EVENTS, kept.place[0]), kept.place[1], kept.key or b"", kept.body, _bytes(kept.headers)
            )
            message = encoding.understood(fetched, None)
            if isinstance(message, EventAccepted):
                self._target.unrouted(kept, message, self._note(kept, message.internal_text))
                self.counts.unrouted += 1
            elif isinstance(message, Unreadable):
                self._dead.append(message)
        self._next("events that are not routed")

    def _note(self, kept: Kept, internal_id: str) -> Callable[[Place], None] | None:
        wanted = [known for known in (internal_id, kept.place) if known in self._places]
        if not wanted:
            return None
        return lambda place: self._places.update(dict.fromkeys(wanted, place))

    def _copy_journal(self) -> None:
        for record in self._source.journal():
            try:
                head = _decode_record(record)
            except (msgspec.MsgspecError, ValueError):
                self.counts.left_out += 1
                continue
            if head.kind == "log.restored":  # the new log lacks nothing that it ever had
                self.counts.left_out += 1
                continue
            run = head.run or (head.runs[0]["run"] if head.runs else "")
            slot = run_slot(decode_ulid(run)) if run else slot_of(hash16(head.event.encode()))
            self._target.journal(record, slot, head.at)
            self.counts.records += 1
            self._portion("journal", self.counts.records)
        self._next("journal")

    def _send(self, message: Message) -> None:
        if isinstance(message, Unreadable):
            self._dead.append(message)
            return
        slot = slot_of_message(message)
        if slot is None:
            return
        if isinstance(message, EventOffered | EventMet):
            place = self._places.get(message.origin[:2])
            _, (partition, offset) = self._target.trigger(place)
            message = with_origin(message, NOWHERE if place is None else partition, offset)
        self._target.message(message, slot)
        self.counts.messages += 1

    # --- state

    def _copy_state(self, tables: Sequence[Table]) -> None:
        functions: dict[bytes, tuple[int, bytes]] = {}
        for table in tables:
            owner, run_rows = b"", list[tuple[bytes, bytes]]()
            for key, value in _pairs(table):
                if key[0] == keys.RUN:
                    if key[:21] != owner:
                        self._put_run(run_rows)
                        owner, run_rows = key[:21], []
                    run_rows.append((key, value))
                    continue
                if run_rows:
                    self._put_run(run_rows)
                    run_rows = []
                self._put_other(key, value, functions)
            self._put_run(run_rows)
        for key, (_, value) in functions.items():
            self._put(key, value, None)
        for (env, name), paths in self._paths.items():
            for path, hash_ in paths.items():
                name_hash = hash16(name.encode("utf8", "surrogatepass"))
                self._put(keys.path(env, name_hash, hash_), _encode((name, path)), None)
        self._next("state")

    def _put_other(self, key: bytes, value: bytes, functions: dict[bytes, tuple[int, bytes]]) -> None:
        match key[0]:
            case keys.NODE | keys.MAIL | keys.PATH:  # what is of a partition is made anew
                return
            case keys.FUNCTION:  # every partition numbers them; none goes back
                number = _decode_number(value)[0]
                if number > functions.get(key, (0, b""))[0]:
                    functions[key] = number, value
                return
            case keys.QUEUE:
                if value:
                    unbegun = _decode_unbegun(value)
                    self._place(unbegun.head, unbegun.events[0])
                    value = _encode(unbegun)
                    self.counts.runs += 1
        self._put(key, value, slot_of_key(key, value))

    def _put_run(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Write a run, from its rows in order: its head, its events, its steps."""
        if not rows:
            return
        slot = slot_of_key(*rows[0])
        events = [value for key, value in rows if key[21:22] == b"\x01"]
        trigger: Place | None = None
        for key, value in rows:
            if len(key) == 21 and events:
                head = _decode_head(value)
                trigger = self._place(head, events[0])
                value = _encode(head)
                self.counts.runs += 1
            elif keys.is_step(key):
                step = _decode_step(value)
                if step.wait is not None:
                    step.wait.since = (0, 0)  # whatever comes now, comes later
                    step.wait.trigger = trigger or (-1, -1)
                    value = _encode(step)
            self._put(key, value, slot)

    def _place(self, head: RunHead, event: bytes) -> Place:
        """Say in a run's head where its event stands now; returns what its waits say."""
        head.place, trigger = self._target.trigger(self._places.get(_decode_event(event).internal_id))
        return trigger

    def _put(self, key: bytes, value: bytes, slot: int | None) -> None:
        self._target.put(key, value, slot)
        self.counts.keys += 1
        self._portion("state", self.counts.keys)

    # --- portions

    def _portion(self, what: str, count: int) -> None:
        if count % TOLD_EVERY == 0:
            self._tell(what, self.counts)

    def _next(self, what: str) -> None:
        """What comes next needs what was written before."""
        self._target.flush()
        self._tell(what, self.counts)


def _pairs(table: Table) -> Iterator[tuple[bytes, bytes]]:
    """All of a table, in order."""
    start = b""
    while page := table.scan(start, b"\xff", PAGE):
        yield from page
        start = page[-1][0] + b"\0"


def _bytes(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    return tuple([(name, value or b"") for name, value in headers])


def _park(source: DeadLetters, target: DeadLetters, counts: Counts) -> None:
    for entry in source.entries():
        letter = source.find(entry.id)
        if letter is not None:
            target.park([letter])
            counts.dead += 1
