"""The settings of the local driver."""

import msgspec

from steplog.engine.functions import MOST_STEP_MS
from steplog.values import WARNED_PERCENT

EVICT_AFTER_MS = 30_000


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the local driver treats its runs."""

    evict_after_ms: int = EVICT_AFTER_MS  # a run whose open operations all wait longer is parked at once
    replay_every_step: bool = False  # every result comes by a replay, as over HTTP
    output_bytes: int = 4_000_000  # of a step or function (LIM-03)
    event_bytes: int = 256 << 10  # of an event that a step sends
    steps: int = 1_000  # of a run; no body of a further one begins (LIM-08)
    run_bytes: int = 32_000_000  # the engine's limit, to warn before it (LIM-04)
    step_ms: int = MOST_STEP_MS  # how long one attempt may take
    threads: int = 16  # for plain ``def`` steps
    function_threads: int = 64  # for plain ``def`` functions; each holds one while it has a step of its own to run


def warned_at(limit: int) -> int:
    """From where on a limit is warned of (GAP-20)."""
    return -(-limit * WARNED_PERCENT // 100)
