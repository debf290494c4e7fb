"""What every shell does: open the log, run turns and services until told to stop, hand back what is in flight."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from steplog.member import Member
from steplog.server.validation import Ask
from steplog.turns import Turns

Deciding = Turns | Member
Service = Callable[[Any, Ask], Coroutine[Any, Any, None]]  # of what decides


async def run_engine(
    turns: Deciding, services: Sequence[Service], *, ask: Ask, on_open: Callable[[], None], stop: asyncio.Event
) -> None:
    """Run until ``stop`` is set; the log is closed when this returns or raises.

    ``services`` run beside the turns, as the HTTP server does; they end first, because they may wait for answers.
    ``ask`` is how they reach the functions.
    """
    try:
        await turns.open()
        async with asyncio.TaskGroup() as tasks:
            turning = tasks.create_task(turns.run())
            serving = [tasks.create_task(service(turns, ask)) for service in services]
            on_open()
            await stop.wait()
            for task in serving:
                task.cancel()
            if serving:
                await asyncio.wait(serving)
            turning.cancel()
    finally:
        await turns.finish()


def engine_loop() -> asyncio.AbstractEventLoop:
    """An event loop for the engine: uvloop's where it installs."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def only(error: BaseException) -> BaseException:
    """The one error in a group, or the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
