"""Several processes, one simulated Kafka, and everything that goes wrong between them, in virtual time.

``simulate_cluster(seed)`` runs the code that real processes run (``steplog/partitions.py``, ``log/kafka.py``) over
``broker.py``: processes crash, stall, join and leave, calls fail or lose their answer. Then it lets everything come to
rest and checks that nothing is left, and that every event was routed once.
"""

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Any

import msgspec

from steplog.engine import keys, records
from steplog.engine.effects import Effect
from steplog.engine.events import FAILED_EVENT, FINISHED_EVENT, accept_event
from steplog.engine.functions import DEFAULT_ENV, EventTrigger, Registry
from steplog.engine.ids import decode_ulid, run_slot, ulid
from steplog.engine.keys import run_id_of
from steplog.engine.messages import EventMet, Message, OfRun, OpReported, RunReported
from steplog.engine.operations import EventOut
from steplog.engine.recent import KEPT_MS
from steplog.engine.retry import RetryPolicy
from steplog.engine.run import RunHead, StepState
from steplog.errors import LogUnavailable
from steplog.log.broker import BrokerError, Place, Produced
from steplog.log.kafka import KafkaLog
from steplog.log.memory import MemoryTable
from steplog.log.redo import decode_redo
from steplog.log.topics import EVENTS, INBOX, JOURNAL, REDO, STATE
from steplog.partitions import Partitions

from . import scripts
from .broker import MISSING, Cluster, Connection, Transaction, Troubles
from .driver import Driver
from .plans import CHILDREN, ROOMY_BYTES, ROOTS, START_MS, Group, Plan, draw, draw_event
from .scripts import SECOND, Call, Gather, Listen, Nap, Node, Put, Race, Step, Wait
from .scripts import Sequence as InOrder
from .told import Told
from .watch import Broken, Waiting, Watch
from .world import Report

CALM_S, REST_S = 60.0, 10_000.0  # troubles until then; and how long it may take to come to rest afterwards
QUIET_S = 1_000.0  # longer than anything waits; without a commit for so long, it hangs
TOMBSTONES_MS = 15_000
MOST_REDO = 30
NO_NUMBER = -1  # of events that the engine sends
ANSWERED, MOST_ANSWERED = 0.8, 15  # of the waits; each event may start runs that wait as well
SLACK_MS = 100_000  # longer than a process may be away, and its partitions with it
LONG_MS = 200_000  # the longer of two time-outs of waits for events
IDLE_S = 2.0  # between two signs of life
PUTS = "147"  # how the ids of steps end that write to topics of others instead
FASTER = 1_000  # naps and time-outs are so much shorter than in the other simulation
_decode_event = msgspec.json.Decoder(records.StoredEvent).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_record = msgspec.json.Decoder(records.Record).decode


