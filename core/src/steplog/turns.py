"""The node's side: decide, commit, release, again and again.

Runs on the node's loop. Messages come in by ``post`` and ``submit``; a turn takes what waits, so the busier the node,
the cheaper each step. If a commit fails, everything in memory is dropped and read back from the log: the same path as a
start.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from steplog.clock import REPORTED_DRIFT_MS, PartitionClock, read_clocks
from steplog.engine import keys
from steplog.engine.effects import Answer, Effect, RunEnded
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, Registry
from steplog.engine.ids import decode_ulid
from steplog.engine.messages import Drain, EventAccepted, Message, SignalSent
from steplog.engine.processor import LoadedState, Processor, Turn
from steplog.errors import LogUnavailable, Overloaded
from steplog.history.position import Position
from steplog.outage import Outage
from steplog.told import translated

logger = logging.getLogger(__name__)

YIELD_S = 0.005  # a turn lets the API answer after it
SLICE_MESSAGES = 64  # decided between two looks at the clock
WATCHED_EFFECTS = 4  # of a turn: what a single run, or a few, wait for; under load messages come anyway
MOST_WAITING = 50_000  # messages; beyond it the edge answers 503
LOG_RETRY_S = 0.5


class Log(Protocol):
    """Where turns are committed (log/sqlite.py, log/memory.py)."""

    async def load(self) -> LoadedState: ...

    async def commit(self, turn: Turn) -> None: ...

    def close(self) -> None: ...


class Turns:
    """One partition's turns over one log.

    ``deliver`` gets the effects of each committed turn that are meant for the users' loop, ``on_lost`` is told when
    what was in memory had to be dropped, ``on_found`` when it was read back. ``watch_s`` is how long it looks for the
    answer to a small turn before it sleeps, for an engine whose process is its own. ``clocks`` reads the wall clock and
    a monotonic one, in ms.
    """

    def __init__(
        self, log: Log, registry: Registry, config: EngineConfig, *, deliver: Callable[[list[Effect]], None],
        on_lost: Callable[[LogUnavailable], None], on_found: Callable[[], None] = lambda: None, watch_s: float = 0,
        clocks: Callable[[], tuple[float, float]] = read_clocks,
    ) -> None:  # fmt: skip
        self._log, self._registry, self._config = log, registry, config
        self._deliver, self._on_lost, self._on_found = deliver, on_lost, on_found
        self._watch_s, self._clocks = watch_s, clocks
        self._processor: Processor | None = None
        self._clock: PartitionClock | None = None
        self._wake: asyncio.Future[None] | None = None
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ended: dict[bytes, list[asyncio.Future[None]]] = {}
        self._last_ticket = 0
        self._outage = Outage()
        self._opened_turn: int | None = None  # the newest in the log when this process began
        self._has_reported_drift = False
        self._is_answer_near = False
        self.position = 0  # of the newest commit

    async def open(self) -> None:
        """Read the log, and queue what was in flight when it was last written.

        It is lost with the process before, until this one has committed a turn that says so; it is this one's after.
        """
        loaded = await self._log.load()
        if self._opened_turn is None:
            self._opened_turn = loaded.turn
        if self._clock is None:  # it goes on over an outage: reading it anew could make it jump
            wall_ms, monotonic_ms = self._clocks()
            self._clock = PartitionClock(stored_ms=loaded.now_ms, wall_ms=wall_ms, monotonic_ms=monotonic_ms)
        self._processor = Processor(loaded, self._registry, self._config)
        self._processor.recover(is_counted=loaded.turn == self._opened_turn)
        self.position = loaded.turn

    def now_ms(self) -> int:
        """The partition's time."""
        assert self._clock is not None, "open() comes first"
        wall_ms, monotonic_ms = self._clocks()
        return self._clock.now_ms(wall_ms=wall_ms, monotonic_ms=monotonic_ms)

    @property
    def reached(self) -> Position:
        """How far the log is written."""
        return Position.commit(self.position)

    @property
    def is_available(self) -> bool:
        return self._processor is not None

    def post(self, messages: Sequence[Message]) -> None:
        """Put messages in the mailbox. Answers for a state that was dropped are dropped with it."""
        if self._processor is None:
            return
        if self._is_asleep:  # else a turn has just read the clocks
            self.now_ms()
        clock = self._clock
        if clock is not None and clock.is_adrift:
            messages = [translated(message, clock) for message in messages]
        self._processor.post(*messages)
        self._wake_up()

    async def submit(self, events: Sequence[EventAccepted]) -> int:
        """Accept a group of events; returns the position of the commit that has them.

        Raises ``Overloaded`` where too much waits, ``LogUnavailable`` where the log cannot be written.
        """
        if not events:
            return self.position
        if self._processor is None:
            raise LogUnavailable("the log cannot be written at the moment; nothing was accepted")
        self._check_room(self._processor, len(events))
        ticket, answer = self._new_ticket()
        last = msgspec.structs.replace(events[-1], ticket=ticket, is_last=True)
        self.post([*events[:-1], last])
        await answer
        return self.position

    async def signal(self, name: str, data: bytes) -> str | None:
        """Resume the step that waits for a signal; returns its run's id, None where nobody waits.

        Raises as ``submit`` does.
        """
        if self._processor is None:
            raise LogUnavailable("the log cannot be written at the moment; the signal was not sent")
        self._check_room(self._processor, 1)
        ticket, answer = self._new_ticket()
        self.post([SignalSent(env=DEFAULT_ENV, signal=name, data=data, ticket=ticket)])
        return (await answer).run_id

    def is_function(self, function: str) -> bool:
        """Whether a function, by its qualified id, is registered here."""
        return function in self._registry.by_id

    def _check_room(self, processor: Processor, count: int) -> None:
        if processor.waiting + count > MOST_WAITING:
            raise Overloaded(f"{processor.waiting} messages wait, the limit is {MOST_WAITING}; send again later")

    def _new_ticket(self) -> tuple[int, "asyncio.Future[Answer]"]:
        self._last_ticket += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[self._last_ticket] = answer
        return self._last_ticket, answer

    @property
    def record_bytes(self) -> int | None:
        """The largest record that the log takes: any size."""
        return None

    @property
    def problem(self) -> str | None:
        """What keeps it from its work, if anything does."""
        return None if self._processor is not None else "the log is unavailable; open runs go on when it is back"

    async def joined(self, timeout_s: float) -> None:
        """A log that is one file has nobody else to wait for."""

    async def wait_ended(self, run_id: str, timeout_s: float) -> bool:
        """Return when a run has ended, or the time is up; at once for a run that is not open. Nobody else knows."""
        key = keys.run(DEFAULT_ENV, decode_ulid(run_id))
        if self._processor is None or not self._processor.engine.runs.is_open(key):
            return True
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended.setdefault(key, []).append(ended)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await ended
        return True

    async def are_open(self, run_keys: Sequence[bytes]) -> list[bool]:
        """Whether each of some runs exists and has not ended."""
        processor = self._processor
        return [processor is not None and processor.engine.runs.is_open(key) for key in run_keys]

    async def run(self) -> None:
        """Decide and commit until cancelled."""
        while True:
            try:
                await self._turns()
            except LogUnavailable as error:
                await self._recover(error)

    async def finish(self) -> None:
        """Hand back in order what is in flight, in a last commit, and close the log."""
        try:
            if self._processor is not None:
                self._processor.post(Drain())
                while self._processor.has_work(self.now_ms()):
                    await self._turn(self._processor)
        finally:
            self._log.close()

    async def _turns(self) -> None:
        processor = self._processor
        assert processor is not None, "open() comes first"
        while True:
            now_ms = self.now_ms()
            if processor.has_work(now_ms):
                await self._turn(processor)
                await asyncio.sleep(0)
                if self._is_answer_near:
                    await self._watch(processor)
            else:
                await self._sleep(processor.next_due_ms(), now_ms)

    async def _turn(self, processor: Processor) -> None:
        began = time.perf_counter()
        while not processor.advance(self.now_ms(), SLICE_MESSAGES):
            if time.perf_counter() - began > YIELD_S:
                await asyncio.sleep(0)
                began = time.perf_counter()
        turn = processor.seal()
        await self._log.commit(turn)
        self.position = turn.number
        self._outage.end()
        effects = processor.committed()
        self._is_answer_near = self._watch_s > 0 and 0 < len(effects) <= WATCHED_EFFECTS
        self._release(effects)

    def _release(self, effects: list[Effect]) -> None:
        outside: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Answer) and effect.ticket > 0:
                answer = self._answers.pop(effect.ticket, None)
                if answer is not None and not answer.done():
                    answer.set_result(effect)
                continue
            if isinstance(effect, RunEnded) and effect.run in self._ended:
                for ended in self._ended.pop(effect.run):
                    if not ended.done():
                        ended.set_result(None)
            outside.append(effect)
        if outside:
            self._deliver(outside)

    async def _watch(self, processor: Processor) -> None:
        """Look for the next message for a moment: waking up from a sleep takes half as long as a short step."""
        until_s = time.perf_counter() + self._watch_s
        while not processor.waiting and time.perf_counter() < until_s:  # noqa: ASYNC110 - awake on purpose
            await asyncio.sleep(0)

    async def _sleep(self, due_ms: int | None, now_ms: int) -> None:
        """Sleep until a message comes or a timer is due."""
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        delay_s = 1.0 if due_ms is None else min((due_ms - now_ms) / 1000, 1.0)
        timer = loop.call_later(max(delay_s, 0.0005), self._wake_up)
        await self._wake
        timer.cancel()
        self._report_drift()

    @property
    def _is_asleep(self) -> bool:
        return self._wake is not None and not self._wake.done()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _recover(self, error: LogUnavailable) -> None:
        """Drop what is in memory, and read it back as soon as the log can be written again."""
        self._outage.go_on(error)
        self._processor = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(error)
        for waiting in self._ended.values():
            for ended in waiting:
                if not ended.done():
                    ended.set_result(None)
        self._ended.clear()
        self._on_lost(error)
        while True:
            await asyncio.sleep(LOG_RETRY_S)
            try:
                await self.open()
            except LogUnavailable as again:
                self._outage.go_on(again)
            else:
                self._on_found()
                return

    def _report_drift(self) -> None:
        assert self._clock is not None, "open() comes first"
        is_adrift = abs(self._clock.drift_ms) > REPORTED_DRIFT_MS
        if is_adrift and not self._has_reported_drift:
            logger.warning(
                "the wall clock has moved; sleeps go by a steady clock that follows it slowly",
                extra={"fields": {"drift_ms": round(self._clock.drift_ms)}},
            )
        self._has_reported_drift = is_adrift
