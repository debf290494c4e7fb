"""The partitions that one process of a cluster owns: it takes what waits for them, decides, commits, releases.

What may fail leaves nothing to repair: everything in memory is dropped and loaded again, as at a start.
"""

import asyncio
from collections.abc import Callable, Sequence

from steplog.engine.draft import Home
from steplog.engine.effects import Effect
from steplog.engine.functions import EngineConfig, Registry
from steplog.engine.ids import run_slot
from steplog.engine.keys import run_id_of
from steplog.engine.messages import Message
from steplog.engine.processor import Processor
from steplog.engine.state import Limits
from steplog.log.broker import BrokerError
from steplog.log.kafka import KafkaLog
from steplog.log.lookback import Lookback, Reader

IDLE_S = 1.0  # between two signs of life where nothing comes
AGAIN_S = 0.5  # after an error


class Partitions:
    """Decides for the partitions that the group gives it.

    ``deliver`` gets the effects of committed turns, ``on_lost`` is told when what was in flight here is dropped.
    ``reader`` reads events of any partition for waits that look back, beside what the log reads.
    """

    def __init__(
        self, log: KafkaLog, reader: Reader, registry: Registry, config: EngineConfig, partitions: int, *,
        now_ms: Callable[[], int], deliver: Callable[[list[Effect]], None], on_lost: Callable[[], None],
        limits: Limits = Limits(), idle_s: float = IDLE_S,
    ) -> None:  # fmt: skip
        self._log, self._registry, self._config, self._limits = log, registry, config, limits
        self._partitions, self._now_ms = partitions, now_ms
        self._deliver, self._on_lost, self._idle_s = deliver, on_lost, idle_s
        self._owned: dict[int, Processor] = {}
        self._lookback = Lookback(reader, partitions, answer=self.post, now_ms=now_ms, most_bytes=config.kept_bytes)
        self._wake = asyncio.Event()
        log.on_change(self._wake.set)

    @property
    def owned(self) -> Sequence[int]:
        """The partitions that are loaded here."""
        return tuple(self._owned)

    def post(self, run: bytes, message: Message) -> None:
        """Give a run a message; dropped where the run is not here any more."""
        processor = self._owned.get(run_slot(run_id_of(run)) % self._partitions)
        if processor is not None:
            processor.post(message)
            self._wake.set()

    async def run(self) -> None:
        """Take part until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lookback.run())
            await self._take_part()

    async def _take_part(self) -> None:
        wanted: tuple[int, ...] = ()
        is_new = True
        while True:
            try:
                if is_new:
                    await self._log.renew()
                    await self._load(wanted, are_ours=True)
                    is_new = False
                assigned = await self._log.poll()
                if assigned is not None:
                    wanted = assigned
                    await self._load(wanted, are_ours=False)
                await self._turn()
            except BrokerError:
                self._drop()
                is_new = True
                await asyncio.sleep(AGAIN_S)

    async def _load(self, partitions: Sequence[int], *, are_ours: bool) -> None:
        """Read partitions. ``are_ours``: what was in flight there was in flight here."""
        before = set(self._owned)
        self._drop()
        for partition in partitions:
            home = Home(partition=partition, partitions=self._partitions, events_return=True)
            loaded = await self._log.load(partition)
            processor = Processor(loaded, self._registry, self._config, self._limits, home)
            processor.recover(is_counted=not are_ours and partition not in before)
            self._owned[partition] = processor

    def _drop(self) -> None:
        if self._owned:
            self._owned = {}
            self._lookback.forget()
            self._on_lost()

    async def _turn(self) -> None:
        """Take what waits, and decide it; wait a moment where nothing does."""
        self._wake.clear()  # what comes from now on is another turn's
        for partition, processor in self._owned.items():
            processor.post(*await self._log.take(partition))
            processor.engine.learn(self._log.registry)
        now_ms = self._now_ms()
        busy = {partition: each for partition, each in self._owned.items() if each.has_work(now_ms)}
        if not busy:
            await self._idle(now_ms)
            return
        for processor in busy.values():
            while not processor.advance(now_ms):
                pass
        await self._log.commit({partition: each.seal() for partition, each in busy.items()})
        for processor in busy.values():
            self._deliver(self._lookback.take(processor.committed()))

    async def _idle(self, now_ms: int) -> None:
        """Wait for a message, the next timer, or the next look at the cluster."""
        due_ms = min([d for p in self._owned.values() if (d := p.next_due_ms()) is not None], default=None)
        delay_s = self._idle_s if due_ms is None else min(self._idle_s, max(due_ms - now_ms, 1) / 1000)
        try:
            await asyncio.wait_for(self._wake.wait(), delay_s)
        except TimeoutError:
            return
