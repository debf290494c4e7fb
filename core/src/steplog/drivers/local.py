"""The local driver: functions live in this process, as coroutines that stay alive between their steps."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from steplog.drivers.bodies import Bodies
from steplog.drivers.config import LocalConfig, warned_at
from steplog.drivers.live_run import CLOSE_S, LiveRun, now_ms
from steplog.drivers.loop import UsersLoop
from steplog.engine.effects import (
    Answer,
    Backoff,
    Dispatch,
    Effect,
    MakeRoom,
    PartitionsLost,
    ReadEvents,
    Resume,
    Retry,
    RunEnded,
)
from steplog.engine.ids import run_slot
from steplog.engine.keys import run_id_of
from steplog.engine.messages import Message
from steplog.functions import Function
from steplog.values import fitting

logger = logging.getLogger(__name__)


class LocalDriver:
    """All live runs of this process. Every method runs on the users' loop."""

    def __init__(
        self,
        loop: UsersLoop,
        functions: Mapping[str, Function[Any, Any]],
        post: Callable[[Message], None],
        config: LocalConfig,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.post, self.config, self.now_ms = post, config, clock
        self.watched = warned_at(config.steps), warned_at(config.run_bytes)
        self.bodies = Bodies(
            loop, threads=config.threads, function_threads=config.function_threads,
            limit_ms=config.step_ms,
        )  # fmt: skip
        self.is_draining = False
        self._functions = functions
        self._live: dict[bytes, LiveRun] = {}
        self._waiting: dict[bytes, LiveRun] = {}  # in the order in which they began to wait

    @property
    def executing(self) -> int:
        """How many steps' bodies run."""
        return len(self.bodies.running)

    @property
    def live_runs(self) -> int:
        return len(self._live)

    def fit(self, record_bytes: int | None) -> None:
        """Take only what a record of the log holds, where that is less than the configuration allows."""
        config = self.config
        output_bytes, event_bytes = fitting(config.output_bytes, config.event_bytes, record_bytes)
        if (output_bytes, event_bytes) == (config.output_bytes, config.event_bytes):
            return
        self.config = msgspec.structs.replace(config, output_bytes=output_bytes, event_bytes=event_bytes)
        logger.warning(
            "the log's topics take records of %s bytes: steps may return %s bytes instead of %s, events be %s instead "
            "of %s; raise max.message.bytes of all its topics to what the configuration asks for",
            *(f"{n:,}" for n in (record_bytes, output_bytes, config.output_bytes, event_bytes, config.event_bytes)),
        )  # fmt: skip

    @property
    def busy(self) -> list[LiveRun]:
        """The live runs that do something else than wait."""
        return [run for run in self._live.values() if run.waits_until_ms() is None]

    def handle(self, effects: Sequence[Effect]) -> None:
        """Do what a committed turn asked for, in order. Answers and reading are not for drivers."""
        if self.is_draining:
            return  # what is not begun here is begun by the next process
        live = self._live
        for effect in effects:
            if isinstance(effect, Resume):  # most are
                run = live.get(effect.run)
                if run is not None and run.generation == effect.generation:
                    run.hand_over(effect.recorded)
            elif isinstance(effect, Dispatch):
                self._dispatch(effect)
            elif isinstance(effect, MakeRoom):
                self._make_room(effect.count)
            elif isinstance(effect, PartitionsLost):
                self.abandon(effect)
            elif not isinstance(effect, Answer | ReadEvents):
                run = live.get(effect.run)
                if run is not None and run.generation == effect.generation:
                    _tell(run, effect)

    def abandon(self, lost: PartitionsLost | None = None) -> None:
        """The node has lost its state, or a part of it: what lives here of that is of no use to it any more."""
        for run in list(self._live.values()):
            if lost is None or run_slot(run_id_of(run.key)) % lost.of in lost.partitions:
                run.close()

    async def drain(self, grace_s: float) -> None:
        """Begin nothing, let the bodies that run end for a while, then close every run."""
        self.is_draining = True
        await self.bodies.wait(grace_s)
        tasks = {run.task for run in self._live.values() if run.task is not None}
        self.abandon()
        if self.bodies.running:
            tasks.update(self.bodies.running)
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        self.bodies.close()

    def forget(self, run: LiveRun) -> None:
        """The run is over here."""
        if self._live.get(run.key) is run:
            del self._live[run.key]
            self._waiting.pop(run.key, None)

    def consider_parking(self, run: LiveRun) -> None:
        """Park a run that waits long; remember one that waits shortly."""
        until_ms = run.waits_until_ms()
        if until_ms is None:
            return
        if until_ms - self.now_ms() > self.config.evict_after_ms or run.holds_thread:
            run.park()
        else:
            self._waiting[run.key] = run

    def _dispatch(self, dispatch: Dispatch) -> None:
        before = self._live.get(dispatch.run)
        if before is not None:
            before.close()
        run = LiveRun(self, self._functions[dispatch.function], dispatch)
        self._live[dispatch.run] = run
        run.start()

    def _make_room(self, count: int) -> None:
        """Park those that have waited longest."""
        for key, run in list(self._waiting.items()):
            if count <= 0:
                return
            del self._waiting[key]
            if run.waits_until_ms() is not None:
                run.park()
                count -= 1


def _tell(run: LiveRun, effect: Retry | Backoff | RunEnded) -> None:
    match effect:
        case Retry(step=step, attempt=attempt):
            run.retry(step, attempt)
        case Backoff(step=step, attempt=attempt, due_ms=due_ms):
            run.back_off(step, attempt, due_ms)
        case RunEnded():  # the engine ended it, the function has not
            run.close()
