"""Several processes, one simulated Kafka, and everything that goes wrong between them, in virtual time.

``simulate_cluster(seed)`` runs the code that real processes run (``steplog/partitions.py``, ``log/kafka.py``) over
``broker.py``: processes crash, stall, join and leave, calls fail or lose their answer. Then it lets everything come to
rest and checks that nothing is left, and that every event was routed once.
"""

import asyncio
import selectors
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import msgspec

from steplog.engine import keys, records
from steplog.engine.effects import Effect
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, Registry
from steplog.engine.ids import ulid
from steplog.engine.messages import EventAccepted, Message, OpReported, RunReported
from steplog.engine.retry import RetryPolicy
from steplog.engine.run import StepState
from steplog.log.broker import BrokerError, Place, Produced
from steplog.log.kafka import EVENTS, JOURNAL, STATE, KafkaLog
from steplog.log.memory import MemoryTable
from steplog.partitions import Partitions

from .broker import Cluster, Connection, Transaction, Troubles
from .driver import Driver
from .plans import START_MS, Group, Plan, draw
from .scripts import Call, Gather, Listen, Nap, Node, Race, Step, Wait
from .scripts import Sequence as InOrder
from .watch import Watch
from .world import Report

CALM_S, REST_S = 120.0, 900.0  # troubles until then; and how long it may take to come to rest afterwards
TOMBSTONES_MS = 60_000
FASTER = 1_000  # naps and time-outs are so much shorter than in the other simulation
_decode_event = msgspec.msgpack.Decoder(EventAccepted).decode


def simulate_cluster(seed: int, *, trace: Callable[[str], None] | None = None) -> Report:
    """Run one simulation; raises ``Broken`` where a promise does not hold."""
    world = World(seed, trace)
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(world.run())
    except Exception as error:
        error.add_note(f"cluster seed {seed}; alone and traced: python -m tests.simulation --cluster {seed}")
        raise
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
    """What the cluster promises. Messages between partitions take their time, so waits end later than their event."""

    def __init__(self, *, retries: dict[str, int], live_runs: int) -> None:
        super().__init__(retries=retries, live_runs=live_runs)
        self.written: dict[str, records.StoredEvent] = {}

    def wrote(self, event: EventAccepted) -> None:
        """An event is in its topic."""
        stored = msgspec.json.decode(event.body, type=records.StoredEvent)
        self.written[stored.internal_id] = self._events[stored.internal_id] = stored

    def changed(self, changes: dict[bytes, bytes | None], journal: Sequence[bytes]) -> None:
        """One partition's part of a transaction is committed."""
        for data in journal:
            self._read(msgspec.json.decode(data, type=records.Record))
        self._due.clear()
        for run in self._change(changes):
            self._check_run(run)
        self.expect(max(self._routed.values(), default=0) <= 1, "P2", "an event was routed twice")

    def _hear(self, record: records.StepCompleted) -> None:
        """Whoever heard the signal does so in a transaction of its own."""

    def _is_answered(self, steps: Iterable[StepState]) -> bool:
        return any(step.state == "waiting" and step.op == "SendSignal" for step in steps)

    @property
    def are_routed(self) -> bool:
        return self.written.keys() == self._routed.keys()

    def at_rest(self) -> None:
        """Every event was routed, and nothing is left."""
        lost = self.written.keys() - self._routed.keys()
        self.expect(not lost, "P2", f"{len(lost)} events were not routed")
        for key in [key for key in self.state if key[0] == keys.NODE]:
            del self.state[key]
        super().at_rest()


class Cache:
    """A partition's table on the disk of one process (``log/kafka.py``)."""

    def __init__(self) -> None:
        self.clear()

    def write(self, pairs: list[tuple[bytes, bytes | None]], offset: int, as_of_ms: int) -> None:
        for key, value in pairs:
            self.table.write(key, value)
        self.offset, self.as_of_ms = offset, as_of_ms

    def clear(self) -> None:
        self.table, self.offset, self.as_of_ms = MemoryTable(), 0, 0


