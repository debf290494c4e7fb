"""Names the function that blocks the users' loop, from a thread of its own."""

import logging
import sys
import threading
from types import FrameType

from steplog.drivers.live_run import LiveRun
from steplog.drivers.loop import UsersLoop

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
LOOKS = 4  # in a row that found the same run in the same pass of the loop: about a second


class Watchdog:
    """Warns once for each run that holds the users' loop for about a second or longer. A thread, until stopped."""

    def __init__(self, loop: UsersLoop, thread: threading.Thread) -> None:
        self._loop, self._watched = loop, thread
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="steplog-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._is_over.set()

    def _watch(self) -> None:
        seen: tuple[int, LiveRun] | None = None
        looks = 0
        while not self._is_over.wait(LOOK_EVERY_S):
            frame = sys._current_frames().get(self._watched.ident or 0)
            run = _running(frame)
            found = None if run is None else (self._loop.passes, run)
            looks = looks + 1 if found is not None and found == seen else 0
            seen = found
            if run is not None and looks == LOOKS:
                logger.warning(
                    "a function blocks the event loop; other runs of this process wait for it. Make the call async, or "
                    "run it in a plain def step: %s at %s",
                    run.describe(),
                    f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "an unknown place",
                )


def _running(frame: FrameType | None) -> LiveRun | None:
    """The run whose code is on a thread's stack."""
    while frame is not None:
        if frame.f_code in _CODES:
            run = frame.f_locals.get("self")
            return run if isinstance(run, LiveRun) else None
        frame = frame.f_back
    return None


_CODES = frozenset({LiveRun._main.__code__, LiveRun._execute.__code__, LiveRun.run_step.__code__})
