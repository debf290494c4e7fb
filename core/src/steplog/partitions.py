"""The partitions that one process of a cluster owns: it takes what waits for them, decides, commits, releases.

While one commit is on its way the next turns are decided. What may fail leaves nothing to repair: everything in memory
is dropped and loaded again, as at a start.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from steplog.clock import PartitionClock, read_clocks
from steplog.engine.draft import Home
from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.ids import run_slot
from steplog.engine.keys import run_id_of
from steplog.engine.messages import Drain, EventsRead, Input, Message, OfRun, OpReported
from steplog.engine.operations import Produce, StepError, error_info
from steplog.engine.processor import LoadedState, Processor, Turn
from steplog.engine.state import Limits
from steplog.errors import LogTruncated, LogUnavailable, NodeReplaced
from steplog.log.broker import BrokerError, OffsetOutOfRange, Replaced
from steplog.log.kafka import KafkaLog
from steplog.log.lookback import Lookback, Reader
from steplog.outage import Outage
from steplog.told import translated

IDLE_S = 1.0  # between two signs of life where nothing comes
POLL_S = 0.1  # between two looks at the group
WATCH_S = 5.0  # between two looks at whether the cluster answers, and reading goes on
SILENT_S = 3.0  # a cluster that says nothing for so long is a problem, before it is an error
SURE_S = 3.0  # a commit that took less has not outlived the session
TRIM_S = 60.0  # between two deletions of what was handled
SHORTEN_S = 5.0  # between two looks at how much redo a start has to read
AGAIN_S = 0.5  # after an error
YIELD_S = 0.005  # others on this loop have their turn after so long
SLICE_MESSAGES = 64  # decided between two looks at the clock
MOST_WAITING = 10_000  # messages of a partition; beyond it nothing more is taken for it


class _Owned:
    """A partition that is loaded here."""

    __slots__ = ("clock", "processor")

    def __init__(self, processor: Processor, clock: PartitionClock) -> None:
        self.processor, self.clock = processor, clock


class Partitions:
    """Decides for the partitions that the group gives it, of ``partitions`` in all.

    ``deliver`` gets the effects of committed turns; ``on_lost`` is told of partitions when what was in flight there is
    dropped, and why; ``on_found`` when all that are owned are loaded. ``reader`` reads events of any partition for
    waits that look back, beside what the log reads. ``on_registry`` is told what every process knows, and says whether
    that has changed which functions there are. ``clocks`` reads the wall clock and a monotonic one, in ms.
    """

    def __init__(
        self, log: KafkaLog, reader: Reader, registry: Registry, config: EngineConfig, partitions: int, *,
        deliver: Callable[[list[Effect]], None], on_lost: Callable[[Collection[int], LogUnavailable | None], None],
        on_found: Callable[[], None] = lambda: None,
        on_registry: Callable[[Mapping[bytes, bytes]], bool] = lambda _: False, limits: Limits = Limits(),
        idle_s: float = IDLE_S, poll_s: float = POLL_S, clocks: Callable[[], tuple[float, float]] = read_clocks,
    ) -> None:  # fmt: skip
        self._log, self._registry, self._config, self._limits = log, registry, config, limits
        self._partitions, self._clocks = partitions, clocks
        self._deliver, self._on_lost, self._on_found = deliver, on_lost, on_found
        self._on_registry = on_registry
        self._idle_s, self._poll_s = idle_s, poll_s
        self._owned: dict[int, _Owned] = {}
        self._lookback = Lookback(
            reader, partitions, answer=self._answer, now_ms=lambda: int(clocks()[0]), most_bytes=config.kept_bytes
        )  # fmt: skip
        self._committing: asyncio.Future[None] | None = None
        self._unchecked: list[tuple[OpReported, Produce]] = []  # records for topics that have to be looked at first
        self._wanted: tuple[int, ...] = ()
        self._is_truncated = False  # what was read last
        self._is_between = True  # two assignments: nothing may be committed
        self._registry_version = 0  # of what was learnt
        self._wake = asyncio.Event()
        self._poll_at_s = self._trim_at_s = self._watch_at_s = self._shorten_at_s = 0.0
        self.has_joined = asyncio.Event()  # the group has said what is owned, and it is loaded
        self._has_committed = asyncio.Event()
        self.problem: str | None = None  # what keeps it from its work
        self._outage = Outage()
        log.on_change(self._wake.set)

    @property
    def owned(self) -> Sequence[int]:
        """The partitions that are loaded here."""
        return tuple(self._owned)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return sum(each.processor.waiting for each in self._owned.values())

    def post(self, slot: int, message: Message) -> bool:
        """Give an owner a message; returns whether it is here. One for another process is dropped."""
        partition = slot % self._partitions
        if partition not in self._owned:
            return False
        self._post({partition: [message]})
        return True

    def post_to_runs(self, messages: Iterable[OfRun]) -> None:
        """Give runs messages, in order."""
        posted: dict[int, list[Message]] = {}
        for message in messages:
            if isinstance(message, OpReported) and isinstance(message.op, Produce):
                self._unchecked.append((message, message.op))
                continue
            partition = self._partition_of(message.run)
            if partition in self._owned:
                posted.setdefault(partition, []).append(message)
        self._post(posted)

    def _post(self, messages: Mapping[int, Sequence[Message]]) -> None:
        """Post to partitions that are here."""
        wall_ms, monotonic_ms = self._clocks()
        for partition, given in messages.items():
            owned = self._owned[partition]
            owned.clock.now_ms(wall_ms=wall_ms, monotonic_ms=monotonic_ms)  # drift is worked off by what has passed
            owned.processor.post(*([translated(m, owned.clock) for m in given] if owned.clock.is_adrift else given))
        self._wake.set()

    def _answer(self, message: EventsRead) -> None:
        self.post_to_runs([message])

    def post_to_all(self, message: Message) -> None:
        """Give every partition that is here a message."""
        for owned in self._owned.values():
            owned.processor.post(message)
        self._wake.set()

    def is_open(self, run: bytes) -> bool | None:
        """Whether a run exists and has not ended; None where that is decided elsewhere."""
        owned = self._owned.get(run_slot(run_id_of(run)) % self._partitions)
        return None if owned is None else owned.processor.engine.runs.is_open(run)

    async def settled(self, run: bytes) -> None:
        """Return when what was decided of a run until now is committed, or dropped."""
        partition = self._partition_of(run)
        while (owned := self._owned.get(partition)) is not None and owned.processor.is_unsettled:
            self._has_committed.clear()
            await self._has_committed.wait()

    async def run(self) -> None:
        """Take part until cancelled. Raises ``LogTruncated`` where needed records are gone, and ``NodeReplaced``."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lookback.run())
            await self._take_part()

    async def _take_part(self) -> None:
        is_new = True
        while True:
            try:
                if is_new:
                    await self._log.renew()
                    if not self._is_between:
                        await self._load(are_ours=True)
                    is_new = False
                await self._look_around()
                if self._is_between:
                    self._wake.clear()
                    await self._idle()
                else:
                    await self._turn()
            except OffsetOutOfRange as error:
                if self._is_truncated:  # as it was read just now
                    raise LogTruncated(str(error)) from error
                self._is_truncated = is_new = True  # unless somebody else had it since, and went on
                await self._give_up(error)
            except Replaced as error:
                if await self._is_replaced():
                    replaced = NodeReplaced(error.name)
                    self._drop(LogUnavailable(str(replaced)), tuple(self._owned))
                    raise replaced from error
                is_new = True  # a cluster that was away may take a member for another one of its name
                await self._give_up(error)
            except BrokerError as error:
                is_new = True
                await self._give_up(error)

    async def _is_replaced(self) -> bool:
        with suppress(BrokerError):  # whoever is replaced hears so again
            return await self._log.is_replaced()
        return False

    async def _give_up(self, error: BrokerError) -> None:
        """Begin again in a moment."""
        unavailable = LogUnavailable(f"Kafka: {error}")
        self._outage.go_on(unavailable)
        self.problem = str(unavailable)
        self._drop(unavailable, tuple(self._owned))
        await asyncio.sleep(AGAIN_S)

    async def finish(self) -> None:
        """Hand back in order what is in flight, in a last commit. ``run`` is over by then.

        Between two assignments nothing may be committed: it is taken as lost, as where the cluster is away.
        """
        if self._is_between:
            return
        for owned in self._owned.values():
            owned.processor.post(Drain())
        with suppress(BrokerError):  # then it is taken as lost, by whoever comes next
            if self._committing is not None:
                await self._committing
                self._release()
            while any(each.processor.has_work(self._now_ms(each)) for each in self._owned.values()):
                await self._decide()
                await self._log.commit(self._seal())
                self._release()

    async def _look_around(self) -> None:
        """Take part in the group, now and then."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._poll_at_s:
            self._poll_at_s = now_s + self._poll_s
            assigned = await self._log.poll()
            if assigned is not None:
                self._is_between = assigned.token is None
                if not self._is_between:
                    self._wanted = assigned.partitions
                    await self._load(are_ours=False)
        if now_s >= self._watch_at_s:
            self._watch_at_s = now_s + WATCH_S
            await self._watch(now_s)
        if now_s >= self._trim_at_s and self._owned and not self._is_between:
            self._trim_at_s = now_s + TRIM_S
            await self._log.trim()
        if now_s >= self._shorten_at_s and self._owned and not self._is_between:
            self._shorten_at_s = now_s + SHORTEN_S
            for partition in await self._log.shorten():
                self._owned[partition].processor.settle()

    async def _watch(self, now_s: float) -> None:
        """See whether the cluster answers, also where nothing happens."""

        def is_silent() -> None:
            self.problem = f"Kafka has not answered for {SILENT_S:.0f} s"

        silent = asyncio.get_running_loop().call_later(SILENT_S, is_silent)
        try:
            self.problem = await self._log.watch(now_s)
        finally:
            silent.cancel()

    async def _load(self, *, are_ours: bool) -> None:
        """Read the partitions that are owned, but those that nobody else has had in between.

        ``are_ours``: what was in flight there was in flight here.
        """
        # It reads the registry: a mark that the log is moved is written before it is asked who is in the group.
        kept = set(await self._log.kept([p for p in self._wanted if p in self._owned]))
        before = self._owned.keys() - kept
        self._drop(None, before)
        missing = [partition for partition in self._wanted if partition not in kept]
        if missing:
            loaded = await self._log.load(missing)
            self._owned |= {p: self._begun(p, loaded[p], are_ours=are_ours or p in before) for p in missing}
        self.has_joined.set()
        if missing:
            self._on_found()

    def _begun(self, partition: int, loaded: LoadedState, *, are_ours: bool) -> _Owned:
        home = Home(partition=partition, partitions=self._partitions, events_return=True)
        processor = Processor(loaded, self._registry, self._config, self._limits, home)
        processor.recover(is_counted=not are_ours)
        processor.engine.learn(self._log.registry)
        wall_ms, monotonic_ms = self._clocks()
        return _Owned(
            processor, PartitionClock(stored_ms=loaded.now_ms, wall_ms=wall_ms, monotonic_ms=monotonic_ms)
        )  # fmt: skip

    def _drop(self, why: LogUnavailable | None, partitions: Collection[int]) -> None:
        """Forget partitions, and what was in flight in them. What others have asked for is answered nevertheless."""
        self._unchecked = [(m, r) for m, r in self._unchecked if self._partition_of(m.run) not in partitions]
        dropped = tuple([partition for partition in partitions if self._owned.pop(partition, None) is not None])
        self._log.release(partitions)
        self._has_committed.set()
        if dropped:
            self._lookback.forget(lambda run: self._partition_of(run) in dropped)
            self._on_lost(dropped, why)

    def _partition_of(self, run: bytes) -> int:
        return run_slot(run_id_of(run)) % self._partitions

    async def _turn(self) -> None:
        """Commit what waits, and decide meanwhile what comes; wait a moment where nothing does."""
        self._wake.clear()  # what comes from now on is seen by the next look
        await self._take()
        await self._decide()
        turns = self._seal()
        if not turns:
            await self._idle()
            return
        began_s = asyncio.get_running_loop().time()
        committing = self._committing = asyncio.ensure_future(self._log.commit(turns))
        committing.add_done_callback(lambda _: self._wake.set())
        try:
            while not committing.done():
                await self._wake.wait()
                self._wake.clear()
                if not committing.done():
                    await self._take()
                    await self._decide()
            await committing
            await self._make_sure(began_s)
        except Exception:  # not where this is cancelled: ``finish`` waits for it
            committing.cancel()
            self._committing = None
            raise
        self._committing = None
        self._wake.set()
        if self._outage.is_on:
            self._outage.end()
            self.problem = None
        self._release()

    async def _make_sure(self, began_s: float) -> None:
        """Release nothing where others may have gone on meanwhile: a process may stand still for long."""
        loop = asyncio.get_running_loop()
        while loop.time() - began_s > SURE_S:
            began_s = loop.time()
            kept = await self._log.kept(self._owned)
            if len(kept) < len(self._owned):
                raise BrokerError("this process stood still, and others have taken its partitions over")

    async def _check(self) -> None:
        """Let steps produce whose records their topics will take; the others fail, and are tried again."""
        unchecked, self._unchecked = self._unchecked, []
        for message, record in unchecked:
            problem = await self._log.problem(record)
            if problem is not None:
                now_ms = int(self._clocks()[0])
                op = StepError(
                    error=error_info(problem), started_ms=now_ms, ended_ms=now_ms, final=not problem.retryable
                )
                message = msgspec.structs.replace(message, op=op)
            self.post(run_slot(run_id_of(message.run)), message)

    async def _take(self) -> None:
        """Post what the log has for the partitions that are owned, and what waits to be checked."""
        if self._unchecked:
            await self._check()
        ready = [p for p, owned in self._owned.items() if owned.processor.waiting < MOST_WAITING]
        taken = await self._log.take(ready)
        self._is_truncated = False
        if self._log.registry_version != self._registry_version:
            self._learn()
        for partition, inputs in taken.items():
            owned = self._owned[partition]
            if inputs:
                self._now_ms(owned)
                owned.processor.post(*[_translated(each, owned.clock) for each in inputs])

    def _learn(self) -> None:
        """Tell every partition what is new in the registry, before it decides what comes."""
        self._registry_version = self._log.registry_version
        has_other_functions = self._on_registry(self._log.registry)
        for owned in self._owned.values():
            owned.processor.engine.learn(self._log.registry)
            if has_other_functions:
                owned.processor.post(*owned.processor.engine.reconcile())

    async def _decide(self) -> None:
        """Decide what waits, as far as it fits in one turn of each partition."""
        began_s = time.perf_counter()
        wall_ms, monotonic_ms = self._clocks()
        for owned in self._owned.values():
            processor, now_ms = owned.processor, owned.clock.now_ms(wall_ms=wall_ms, monotonic_ms=monotonic_ms)
            if not processor.has_work(now_ms):
                continue
            while not processor.advance(now_ms, SLICE_MESSAGES):
                if time.perf_counter() - began_s > YIELD_S:
                    await asyncio.sleep(0)
                    began_s = time.perf_counter()

    def _seal(self) -> dict[int, Turn]:
        return {p: owned.processor.seal() for p, owned in self._owned.items() if owned.processor.is_open}

    def _release(self) -> None:
        self._has_committed.set()
        for owned in self._owned.values():
            if owned.processor.is_committing:
                effects = self._lookback.take(owned.processor.committed())
                if effects:
                    self._deliver(effects)

    async def _idle(self) -> None:
        """Wait for a message, the next timer, or the next look at the cluster."""
        delay_s = self._idle_s
        for owned in self._owned.values():
            due_ms = owned.processor.next_due_ms()
            if due_ms is not None:
                delay_s = min(delay_s, max(due_ms - self._now_ms(owned), 1) / 1000)
        now_s = asyncio.get_running_loop().time()
        delay_s = min(delay_s, max(self._poll_at_s - now_s, 0.001))
        with suppress(TimeoutError):  # ``wait_for`` of Python 3.11 would lose a cancellation that comes with the wake
            async with asyncio.timeout(delay_s):
                await self._wake.wait()

    def _now_ms(self, owned: _Owned) -> int:
        wall_ms, monotonic_ms = self._clocks()
        return owned.clock.now_ms(wall_ms=wall_ms, monotonic_ms=monotonic_ms)


def _translated(given: Input, clock: PartitionClock) -> Input:
    return Input(given.topic, given.offset, translated(given.message, clock)) if clock.is_adrift else given
