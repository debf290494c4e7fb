"""Turns by clocks that the test sets: what is asked for by a wall clock that was moved comes at its time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from steplog.engine import records
from steplog.engine.effects import Dispatch, Effect, Resume
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, Registry
from steplog.engine.ids import ulid
from steplog.engine.messages import SweepSeen
from steplog.engine.operations import EventOut, Sleep
from steplog.log.memory import MemoryLog
from steplog.turns import Turns

from .partition import DAY, HOUR, NOON, SECOND, all_of, function, report, the
from .running import of, until

MOVED = pytest.mark.parametrize("moved_ms", [-DAY, DAY], ids=["a day back", "a day ahead"])


class World:
    """The turns of a log, and its clocks."""

    def __init__(self) -> None:
        self.wall_ms, self.steady_ms = NOON, 5_000
        self.log = MemoryLog()
        self.effects: list[Effect] = []
        self._sent = 0
        self.turns = Turns(
            self.log, Registry([function("f")]), EngineConfig(), deliver=self.effects.extend, on_lost=lambda _: None,
            clocks=lambda: (self.wall_ms, self.steady_ms),
        )  # fmt: skip

    async def passes(self, ms: int) -> list[Effect]:
        """Let time pass; returns what happens."""
        self.wall_ms, self.steady_ms = self.wall_ms + ms, self.steady_ms + ms
        return await self.post(SweepSeen(env=DEFAULT_ENV))  # wakes it up

    async def post(self, *messages: Any) -> list[Effect]:
        position = self.turns.position
        self.effects.clear()
        self.turns.post(messages)
        await until(lambda: self.turns.position > position)
        return [*self.effects]

    async def send(self, *, ts_ms: int | None = None, received_ms: int | None = None) -> list[Effect]:
        """Accept an event, as a server (which has the partition's time) or a program (the wall clock) does."""
        self._sent += 1
        received_ms = self.turns.now_ms() if received_ms is None else received_ms
        event = accept_event(
            EventOut(name="f", data=b"{}", ts=ts_ms), ulid(received_ms, self._sent.to_bytes(10, "big")),
            env=DEFAULT_ENV, received_ms=received_ms, source="test",
        )  # fmt: skip
        return await self.post(event)


def tell(story: Callable[[World], Awaitable[None]]) -> None:
    async def told() -> None:
        async with asyncio.timeout(30):
            world = World()
            await world.turns.open()
            turning = asyncio.create_task(world.turns.run())
            await story(world)
            turning.cancel()
            await world.turns.finish()

    asyncio.run(told())


def late(length_ms: int) -> int:
    """How far a sleep may be off."""
    return SECOND + length_ms // 1_000


@MOVED
@pytest.mark.spec("FAULT-F4", "STEP-06")
@pytest.mark.parametrize("length_ms", [10 * SECOND, HOUR, 30 * DAY])
def test_a_sleep_does_not_notice_that_the_wall_clock_is_moved(moved_ms: int, length_ms: int) -> None:
    async def story(world: World) -> None:
        run = the(Dispatch, await world.send())
        await world.post(report(run, "nap", Sleep(for_ms=length_ms)))
        world.wall_ms += moved_ms
        assert all_of(Resume, await world.passes(length_ms - late(length_ms))) == []
        woken = await world.passes(2 * late(length_ms))
        assert all_of(Resume, woken)

    tell(story)


@MOVED
@pytest.mark.spec("FAULT-F4", "STEP-07")
@pytest.mark.parametrize("is_moved_before", [True, False])
def test_a_sleep_until_a_moment_is_as_long_as_it_was_when_it_began(moved_ms: int, is_moved_before: bool) -> None:
    async def story(world: World) -> None:
        run = the(Dispatch, await world.send())
        world.wall_ms += moved_ms if is_moved_before else 0
        await world.post(report(run, "nap", Sleep(until_ms=world.wall_ms + HOUR)))
        world.wall_ms += 0 if is_moved_before else moved_ms
        assert all_of(Resume, await world.passes(HOUR - late(HOUR))) == []
        assert all_of(Resume, await world.passes(2 * late(HOUR)))

    tell(story)


@MOVED
@pytest.mark.spec("FAULT-F4", "FAULT-F5", "EVT-06")
def test_events_start_at_once_or_at_their_time_though_the_wall_clock_was_moved(moved_ms: int) -> None:
    async def story(world: World) -> None:
        world.wall_ms += moved_ms
        assert all_of(Dispatch, await world.send()), "over HTTP"
        assert all_of(Dispatch, await world.send(received_ms=world.wall_ms)), "from a program"
        assert all_of(Dispatch, await world.send(ts_ms=world.wall_ms)), "with a time of its own, which is now"
        assert all_of(Dispatch, await world.send(ts_ms=world.wall_ms + HOUR)) == []
        assert [r.due is not None for r in of(world.log, records.RunScheduled)][-1]
        assert all_of(Dispatch, await world.passes(HOUR - late(HOUR))) == []
        assert all_of(Dispatch, await world.passes(2 * late(HOUR)))

    tell(story)


def test_a_wall_clock_that_was_not_moved_is_taken_at_its_word() -> None:
    async def story(world: World) -> None:
        run = the(Dispatch, await world.send())
        await world.post(report(run, "nap", Sleep(until_ms=world.wall_ms + HOUR)))
        assert [r.until for r in of(world.log, records.StepWaiting)] == [world.wall_ms + HOUR]
        await world.send(ts_ms=world.wall_ms + HOUR)
        assert [r.due for r in of(world.log, records.RunScheduled)][1:] == [world.wall_ms + HOUR]

    tell(story)