def simulate_cluster(seed: int, *, trace: Callable[[str], None] | None = None) -> Report:
    """Run one simulation; raises ``Broken`` where a promise does not hold."""
    world = World(seed, trace)
    loop = VirtualLoop()
    loop.set_exception_handler(world.failed_outside)
    try:
        return loop.run_until_complete(world.run())
    except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - raised again, by its cause
        error = world.first_of(raised)
        error.add_note(f"cluster seed {seed}; alone and traced: python -m tests.simulation --cluster {seed}")
        raise error from None
    finally:
        loop.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes at once."""

    def __init__(self) -> None:
        super().__init__(_Clock())
        self._clock_resolution = 1e-9

    def time(self) -> float:
        clock = self._selector  # type: ignore[attr-defined]  # asyncio's own
        assert isinstance(clock, _Clock)
        return clock.now_s


class _Clock(selectors.SelectSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nobody waits for anything, and it is not over"
        self.now_s += timeout
        return []


class ClusterWatch(Watch):
    """What the cluster promises. Messages between partitions take their time, so waits end later than their event.

    Each event is routed once (P2), whoever dies. One that was written after a wait was committed ends it, unless the
    time of the wait is up within ``SLACK_MS`` of that. A wait that looks back is ended by the first, in the order of
    receipt, of those that were written before it was committed and came after its trigger (G1). A failure is told once,
    by an event that is written in the commit of the failure.
    """

    def __init__(self, *, retries: dict[str, int], live_runs: int, lost_allowance: int) -> None:
        super().__init__(retries=retries, live_runs=live_runs, lost_allowance=lost_allowance, is_roomy=True)
        self.told = self._untold_yet = Untold(self.expect)
        self.written: dict[str, int] = {}  # internal id → when
        self.routed: set[str] = set()
        self._written_now: list[records.StoredEvent] = []
        self.waits: Callable[[records.StepWaiting], None] = lambda _: None  # told of each wait for an event
        self.scheduled: Callable[[records.RunScheduled], None] = lambda _: None  # told of each run
        self._offsets: dict[str, tuple[int, int]] = {}  # internal id → partition, offset
        self._triggers: dict[str, records.StoredEvent] = {}  # run → what has started it
        self._before: dict[tuple[str, str], list[records.StoredEvent]] = {}  # waits → what came before, in order
        self._missed: dict[tuple[str, str], list[tuple[int, records.StoredEvent]]] = {}  # waits → when, what came

    def produced(self, values: list[str], written: list[bytes]) -> None:
        """Records of other topics are written in the transaction that records their steps."""
        found = [_decode_record(record) for record in written]
        steps = [f"{r.run} {r.step}" for r in found if isinstance(r, records.StepCompleted) and r.op == "Produce"]
        self.expect(sorted(values) == sorted(steps), "produce", f"{steps} are recorded, and {values} written")

    def wrote(self, event: bytes, partition: int, offset: int) -> None:
        """An event is in its topic."""
        stored = _decode_event(event)
        if stored.internal_id in self.written:  # a sender that has had no answer
            return
        self.written[stored.internal_id] = self.now_ms
        self._offsets[stored.internal_id] = partition, offset
        self._events[stored.internal_id] = stored
        for key in self._waiting:
            if self._fits(key, stored):
                self._missed.setdefault(key, []).append((self.now_ms, stored))
                self.kinds["event for a wait"] += 1

    def changed(self, changes: dict[bytes, bytes | None], journal: Sequence[bytes]) -> None:
        """One partition's part of a transaction is committed."""
        for data in journal:
            self._read(_decode_record(data))
        self._due.clear()
        self.kinds["turn with mail"] += any(key[0] == keys.MAIL for key in changes)
        for run in self._change(changes):
            self._check_run(run)
            if keys.run_id_of(run) in self._by_id:
                self._check_retries(run, self.now_ms)

    def _has_lost(self, started: records.RunStarted) -> bool:
        """Whether a run goes on some time after it has lost a process, or again after that."""
        head = self.state.get(keys.run(DEFAULT_ENV, decode_ulid(started.run)))
        return head is not None and msgspec.json.decode(head, type=RunHead).lost > 0

    def _read(self, record: records.Record) -> None:
        if isinstance(record, records.RunStarted) and (
            record.reason in ("lost", "handed-back") or self._has_lost(record)
        ):
            self.hit(record.run)  # whoever has executed it may not have noticed yet
        super()._read(record)
        if isinstance(record, records.RunScheduled):
            self._triggers[record.run] = self._events[record.events[0]]
            self.scheduled(record)

    def _route(self, routed: records.EventRouted) -> None:
        event = self._events.get(routed.event)
        self.expect(event is not None, "P2", f"{routed.event} is routed, and was not written")
        assert event is not None, "expected above"
        self.expect(routed.event not in self.routed, "P2", f"{routed.event} is routed twice")
        self.routed.add(routed.event)
        self._arrived.append(event)
        self._start(event, routed)

    def _wait(self, record: records.StepWaiting) -> None:
        key = (record.run, record.step)
        if key in self._waiting:  # it has looked back, and found that something is missing
            is_old = self._triggers[record.run].received_at < self._waiting[key].record.at - KEPT_MS
            self.expect(record.cut is msgspec.UNSET or is_old, "G1", f"{key} looks back to {record.cut} only")
            self.kinds["condition failed before"] += record.failed is not msgspec.UNSET
            return
        self._waiting[key] = Waiting(record)
        if record.events is msgspec.UNSET:
            return
        if record.since is not msgspec.UNSET:
            fitting = [event for event in self._events.values() if self._fits(key, event)]
            self._before[key] = sorted([e for e in fitting if e.received_at >= record.at - KEPT_MS], key=_receipt)
        self.waits(record)

    def number_for(self, record: records.StepWaiting) -> int:
        """The number of an event that a wait goes on with."""
        return self.runs[record.run].number - (record.expression == scripts.SMALLER)

    def _refused(self, record: records.StepFailed, signal: str) -> None:
        """Who else waited when the owner of the signal decided may be over by now."""

    def _end_wait(self, record: records.StepCompleted) -> None:
        key = (record.run, record.step)
        waiting, missed = self._waiting.pop(key, None), self._missed.pop(key, [])
        before = self._before.pop(key, [])
        if waiting is None or record.op != "WaitForEvent":
            return
        output, wanted = msgspec.json.decode(record.output), waiting.record
        if output is None:
            self.expect(record.at >= wanted.until, "F4", f"{record.step} of {record.run} wakes early")
            came = {event.name for event in before}
            is_met = came >= set(wanted.events or ()) if wanted.all is True else bool(came)
            self.expect(not is_met, "G1", f"{record.step} of {record.run} times out, though {came} came before")
            early = came | {event.name for at_ms, event in missed if at_ms < wanted.until - SLACK_MS}
            is_met = early >= set(wanted.events or ()) if wanted.all is True else bool(early)
            self.expect(not is_met, "STEP-12", f"{record.step} of {record.run} times out, though {early} came")
            self.kinds["wait timed out"] += 1
            return
        self._expect_order(record, wanted, [event for _, event in missed])
        for seen in output if wanted.all is True else [output]:
            events = [e for e in self._events.values() if (e.id, e.name) == (seen["id"], seen["name"])]
            events = [event for event in events if self._fits(key, event, waiting)]
            self.expect(
                bool(events), "STEP-08", f"{record.step} of {record.run} goes on with {seen}, which it does not want"
            )
            first = [event for event in before if event.name == seen["name"] or wanted.all is not True][:1]
            is_first = not first or min(map(_receipt, events)) <= _receipt(first[0])
            self.expect(is_first, "G1", f"{record.step} of {record.run} goes on with {seen}, and {first} came before")
        self.kinds["wait ended by an event"] += 1
        self.kinds["wait ended by what came before"] += bool(before)

    def _expect_order(
        self, record: records.StepCompleted, wanted: records.StepWaiting, came: Sequence[records.StoredEvent]
    ) -> None:
        """Events of one partition that came after a wait end it in their order, where it does not look back."""
        if wanted.since is not msgspec.UNSET:
            return
        first: dict[tuple[int, str], str] = {}  # partition, name → id
        later: set[tuple[str, str]] = set()  # id, name
        for event in sorted(came, key=lambda event: self._offsets[event.internal_id]):
            partition, _ = self._offsets[event.internal_id]
            if first.setdefault((partition, event.name), event.id) != event.id:
                later.add((event.id, event.name))
        later -= {(id_, name) for (_, name), id_ in first.items()}
        output = msgspec.json.decode(record.output)
        for seen in output if wanted.all is True else [output]:
            is_first = (seen["id"], seen["name"]) not in later
            self.expect(is_first, "STEP-12", f"{record.step} of {record.run} goes on with {seen}, others were first")

    def _fits(self, key: tuple[str, str], event: records.StoredEvent, waiting: Waiting | None = None) -> bool:
        record = (waiting or self._waiting[key]).record
        if record.events is msgspec.UNSET or event.name not in record.events:
            return False
        if not self._is_later(event, self._triggers[key[0]], record):
            return False
        number, own = self._number(event), self.runs[key[0]].number
        match record.expression:
            case scripts.FAILING:
                return False
            case scripts.SAME:
                return number == own != NO_NUMBER
            case scripts.SMALLER:
                return NO_NUMBER < number < own
            case _:
                return True

    def _is_later(self, event: records.StoredEvent, trigger: records.StoredEvent, wait: records.StepWaiting) -> bool:
        """Whether an event came after a trigger: behind it in its partition; not received before it, if that counts."""
        (partition, offset), (its, after) = self._offsets[event.internal_id], self._offsets[trigger.internal_id]
        is_received_later = wait.since is msgspec.UNSET or event.received_at >= trigger.received_at
        return is_received_later and (partition != its or offset > after)

    def _check_index(self, run: bytes) -> None:
        """The index may be in another partition: messages are on their way. At rest nothing may be left in it."""

    def _left(self, run: bytes) -> set[bytes]:
        return set()

    def _is_answered(self, steps: Iterable[StepState]) -> bool:
        return any(step.state == "waiting" and step.op == "SendSignal" for step in steps)

    @property
    def are_routed(self) -> bool:
        """Whether every event was routed."""
        return self.written.keys() == self.routed

    def at_rest(self) -> None:
        """Every event was routed, every failure told, and nothing is left."""
        lost = self.written.keys() - self.routed
        self.expect(not lost, "P2", f"{len(lost)} events were not routed")
        told = [event.id for event in self._events.values() if event.name == FAILED_EVENT]
        self.expect(sorted(told) == sorted(self._untold_yet.failed), "ERR-13", f"{told} of {self._untold_yet.failed}")
        for key in [key for key in self.state if key[0] == keys.NODE]:
            del self.state[key]
        super().at_rest()


