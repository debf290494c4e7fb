"""What the engine knows of a function, and the limits that it holds."""

from collections.abc import Iterable

import msgspec

from steplog.engine.retry import RetryPolicy

ENVIRONMENTS = {0: "default"}  # number in keys → name in records; one until environments come
DEFAULT_ENV = 0


class EventTrigger(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An event starts the function.

    ``event`` is a name, or ends in ``/*`` or ``.*`` and means every name that begins like it (FN-08). ``if_exp`` is CEL
    over ``event``; the function ignores events for which it is false (FN-04).
    """

    event: str
    if_exp: str | None = None


class CronTrigger(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The clock starts the function (FN-05). ``catch_up``: last | skip | all of the ticks that were missed (GAP-04)."""

    cron: str
    jitter_ms: int = 0
    catch_up: str = "last"


Trigger = EventTrigger | CronTrigger


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A registered function. ``id`` is qualified: ``<app>-<function>`` (CONV-03)."""

    id: str
    app: str
    triggers: tuple[Trigger, ...] = ()  # none: it is only invoked
    version: str | None = None
    retries: int = 4
    failure_of: str | None = None  # the function whose failures it handles (ERR-13)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine does not let grow, and how long it waits."""

    live_runs: int = 10_000  # dispatched at once; further ones wait in order
    steps_per_run: int = 1_000
    run_state_bytes: int = 32_000_000  # events, step outputs and the function's output of one run
    lost_allowance: int = 3  # beyond the retries; then its steps end in WorkerLost
    retry: RetryPolicy = RetryPolicy()


class Registry:
    """The functions of a node, found by id and by the event that triggers them."""

    def __init__(self, functions: Iterable[FunctionSpec]) -> None:
        self.by_id: dict[str, FunctionSpec] = {}
        self._by_event: dict[str, list[FunctionSpec]] = {}
        for function in functions:
            self.by_id[function.id] = function
            for trigger in function.triggers:
                if isinstance(trigger, EventTrigger) and function not in self._by_event.get(trigger.event, ()):
                    self._by_event.setdefault(trigger.event, []).append(function)

    def triggered_by(self, event: str) -> list[FunctionSpec]:
        """Every function that an event of this name starts, in the order of registration."""
        return self._by_event.get(event, [])
