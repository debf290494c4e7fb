"""Names the function that blocks the users' loop. Runs on the node's loop, which goes on meanwhile."""

import asyncio
import logging
import sys
import threading
from types import FrameType

from steplog.drivers.loop import UsersLoop

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
LOOKS = 4  # the same callback seen so often in a row blocks: about a second


async def watch(loop: UsersLoop, thread: threading.Thread) -> None:
    """Warn once for each callback of a run that holds the loop for about a second or longer."""
    seen, looks = -1, 0
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        tenant, turns = loop.running, loop.turns
        if tenant is None or turns != seen:
            seen, looks = turns, 0
            continue
        looks += 1
        if looks == LOOKS:
            logger.warning(
                "a function blocks the event loop; other runs of this process wait for it. "
                "Make the call async, or run it as a plain def step: %s at %s",
                tenant.describe(),
                _where(sys._current_frames().get(thread.ident or 0)),
            )


def _where(frame: FrameType | None) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "an unknown place"