def _receipt(event: records.StoredEvent) -> tuple[int, str]:
    """What the order of events is by."""
    return event.received_at, event.internal_id


class Untold(Told):
    """Which failures are to be told. What is told in one commit, and which versions there are, is one partition's."""

    def __init__(self, expect: Callable[[bool, str, str], None]) -> None:
        super().__init__(expect)
        self._quiet_runs: set[str] = set()
        self.failed: list[str] = []  # runs

    def scheduled(self, record: records.RunScheduled, event: str) -> None:
        if event in (FAILED_EVENT, FINISHED_EVENT):
            self._quiet_runs.add(record.run)

    def ended(self, record: records.RunCompleted | records.RunFailed) -> None:
        if isinstance(record, records.RunFailed) and record.run not in self._quiet_runs:
            self.failed.append(record.run)


class Cache:
    """A partition's table on the disk of one process (``log/kafka.py``)."""

    def __init__(self) -> None:
        self._before: list[tuple[bytes, bytes | None]] = []  # under the overlay
        self.clear()

    def write(self, pairs: list[tuple[bytes, bytes | None]], offset: int, as_of_ms: int) -> None:
        for key, value in pairs:
            self.table.write(key, value)
        self.offset, self.as_of_ms, self._before = offset, as_of_ms, []

    def overlay(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        self._before = [(key, self.table.get(key)) for key, _ in pairs]
        for key, value in pairs:
            self.table.write(key, value)

    def uncover(self) -> None:
        for key, value in self._before:
            self.table.write(key, value)
        self._before = []

    def clear(self) -> None:
        self.table, self.offset, self.as_of_ms = MemoryTable(), 0, 0
        self._before = []


class World:
    """Everything that happens under one seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None) -> None:
        self.seed, self.trace = seed, trace
        self.chance = chance = Random(seed)
        self.plan = _faster(draw(chance))
        self.partitions = chance.choice((1, 2, 2, 3, 5))
        self.evict_after_ms = self.plan.evict_after_ms
        self.watch = ClusterWatch(
            retries={f.id: f.retries for f in self.plan.functions},
            live_runs=self.plan.config.live_runs * self.partitions,
            lost_allowance=self.plan.config.lost_allowance,
        )
        self.counts: Counter[str] = Counter()
        troubles = Troubles(
            fails_before=chance.choice((0, 0.002, 0.01)), fails_after=chance.choice((0, 0.002, 0.01)),
            refuses=0.1, stalls=chance.choice((0, 0, 0.0005)), slow_s=chance.choice((0.001, 0.01, 0.1)),
            lands_s=chance.choice((0.0, 0.3, 3.0)), reading_stalls=chance.choice((0, 0, 0.02)),
        )  # fmt: skip
        self.cluster = Cluster(chance, self.partitions, troubles, self.fired)
        self.watch.waits, self.watch.scheduled = self._answer, self._hurry
        self.cluster.appended, self.cluster.committed = self._appended, self._committed
        self.spent: Counter[tuple[str, str]] = Counter()
        self._event_partitions: dict[str, int] = {}
        self.is_calm = False
        self._processes = [Process(self, f"node-{n}") for n in range(chance.choice((1, 2, 3)))]
        self._events = 0
        self._committed_s = CALM_S
        self._sending: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None

    def failed_outside(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something has failed in a callback, which nobody awaits."""
        if self._error is None:
            self._error = context.get("exception") or RuntimeError(context["message"])
            if self._main is not None:
                self._main.cancel()

    def first_of(self, raised: BaseException) -> BaseException:
        """What went wrong first."""
        while isinstance(raised, BaseExceptionGroup):
            raised = raised.exceptions[0]
        return raised if self._error is None or isinstance(raised, Broken) else self._error

    async def run(self) -> Report:
        self._main = asyncio.current_task()
        chance, loop = self.chance, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            for process in self._processes:
                loop.call_later(chance.random() * chance.choice((0.0, 20.0)), process.start)
            groups = [group for _, group in self.plan.groups]
            more = [draw_event(chance, START_MS, ["more-1", "more-2"]) for _ in range(chance.choice((0, 10, 30)))]
            groups += [Group([event]) for event in more]
            senders = [tasks.create_task(self._send(_now(group), chance.random() * CALM_S * 0.8)) for group in groups]
            for _ in range(chance.choice((0, 0, 1, 2, 6))):
                victim = chance.choice(self._processes)
                loop.call_later(chance.random() * CALM_S, victim.kill, "crash at any moment")
            if chance.random() < 0.5:
                compacting = tasks.create_task(self._compact())
                loop.call_later(CALM_S, compacting.cancel)
            await asyncio.wait(senders)
            await asyncio.sleep(max(0.0, CALM_S - loop.time()))
            self.is_calm = self.cluster.is_calm = True
            for process in self._processes:
                process.start()
            until_s = loop.time() + REST_S
            while not self._is_at_rest() and loop.time() < min(until_s, self._committed_s + QUIET_S):
                await asyncio.sleep(1.0)
            for process in self._processes:
                process.stop()
        self.watch.at_rest()
        return Report(self.seed, self.counts["transaction"], len(self.watch.runs), self.counts, self.watch.kinds)

    def fired(self, kind: str) -> None:
        self.counts[kind] += 1
        if kind != "transaction":
            self.say(f"--- {kind}")

    def say(self, what: str, *details: object) -> None:
        if self.trace is not None:
            shown = [d.decode(errors="replace") if isinstance(d, bytes) else str(d) for d in details]
            now_s = asyncio.get_running_loop().time()
            self.trace("\n".join([f"{now_s:>10.3f} {what}", *[f"{'':12}{line}" for line in shown]]))

    @property
    def now_ms(self) -> int:
        now_ms = START_MS + int(asyncio.get_running_loop().time() * 1000)
        self.watch.now_ms = now_ms
        return now_ms

    def _is_at_rest(self) -> bool:
        watch = self.watch
        are_routed = watch.are_routed and all(sending.done() for sending in self._sending)
        is_open = any(run.ended is None for run in watch.runs.values())
        is_left = any(key[0] not in (keys.SEEN, keys.PATH, keys.NODE, keys.FUNCTION) for key in watch.state)
        return are_routed and not is_open and not is_left

    async def _send(self, group: Group, after_s: float) -> None:
        """Send events until it is answered; an answer that is lost makes it send again."""
        connection = Connection(self.cluster, "sender")
        await asyncio.sleep(after_s)
        internal = [self._internal_id(group, index) for index in range(len(group.events))]
        while True:
            now_ms = self.now_ms
            events = [
                accept_event(
                    event, internal[index], env=DEFAULT_ENV, received_ms=now_ms, source="simulation", is_seeded=True
                )
                for index, event in enumerate(group.events)
            ]
            log = KafkaLog(
                connection, "sender", lambda _: Cache(), partitions=self.partitions, now_ms=lambda: self.now_ms,
                tombstones_ms=TOMBSTONES_MS,
            )  # fmt: skip
            try:
                await log.append(events)
                return
            except BrokerError:
                self.fired("event sent again")
                internal = [self._internal_id(group, index) for index in range(len(group.events))]

    def _internal_id(self, group: Group, index: int) -> bytes:
        self._events += 1
        return ulid(self.now_ms, self._events.to_bytes(10, "big"))

    def _answer(self, waiting: records.StepWaiting) -> None:
        """Somebody has seen that a step waits, and sends what it waits for at once."""
        number = self.watch.number_for(waiting)
        is_done = self.is_calm or self.counts["wait answered"] >= MOST_ANSWERED
        if is_done or number <= NO_NUMBER or self.chance.random() > ANSWERED:
            return
        self.fired("wait answered")
        assert waiting.events is not msgspec.UNSET, "it waits for an event"
        self._send_soon(self.chance.choice(waiting.events), number)

    def _hurry(self, scheduled: records.RunScheduled) -> None:
        """What a run may come to wait for is sent as soon as the run is there."""
        number = self.watch.runs[scheduled.run].number - self.chance.choice((0, 0, 1))
        is_done = self.is_calm or self.counts["event before a wait"] >= MOST_ANSWERED
        if is_done or number <= NO_NUMBER or self.chance.random() > ANSWERED:
            return
        self.fired("event before a wait")
        self._send_soon(self.chance.choice((*ROOTS, *CHILDREN)), number)

    def _send_soon(self, name: str, number: int) -> None:
        group = Group([EventOut(name=name, data=b'{"n":%d}' % number)])
        self._sending.add(self.tasks.create_task(self._send(group, self.chance.random() ** 3)))

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(self.chance.random() * 10)
            for partition in range(self.partitions):
                self.cluster.compact(Place(STATE, partition), keep_tombstones_s=TOMBSTONES_MS / 1000)
            self.fired("compaction")

    def _appended(self, produced: Sequence[Produced]) -> None:
        for record in produced:
            if record.place.topic == EVENTS and record.value is not None:
                self._wrote(record.place, record.value)

    def _wrote(self, place: Place, value: bytes) -> None:
        log = self.cluster.log(place)
        offset = next(at for at in range(len(log) - 1, -1, -1) if log[at].value is value)
        self._event_partitions[_decode_event(value).internal_id] = place.partition
        self.watch.wrote(value, place.partition, offset)

    def _committed(self, transaction: Transaction) -> None:
        """A transaction is decided: its parts are checked, one partition after the other."""
        self.fired("transaction")
        self._committed_s = asyncio.get_running_loop().time()
        changes: dict[int, dict[bytes, bytes | None]] = {}
        journal: dict[int, list[bytes]] = {}
        produced: list[str] = []
        met = 0
        for place, entry in self.cluster.records_of(transaction):
            if place.topic == REDO and entry.value is not None:
                redo = decode_redo(entry.value)
                changes.setdefault(redo.partition, {}).update(redo.changes)
            elif place.topic == JOURNAL and entry.value is not None:
                journal.setdefault(self._partition_of(entry.value), []).append(entry.value)
            elif place.topic == EVENTS and entry.value is not None:
                self._wrote(place, entry.value)
            elif place.topic == INBOX and entry.value is not None:
                met += isinstance(_decode_message(entry.value), EventMet)
            elif place.topic.startswith("/") and entry.value is not None:
                produced.append(entry.value.decode())
                self.watch.expect(place.topic != f"/{MISSING}", "produce", f"{produced[-1]} is written to no topic")
        self.watch.produced(produced, [record for records_ in journal.values() for record in records_])
        most = self.plan.config.met_per_turn * len(changes)
        self.watch.expect(met <= most, "limit", f"{met} waits were held against events, at most {most} may be")
        for partition, made in changes.items():
            self.say(f"{transaction.name} commits {partition}", *journal.get(partition, ()))
            self.watch.changed(made, journal.get(partition, ()))

    def _partition_of(self, record: bytes) -> int:
        """The partition whose turn has a record of the journal."""
        told = _decode_record(record)
        if isinstance(told, records.EventRouted):
            return self._event_partitions[told.event]
        return run_slot(decode_ulid(told.run)) % self.partitions


class Process:
    """One process: its partitions, its driver."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self._life = 0
        self._task: asyncio.Task[None] | None = None
        self._driver: Driver | None = None
        self._caches: dict[int, Cache] = {}
        self.watch: Watch = world.watch
        self.evict_after_ms = world.evict_after_ms

    def start(self) -> None:
        if self._task is not None:
            return
        world = self._world
        log = KafkaLog(
            Connection(world.cluster, self._name), self._name, self._cache, partitions=world.partitions,
            now_ms=lambda: world.now_ms, tombstones_ms=TOMBSTONES_MS, most_redo=MOST_REDO,
        )  # fmt: skip
        reader = Connection(world.cluster, f"{self._name}-reader", is_reader=True)
        registry, plan = Registry(world.plan.functions), world.plan
        self._driver = driver = Driver(self, plan.scripts)
        self._partitions = Partitions(
            log, reader, registry, plan.config, world.partitions, deliver=self._deliver, on_lost=self._lose,
            limits=plan.limits, idle_s=IDLE_S, poll_s=IDLE_S, clocks=lambda: (world.now_ms, world.now_ms),
        )  # fmt: skip
        self._driver = driver
        self._task = world.tasks.create_task(self._partitions.run())

    def stop(self) -> None:
        if self._task is not None:
            self._end(self._task)

    def _end(self, task: "asyncio.Task[None]") -> None:
        """Let it do nothing more, not even what it would do before it stops in order."""
        task.cancel()
        if self._partitions._committing is not None:
            self._partitions._committing.cancel()

    def kill(self, why: str) -> None:
        """End the process: what it held, executed and was told is gone; what it left open hangs."""
        if self._task is None:
            return
        world = self._world
        world.fired(why)
        self._life += 1
        self._end(self._task)
        self._task, self._driver = None, None
        world.watch.hit()
        if world.chance.random() < 0.3:
            self._caches.clear()  # another machine
        asyncio.get_running_loop().call_later(world.chance.choice((0.0, 1.0, 30.0)), self.start)

    # --- what its driver needs (ports.py)

    @property
    def now_ms(self) -> int:
        return self._world.now_ms

    def body(self, end: Callable[[], None]) -> None:
        self._later(self._world.chance.choice((0, 1, 5, 200, 3_000)), end)

    def report(self, run: bytes, message: OfRun) -> None:
        chance, plan = self._world.chance, self._world.plan
        self._later(0, lambda: self._partitions.post_to_runs([message]))
        if isinstance(message, OpReported | RunReported) and chance.random() < plan.repeat_chance:
            self._world.fired("end reported twice" if isinstance(message, RunReported) else "step reported twice")
            self._later(chance.choice((0, 5, 5_000)), lambda: self._partitions.post_to_runs([message]))

    def takes_from(self, run_id: str, name: str, times: int) -> bool:
        self._world.spent[run_id, name] += 1
        return self._world.spent[run_id, name] <= times

    def fired(self, kind: str) -> None:
        self._world.fired(kind)

    def _later(self, ms: int, action: Callable[[], None]) -> None:
        life = self._life
        asyncio.get_running_loop().call_later(ms / 1000, lambda: action() if self._life == life else None)

    def _deliver(self, effects: list[Effect]) -> None:
        driver = self._driver
        self._later(0, lambda: driver.handle(effects) if driver is not None and driver is self._driver else None)

    def _lose(self, partitions: Collection[int], why: LogUnavailable | None) -> None:
        """The partitions are not ours any more, or are read back: bodies go on, for nothing."""
        self._world.fired("partitions dropped")
        driver = self._driver
        if driver is not None:
            driver.abandon(lambda run: run_slot(run_id_of(run)) % self._world.partitions in partitions)
        self._world.watch.hit()

    def _cache(self, partition: int) -> Cache:
        return self._caches.setdefault(partition, Cache())


def _faster(plan: Plan) -> Plan:
    """The same functions, in less time."""
    return msgspec.structs.replace(
        plan,
        functions=tuple(
            msgspec.structs.replace(f, triggers=tuple(t for t in f.triggers if isinstance(t, EventTrigger)))
            for f in plan.functions
        ),
        config=msgspec.structs.replace(
            plan.config, retry=RetryPolicy(interval_ms=1_000), kept_bytes=ROOMY_BYTES, can_produce=True
        ),
        scripts={name: _script(node) for name, node in plan.scripts.items()},
    )


def _now(group: Group) -> Group:
    return Group([msgspec.structs.replace(event, ts=None) for event in group.events])


def _script(node: Node) -> Node:
    replace: Callable[..., Node] = msgspec.structs.replace
    match node:
        case Nap(ms=ms):
            return replace(node, ms=ms // FASTER)
        case Listen(timeout_ms=ms) | Call(timeout_ms=ms):
            return replace(node, timeout_ms=ms // FASTER + 500)
        case Wait(timeout_ms=ms):
            return replace(node, timeout_ms=LONG_MS if ms >= SECOND else ms + 500)
        case Step(failures=0, kills=0, is_caught=is_caught) if node.id[-1] in PUTS:
            return Put(id=node.id, topic="ledger" if is_caught else MISSING)
        case Step(retry_after_ms=int(ms)):
            return replace(node, retry_after_ms=ms // FASTER)
        case InOrder(nodes=nodes):
            return InOrder(tuple(map(_script, nodes)))
        case Gather(branches=nodes):
            return Gather(tuple(map(_script, nodes)))
        case Race(branches=nodes):
            return Race(tuple(map(_script, nodes)))
        case _:
            return node
