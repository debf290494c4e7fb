"""The settings of the local driver."""

import msgspec

EVICT_AFTER_MS = 30_000


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the local driver treats its runs."""

    evict_after_ms: int = EVICT_AFTER_MS  # a run whose open operations all wait longer is parked at once
    replay_every_step: bool = False  # every result comes by a replay, as over HTTP
    output_bytes: int = 4_000_000  # of a step or function (LIM-03)
    event_bytes: int = 256_000  # of an event that a step sends
    threads: int = 16  # for plain ``def`` steps
    function_threads: int = 64  # for plain ``def`` functions; each holds one while it has a step of its own to run
