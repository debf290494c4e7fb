"""Which steps an event ends that wait for it: when it comes, in a later turn where they are many, or looked back for.

A wait counts events from a place in the log on (``EventWait.since``): the place at which it was made, or behind the
event that started its run. One event ends a wait, the first in the order of the log that fits; so what is decided in
several turns is the same as if it had been decided in one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UnsetType

from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.failures import Failures
from steplog.engine.functions import EngineConfig
from steplog.engine.ids import ulid_ms
from steplog.engine.mail import Mail, Mailed
from steplog.engine.messages import EventAccepted, EventMet, EventOffered
from steplog.engine.recent import KEPT_MS, Recent
from steplog.engine.records import ExpressionFailure, Place, event_seen
from steplog.engine.run import EventWait, Run
from steplog.engine.runs import Runs
from steplog.engine.waits import Spot, Waits
from steplog.errors import EvaluationError

MOST_OFFERED = 1 << 40

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Met(NamedTuple):
    """An event, and the steps that it fits."""

    name: str
    event: Any  # as functions see it
    steps: list[tuple[bytes, bytes]]  # run key and step hash


class LookedBack(NamedTuple):
    """What a wait that looks back has found."""

    found: list[tuple[str, Any]]  # name and event, in the order of the log; one for ``any_of``, of each name one else
    cut_ms: int  # what was received until then was not looked at; 0: all was
    failed: tuple[ExpressionFailure, ...] | UnsetType


class Arrivals:
    """Holds events against the waits for them."""

    def __init__(
        self, draft: Draft, runs: Runs, waits: Waits, mail: Mail, recent: Recent, failures: Failures,
        config: EngineConfig,
    ) -> None:  # fmt: skip
        self._draft, self._runs, self._waits, self._mail = draft, runs, waits, mail
        self._recent, self._failures, self._most = recent, failures, config.met_per_turn

    def find(self, event: EventAccepted) -> Met | None:
        """Find the steps that an event ends which is about to be accepted; those beyond the turn's bound go on later.

        Conditions that fail are noted for the event's record.
        """
        if not self._waits.is_waited_for(event.env, event.name):
            return None
        seen = event_seen(event.body)
        self._waits.offer(event.env, event.name, seen)
        self._recent.note(event.env, event.name, event.received_ms, event.body, seen)
        most = self._most - self._draft.met
        found = self._waits.candidates(event.env, event.name, seen, most)
        place = self._draft.next_place
        if len(found) >= most:  # nor is any done that follows it in this turn: they cannot overtake it
            beyond = found[-1] if found else b""
            self._mail.add(Mailed(env=event.env, name=event.name, place=place, event=seen, beyond=beyond))
        return Met(event.name, seen, self._fitting(found, seen, place, are_failures_told=True)) if found else None

    def offered(self, message: EventOffered) -> Met:
        """Find the steps that stand in a place of the index, for an event of another partition."""
        event = _decode(message.event)
        found = self._draft.state.group(message.prefix, MOST_OFFERED)
        steps = self._fitting(found, event, self._draft.next_place, are_failures_told=False)
        return Met(message.name, event, steps)

    def brought(self, message: EventMet) -> Met:
        """Hold an event against one step, which another partition has found in the index."""
        event = _decode(message.event)
        run = self._runs.get(message.run)
        step = None if run is None else run.steps.get(message.step)
        if run is None or step is None or step.wait is None:
            return Met(message.name, event, [])
        fits = self._fits(run, step.wait, event, is_failure_told=False)
        return Met(message.name, event, [(message.run, message.step)] if fits else [])

    def next_mailed(self) -> Met | None:
        """Go on with the oldest event that is not done; None where there is none, or the turn has done enough."""
        if self._mail.is_empty or self._draft.met >= self._most:
            return None
        mailed, most = self._mail.waiting[0], self._most - self._draft.met
        found = self._waits.candidates(mailed.env, mailed.name, mailed.event, most, beyond=mailed.beyond)
        if len(found) < most:
            self._mail.remove_first()
        else:
            mailed.beyond = found[-1]
            self._mail.put(mailed)
        steps = self._fitting(found, mailed.event, mailed.place, are_failures_told=False)
        return Met(mailed.name, mailed.event, steps)

    def mailed_for(self, run: Run, wait: EventWait) -> Iterator[tuple[str, Any]]:
        """The events that fit a wait and may not have reached it yet, in order."""
        for mailed in self._mail.waiting:
            is_awaited = mailed.place >= wait.since and mailed.name in wait.events
            if is_awaited and self._fits(run, wait, mailed.event, is_failure_told=False):
                yield mailed.name, mailed.event

    def look_back(self, run: Run, wait: EventWait, spots: Sequence[Spot]) -> LookedBack:
        """Find the events that a wait would have met, had it been made when its run's event came."""
        env, now_ms = keys.env_of(run.key), self._draft.now_ms
        parts = [self._recent.since(env, spot.name, wait.since, spot.path, spot.value) for spot in spots]
        arrivals = sorted((a for part in parts for a in part.arrivals), key=lambda arrival: arrival.place)
        wanted, met = len(spots) if wait.all_of else 1, set[str]()
        found: list[tuple[str, Any]] = []
        for arrival in arrivals:
            if arrival.name in met:
                continue
            seen = event_seen(arrival.body)
            if self._fits(run, wait, seen, is_failure_told=True):
                met.add(arrival.name)
                found.append((arrival.name, seen))
                if len(found) == wanted:
                    break
        is_old = ulid_ms(keys.run_id_of(run.key)) < now_ms - KEPT_MS
        cut_ms = max([now_ms - KEPT_MS if is_old else 0, *(part.cut_ms for part in parts)])
        return LookedBack(found, cut_ms, self._failures.take())

    def _fitting(
        self, found: list[bytes], event: Any, place: Place, *, are_failures_told: bool
    ) -> list[tuple[bytes, bytes]]:
        """Hold an event against waits; returns those that it fits, as run key and step hash."""
        self._draft.met += len(found)
        owners = [keys.wait_owner(key) for key in found]
        if self._draft.home.partitions > 1:
            owners = self._bring(owners, event)
        self._runs.preload([run for run, _ in owners])
        fit: list[tuple[bytes, bytes]] = []
        for owner in owners:
            run = self._runs.get(owner[0])
            step = None if run is None else run.steps.get(owner[1])
            if run is None or step is None or step.wait is None or step.wait.since > place:
                continue
            if self._fits(run, step.wait, event, is_failure_told=are_failures_told):
                fit.append(owner)
        return fit

    def _bring(self, owners: list[tuple[bytes, bytes]], event: Any) -> list[tuple[bytes, bytes]]:
        """Send an event to the steps of other partitions; returns those of this one."""
        for run, step in owners:
            if not self._draft.has(run):
                met = EventMet(run=run, step=step, name=event["name"], event=encode(event))
                self._draft.tell_run(run, met)
        return [owner for owner in owners if self._draft.has(owner[0])]

    def _fits(self, run: Run, wait: EventWait, event: Any, *, is_failure_told: bool) -> bool:
        """Whether a wait's condition holds."""
        if wait.if_exp is None:
            return True
        try:
            return self._waits.filter(wait.if_exp).evaluate(run.event, event)
        except EvaluationError as error:
            if is_failure_told:
                self._failures.note(run.head.function, wait.if_exp, error)
            return False
