"""When a failed attempt is tried again. Pure: the jitter comes from a hash, not from a random source (LIMW-01)."""

import msgspec

from steplog.engine.ids import hash16

SCHEDULE_MS = tuple(s * 1000 for s in (15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200))  # the last one repeats
JITTER_MS = 30_000
LEAST_RETRY_AFTER_MS, MOST_RETRY_AFTER_MS = 1_000, 86_400_000
LOST_BASE_MS, LOST_MOST_MS = 1_000, 60_000


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait. ``interval_ms`` replaces schedule and jitter by a constant (``--retry-interval``)."""

    interval_ms: int | None = None


def delay_ms(policy: RetryPolicy, failures: int, *, asked_ms: int | None, seed: bytes) -> int:
    """How long to wait after the ``failures``-th failure, counted from 1.

    ``asked_ms`` is what the code asked for with ``RetryAfterError``; it is clamped to 1 s … 24 h.
    """
    if asked_ms is not None:
        return min(max(asked_ms, LEAST_RETRY_AFTER_MS), MOST_RETRY_AFTER_MS)
    if policy.interval_ms is not None:
        return policy.interval_ms
    digest = hash16(seed, failures.to_bytes(4, "big"))
    jitter = int.from_bytes(digest[:4], "big") % JITTER_MS
    return SCHEDULE_MS[min(failures, len(SCHEDULE_MS)) - 1] + jitter


def lost_delay_ms(lost: int) -> int:
    """How long a run waits that lost its process ``lost`` times in a row: it is dispatched at once at first."""
    return 0 if lost <= 1 else min(LOST_BASE_MS << min(lost - 2, 16), LOST_MOST_MS)