class World:
    """Everything that happens under one seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None) -> None:
        self.seed, self.trace = seed, trace
        self.chance = chance = Random(seed)
        self.plan = _faster(draw(chance))
        self.partitions = chance.choice((1, 2, 3, 5))
        self.evict_after_ms = self.plan.evict_after_ms
        self.watch = ClusterWatch(
            retries={f.id: f.retries for f in self.plan.functions},
            live_runs=self.plan.config.live_runs * self.partitions,
        )
        self.counts: Counter[str] = Counter()
        troubles = Troubles(
            fails_before=chance.choice((0, 0.002, 0.01)), fails_after=chance.choice((0, 0.002, 0.01)),
            stalls=chance.choice((0, 0, 0.0005)), slow_s=chance.choice((0.001, 0.01, 0.1)),
            lands_s=chance.choice((0.0, 0.05, 2.0)),
        )  # fmt: skip
        self.cluster = Cluster(chance, self.partitions, troubles, self.fired)
        self.cluster.appended, self.cluster.committed = self._appended, self._committed
        self.spent: Counter[tuple[str, str]] = Counter()
        self.is_calm = False
        self._processes = [Process(self, f"node-{n}") for n in range(chance.choice((1, 2, 3)))]
        self._events = 0

    async def run(self) -> Report:
        chance, loop = self.chance, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self.tasks = tasks
            for process in self._processes:
                loop.call_later(chance.random() * chance.choice((0.0, 20.0)), process.start)
            senders = [tasks.create_task(self._send(group)) for _, group in self.plan.groups]
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
            while not self._is_at_rest() and loop.time() < until_s:
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
        are_routed = watch.are_routed
        is_open = any(run.ended is None for run in watch.runs.values())
        is_left = any(key[0] not in (keys.SEEN, keys.PATH, keys.NODE) for key in watch.state)
        return are_routed and not is_open and not is_left

    async def _send(self, group: Group) -> None:
        """Send events until it is answered; an answer that is lost makes it send again."""
        connection, chance = Connection(self.cluster, "sender"), self.chance
        await asyncio.sleep(chance.random() * CALM_S * 0.8)
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
                connection, "sender", lambda _: Cache(), now_ms=lambda: self.now_ms, tombstones_ms=TOMBSTONES_MS
            )
            try:
                await log.append(events, self.partitions)
                return
            except BrokerError:
                self.fired("event sent again")
                internal = [self._internal_id(group, index) for index in range(len(group.events))]

    def _internal_id(self, group: Group, index: int) -> bytes:
        self._events += 1
        return ulid(self.now_ms, self._events.to_bytes(10, "big"))

    async def _compact(self) -> None:
        while True:
            await asyncio.sleep(self.chance.random() * 30)
            for partition in range(self.partitions):
                self.cluster.compact(Place(STATE, partition), keep_tombstones_s=TOMBSTONES_MS / 1000)
            self.fired("compaction")

    def _appended(self, produced: Sequence[Produced]) -> None:
        for record in produced:
            if record.place.topic == EVENTS and record.value is not None:
                self.watch.wrote(_decode_event(record.value))

    def _committed(self, transaction: Transaction) -> None:
        """A transaction is decided: its parts are checked, one partition after the other."""
        self.fired("transaction")
        changes: dict[int, dict[bytes, bytes | None]] = {}
        journal: dict[int, list[bytes]] = {}
        for place, entry in self.cluster.records_of(transaction):
            if place.topic == STATE:
                changes.setdefault(place.partition, {})[entry.key] = entry.value
            elif place.topic == JOURNAL and entry.value is not None:
                journal.setdefault(place.partition, []).append(entry.value)
            elif place.topic == EVENTS and entry.value is not None:
                self.watch.wrote(_decode_event(entry.value))
        for partition, changed in changes.items():
            self.say(f"{transaction.name} commits {partition}", *journal.get(partition, ()))
            self.watch.changed(changed, journal.get(partition, ()))


class Process:
    """One process: its partitions, its driver."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self._life = 0
        self._task: asyncio.Task[None] | None = None
        self._driver: Driver | None = None
        self._caches: dict[int, Cache] = {}
        self.watch, self.evict_after_ms = world.watch, world.evict_after_ms

    def start(self) -> None:
        if self._task is not None:
            return
        world = self._world
        log = KafkaLog(
            Connection(world.cluster, self._name), self._name, self._cache, now_ms=lambda: world.now_ms,
            tombstones_ms=TOMBSTONES_MS,
        )  # fmt: skip
        registry, plan = Registry(world.plan.functions), world.plan
        self._driver = driver = Driver(self, plan.scripts)
        self._partitions = Partitions(
            log, registry, plan.config, world.partitions, now_ms=lambda: world.now_ms, deliver=self._deliver,
            on_lost=self._lose, limits=plan.limits,
        )  # fmt: skip
        self._driver = driver
        self._task = world.tasks.create_task(self._partitions.run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def kill(self, why: str) -> None:
        """End the process: what it held, executed and was told is gone; what it left open hangs."""
        if self._task is None:
            return
        world = self._world
        world.fired(why)
        self._life += 1
        self._task.cancel()
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

    def report(self, run: bytes, message: Message) -> None:
        chance, plan = self._world.chance, self._world.plan
        self._later(0, lambda: self._partitions.post(run, message))
        if isinstance(message, OpReported | RunReported) and chance.random() < plan.repeat_chance:
            self._world.fired("end reported twice" if isinstance(message, RunReported) else "step reported twice")
            self._later(chance.choice((0, 5, 5_000)), lambda: self._partitions.post(run, message))

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

    def _lose(self) -> None:
        """The partitions are not ours any more, or are read back: bodies go on, for nothing."""
        self._world.fired("partitions dropped")
        driver = self._driver
        if driver is not None:
            driver.abandon()
        self._world.watch.hit()

    def _cache(self, partition: int) -> Cache:
        return self._caches.setdefault(partition, Cache())


def _faster(plan: Plan) -> Plan:
    """The same functions, in less time."""
    return msgspec.structs.replace(
        plan,
        config=msgspec.structs.replace(plan.config, retry=RetryPolicy(interval_ms=1_000)),
        scripts={name: _script(node) for name, node in plan.scripts.items()},
        groups=tuple(
            (at_ms, Group([msgspec.structs.replace(e, ts=None) for e in group.events])) for at_ms, group in plan.groups
        ),
    )


def _script(node: Node) -> Node:
    replace: Any = msgspec.structs.replace
    match node:
        case Nap(ms=ms):
            return replace(node, ms=ms // FASTER)
        case Listen(timeout_ms=ms) | Call(timeout_ms=ms):
            return replace(node, timeout_ms=ms // FASTER + 500)
        case Wait(id=step_id, timeout_ms=ms):
            return Nap(id=step_id, ms=ms // FASTER)
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
