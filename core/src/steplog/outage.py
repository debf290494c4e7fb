"""Tells of an outage of the log: when it begins, now and then while it lasts, and when it is over."""

import logging
import time

from steplog.errors import LogUnavailable

logger = logging.getLogger(__name__)

TOLD_AGAIN_S = 5.0  # how long it has to last to be told again; then twice as long, and so on
TOLD_EVERY_S = 60.0  # at least
_UNAVAILABLE = "log unavailable%s: events get 503 with Retry-After, runs pause, nothing is lost; trying again"


class Outage:
    """It begins with the first failure, and is over with the first commit: a log may be readable all the time."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._told_after_s = 0.0

    @property
    def is_on(self) -> bool:
        return self._began_s is not None

    def go_on(self, error: LogUnavailable) -> None:
        """The log could not be read or written."""
        now_s, fields = time.monotonic(), {"fields": {"reason": str(error)}}
        if self._began_s is None:
            self._began_s, self._told_after_s = now_s, TOLD_AGAIN_S
            logger.warning(_UNAVAILABLE, "", extra=fields)
        elif now_s - self._began_s >= self._told_after_s:
            self._told_after_s += min(self._told_after_s, TOLD_EVERY_S)
            logger.warning(_UNAVAILABLE, f" for {now_s - self._began_s:.0f} s", extra=fields)

    def end(self) -> None:
        """The log was written."""
        if self._began_s is not None:
            away_s, self._began_s = time.monotonic() - self._began_s, None
            logger.info("log available again after %.0f s: events are accepted, open runs go on", away_s)
