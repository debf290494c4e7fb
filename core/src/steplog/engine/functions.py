"""What the engine knows of a function, and the limits that it holds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from steplog.cel import Filter, compile_filter
from steplog.engine.cron import CatchUp
from steplog.engine.messages import EventAccepted
from steplog.engine.records import event_seen
from steplog.engine.retry import RetryPolicy
from steplog.errors import EvaluationError

ENVIRONMENTS = {0: "default"}  # number in keys → name in records; one until environments come
DEFAULT_ENV = 0


MOST_STEP_MS = 7_200_000  # of one attempt of a step (LIM-02)


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
    catch_up: CatchUp = "last"


Trigger = EventTrigger | CronTrigger


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A registered function. ``id`` is qualified: ``<app>-<function>`` (CONV-03).

    All but ``version``, which is the app's, is its configuration: a change of it raises the number in ``versions.py``.
    """

    id: str
    app: str
    name: str = ""
    triggers: tuple[Trigger, ...] = ()  # none: it is only invoked
    version: str | None = None
    retries: int = 4
    failure_of: str | None = None  # the function whose failures it handles (ERR-13)
    is_strict: bool = False  # a run whose recorded steps no longer fit fails (CON-35)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine does not let grow, and how long it waits."""

    live_runs: int = 10_000  # dispatched at once; further ones wait in order
    steps_per_run: int = 1_000
    run_state_bytes: int = 32_000_000  # events, step outputs and the function's output of one run
    lost_allowance: int = 3  # beyond the retries; then its steps end in WorkerLost
    retry: RetryPolicy = RetryPolicy()
    met_per_turn: int = 1_000  # waits that events are held against in one turn
    can_produce: bool = False  # the log writes records of other topics in its commits
    kept_bytes: int = 64 << 20  # of events for waits that look back: in memory at most, and read from the log at once


class _Candidate(NamedTuple):
    """A function that events of a name may start: unless it says so, where one of its conditions is true."""

    spec: FunctionSpec
    conditions: tuple[Filter, ...]


class Registry:
    """The functions of an engine, found by id, by the event that triggers them, and by whose failures they handle."""

    def __init__(self, functions: Iterable[FunctionSpec], *, others: Iterable[FunctionSpec] = ()) -> None:
        """``functions`` are carried out here; ``others`` are known, and carried out by other processes alone."""
        self.own = tuple(functions)
        self._here = frozenset(function.id for function in self.own)
        self.learn(others)

    def learn(self, others: Iterable[FunctionSpec]) -> None:
        """Know these beside those of here. One that other processes have declared anew counts as they have."""
        self.by_id: dict[str, FunctionSpec] = {function.id: function for function in (*self.own, *others)}
        self._failure_handlers = {f.failure_of: f for f in self.by_id.values() if f.failure_of is not None}
        triggers = [(f, t) for f in self.by_id.values() for t in f.triggers if isinstance(t, EventTrigger)]
        self._patterns = [(function, trigger) for function, trigger in triggers if trigger.event.endswith("*")]
        names = {trigger.event for _, trigger in triggers if not trigger.event.endswith("*")}
        self._by_name = {name: _candidates(name, triggers) for name in names}
        self._always = {
            name: [spec for spec, _ in candidates]
            for name, candidates in self._by_name.items()
            if not any(conditions for _, conditions in candidates)
        }
        self._is_trigger: dict[str, bool] = {}

    def is_here(self, function: str) -> bool:
        """Whether a function is carried out by this process."""
        return function in self._here

    def started_by(
        self, event: EventAccepted, *, on_failure: Callable[[str, str, EvaluationError], None] | None = None
    ) -> Sequence[FunctionSpec]:
        """Every function that an event starts, in the order of registration.

        ``on_failure`` is told of each condition, by function and text, that has no value for the event (GAP-05).
        """
        if event.starts is None and event.name in self._always:
            return self._always[event.name]
        candidates = self._by_name.get(event.name)
        if candidates is None:
            candidates = _candidates(event.name, self._patterns) if self._patterns else []
        body: Any = None
        found: list[FunctionSpec] = []
        for spec, conditions in candidates:
            if conditions:
                body = body or event_seen(event.body)
                if not _is_any(spec, conditions, body, on_failure):
                    continue
            found.append(spec)
        if event.starts is not None and event.starts in self.by_id and self.by_id[event.starts] not in found:
            found.append(self.by_id[event.starts])
        return found

    def is_trigger(self, name: str) -> bool:
        """Whether events of a name may start a function."""
        if name not in self._is_trigger:
            self._is_trigger[name] = name in self._by_name or bool(_candidates(name, self._patterns))
        return self._is_trigger[name]

    def failure_handler(self, function: str) -> FunctionSpec | None:
        """The function that handles the failures of another (ERR-13)."""
        return self._failure_handlers.get(function)


def _is_any(
    spec: FunctionSpec, conditions: Sequence[Filter], body: Any,
    on_failure: Callable[[str, str, EvaluationError], None] | None,
) -> bool:  # fmt: skip
    for condition in conditions:
        try:
            if condition.evaluate(body):
                return True
        except EvaluationError as error:
            if on_failure is not None:
                on_failure(spec.id, condition.text, error)
    return False


def _candidates(name: str, triggers: Iterable[tuple[FunctionSpec, EventTrigger]]) -> list[_Candidate]:
    conditions: dict[str, list[str | None]] = {}
    specs: dict[str, FunctionSpec] = {}
    for spec, trigger in triggers:
        if trigger.event == name or (trigger.event.endswith("*") and name.startswith(trigger.event[:-1])):
            specs[spec.id] = spec
            conditions.setdefault(spec.id, []).append(trigger.if_exp)
    return [
        _Candidate(specs[id_], () if None in found else tuple([compile_filter(text) for text in found if text]))
        for id_, found in conditions.items()
    ]
