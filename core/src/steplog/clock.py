"""A partition's time: it starts at the wall clock, never goes back, and is never made to jump.

Drift against the wall clock is worked off slowly, so a sleep is off by at most 0.05 % of its length, whatever an
operator or NTP does to the wall clock.
"""

SLEW_PER_MILLE = 0.5
REPORTED_DRIFT_MS = 60_000


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
