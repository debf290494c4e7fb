"""A partition's time: it starts at the wall clock, never goes back, and is never made to jump.

Drift against the wall clock is worked off slowly, so a sleep is off by at most 0.05 % of its length, whatever an
operator or NTP does to the wall clock. Times that come from outside are the wall clock's: ``told_ms`` translates them.
"""

import time

SLEW_PER_MILLE = 0.5
REPORTED_DRIFT_MS = 60_000
TRANSLATED_DRIFT_MS = 10  # less may be what reading one clock after the other shows

# Counts while the machine is suspended as well, which ``time.monotonic()`` does not everywhere.
_STEADY = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def read_clocks() -> tuple[float, float]:
    """Wall clock and monotonic clock, in ms."""
    steady_s = time.monotonic() if _STEADY is None else time.clock_gettime(_STEADY)
    return time.time() * 1000, steady_s * 1000


class PartitionClock:
    """Time in ms. Readings are handed in: wall clock and monotonic clock, both in ms."""

    def __init__(self, *, stored_ms: int, wall_ms: float, monotonic_ms: float) -> None:
        self._now_ms = float(max(stored_ms, wall_ms))
        self._read_at_ms = monotonic_ms
        self.drift_ms = 0.0  # wall clock minus this clock, at the last reading

    def now_ms(self, *, wall_ms: float, monotonic_ms: float) -> int:
        """Read the time."""
        elapsed = monotonic_ms - self._read_at_ms
        self._read_at_ms = monotonic_ms
        self._now_ms += elapsed
        self.drift_ms = wall_ms - self._now_ms
        most = elapsed * SLEW_PER_MILLE / 1000
        self._now_ms += min(max(self.drift_ms, -most), most)
        return int(self._now_ms)

    @property
    def is_adrift(self) -> bool:
        """Whether times of the wall clock have to be translated."""
        return abs(self.drift_ms) > TRANSLATED_DRIFT_MS

    def told_ms(self, wall_ms: int) -> int:
        """Translate a time that was told by the wall clock."""
        return max(wall_ms - round(self.drift_ms), 0)
