"""Which steps an event ends that wait for it: when it comes, in a later turn where they are many, or looked back for.

A wait counts events from a place in the log on (``EventWait.since``): the place at which it was made, or behind the
event that started its run. One event ends a wait, the first in the order of the log that fits; so what is decided in
several turns is the same as if it had been decided in one.

Where the log brings the events, those of before lie in the topics of all partitions. A wait that looks back is
committed first and asks then (``effects.ReadEvents``); the log is read to an end that is later than that commit, and
what is written behind it meets the wait, which is there. Until the answer comes it puts by what it meets, and its time
does not end it. There the order is that of receipt.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from steplog.engine import effects, keys
from steplog.engine.draft import Draft, encode
from steplog.engine.failures import Failures
from steplog.engine.functions import EngineConfig
from steplog.engine.ids import ulid_ms
from steplog.engine.mail import Mail, Mailed
from steplog.engine.messages import EventAccepted, EventMet, EventOffered, EventsRead, Origin
from steplog.engine.recent import KEPT_MS, Recent
from steplog.engine.records import ExpressionFailure, event_seen
from steplog.engine.run import EventWait, Run
from steplog.engine.runs import Runs
from steplog.engine.waits import Spot, Waits
from steplog.engine.windows import decode_stored
from steplog.errors import EvaluationError

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
        origin = self._draft.home.partition, self._draft.offset, event.received_ms
        self._waits.offer(event.env, event.name, seen, origin)
        self._recent.note(event.env, event.name, event.received_ms, event.body, seen)
        mailed = Mailed(env=event.env, name=event.name, place=self._draft.next_place, origin=origin, event=seen)
        found = self._first(mailed)
        return Met(event.name, seen, self._fitting(found, mailed, are_failures_told=True)) if found else None

    def offered(self, message: EventOffered) -> Met:
        """Find the steps that stand in a place of the index, for an event of another partition."""
        event = _decode(message.event)
        mailed = Mailed(
            env=keys.env_of(message.prefix), name=message.name, place=self._draft.next_place,
            origin=message.origin, event=event, prefix=message.prefix,
        )  # fmt: skip
        return Met(message.name, event, self._fitting(self._first(mailed), mailed, are_failures_told=False))

    def brought(self, message: EventMet) -> Met:
        """Hold an event against one step, which another partition has found in the index."""
        event = _decode(message.event)
        run = self._runs.get(message.run)
        step = None if run is None else run.steps.get(message.step)
        if run is None or step is None or step.wait is None or not _is_behind(step.wait, message.origin):
            return Met(message.name, event, [])
        fits = self._fits(run, step.wait, event, is_failure_told=False)
        return Met(message.name, event, [(message.run, message.step)] if fits else [])

    def next_mailed(self) -> Met | None:
        """Go on with the oldest event that is not done; None where there is none, or the turn has done enough."""
        if self._mail.is_empty or self._draft.met >= self._most:
            return None
        mailed, most = self._mail.waiting[0], self._most - self._draft.met
        found = self._standing(mailed, most)
        if len(found) < most:
            self._mail.remove_first()
        else:
            mailed.beyond = found[-1]
            self._mail.put(mailed)
        return Met(mailed.name, mailed.event, self._fitting(found, mailed, are_failures_told=False))

    def mailed_for(self, run: Run, wait: EventWait) -> Iterator[tuple[str, Any]]:
        """The events that fit a wait and may not have reached it yet, in order."""
        for mailed in self._mail.waiting:
            is_awaited = _counts(wait, mailed) and mailed.name in wait.events
            if is_awaited and self._fits(run, wait, mailed.event, is_failure_told=False):
                yield mailed.name, mailed.event

    def look_back(self, run: Run, step: bytes, wait: EventWait, spots: Sequence[Spot]) -> LookedBack:
        """Find the events that a wait would have met, had it been made when its run's event came, or ask for them."""
        env, now_ms = keys.env_of(run.key), self._draft.now_ms
        if self._draft.home.events_return:
            wait.is_asking, wait.since, wait.since_ms = True, (0, 0), decode_stored(run.events[0]).received_at
            self._draft.state.put(keys.ask(run.key, step), b"", new=True)
            self.ask(run, step, wait, spots, now_ms)
            return LookedBack([], 0, UNSET)
        parts = [self._recent.since(env, spot.name, wait.since, spot.path, spot.value) for spot in spots]
        arrivals = sorted((a for part in parts for a in part.arrivals), key=lambda arrival: arrival.place)
        events = ((arrival.name, arrival.body) for arrival in arrivals)
        return self._looked_back(run, wait, events, now_ms, max(part.cut_ms for part in parts))

    def trigger_of(self, run: Run) -> tuple[int, int]:
        """Where the event stands that started a run: partition and offset, where the log brings events."""
        if not self._draft.home.events_return:
            return -1, -1
        return decode_stored(run.events[0]).slot % self._draft.home.partitions, run.head.place[0]

    def ask(self, run: Run, step: bytes, wait: EventWait, spots: Sequence[Spot], at_ms: int) -> None:
        """Ask for what came before a wait that was made at a time. It is read back from the log after the commit.

        A log that has its events at hand answers at once, where the wait came with a log that was moved here.
        """
        if not self._draft.home.events_return:
            turn, index = run.head.place
            found = [
                self._recent.since(keys.env_of(run.key), spot.name, (turn, index + 1), spot.path, spot.value)
                for spot in spots
            ]
            arrivals = sorted((a for part in found for a in part.arrivals), key=lambda arrival: arrival.place)
            bodies = tuple([arrival.body for arrival in arrivals])
            cut_ms = max(part.cut_ms for part in found)
            self._draft.messages.append(EventsRead(run=run.key, step=step, events=bodies, cut_ms=cut_ms))
            return
        self._draft.effects.append(
            effects.ReadEvents(
                run=run.key, step=step, env=keys.env_of(run.key),
                spots=tuple([(spot.name, spot.path, spot.value) for spot in spots]),
                since_ms=max(wait.since_ms, at_ms - KEPT_MS), trigger=wait.trigger,
            )
        )  # fmt: skip

    def looked_back(self, run: Run, wait: EventWait, at_ms: int, read: EventsRead) -> LookedBack:
        """Find the events that a wait would have met, of those that were read back for it."""
        self._draft.state.delete(keys.ask(read.run, read.step))
        wait.is_asking = False
        events = ((decode_stored(body).name, body) for body in read.events)
        return self._looked_back(run, wait, events, at_ms, read.cut_ms)

    def _looked_back(
        self, run: Run, wait: EventWait, events: Iterable[tuple[str, bytes]], at_ms: int, cut_ms: int
    ) -> LookedBack:
        """Hold a wait against events of its names, in their order, which stand where the index has it."""
        wanted, met = len(set(wait.events)) if wait.all_of else 1, set[str]()
        found: list[tuple[str, Any]] = []
        for name, body in events:
            if name in met:
                continue
            seen = event_seen(body)
            if self._fits(run, wait, seen, is_failure_told=True):
                met.add(name)
                found.append((name, seen))
                if len(found) == wanted:
                    break
        is_old = ulid_ms(keys.run_id_of(run.key)) < at_ms - KEPT_MS
        return LookedBack(found, max(at_ms - KEPT_MS if is_old else 0, cut_ms), self._failures.take())

    def _first(self, mailed: Mailed) -> list[bytes]:
        """Find the first waits for an event; what the turn has no room for goes on in the next."""
        most = self._most - self._draft.met
        found = self._standing(mailed, most)
        if len(found) >= most:  # nor is any done that follows it in this turn: they cannot overtake it
            mailed.beyond = found[-1] if found else b""
            self._mail.add(mailed)
        return found

    def _standing(self, mailed: Mailed, most: int) -> list[bytes]:
        """Find further waits for an event."""
        if mailed.prefix:
            return self._waits.standing([mailed.prefix], most, beyond=mailed.beyond)
        return self._waits.candidates(mailed.env, mailed.name, mailed.event, most, beyond=mailed.beyond)

    def _fitting(self, found: list[bytes], mailed: Mailed, *, are_failures_told: bool) -> list[tuple[bytes, bytes]]:
        """Hold an event against waits; returns those that it fits, as run key and step hash."""
        self._draft.met += len(found)
        owners = [keys.wait_owner(key) for key in found]
        if self._draft.home.partitions > 1:
            owners = self._bring(owners, mailed)
        self._runs.preload([run for run, _ in owners])
        fit: list[tuple[bytes, bytes]] = []
        for owner in owners:
            run = self._runs.get(owner[0])
            step = None if run is None else run.steps.get(owner[1])
            if run is None or step is None or step.wait is None or not _counts(step.wait, mailed):
                continue
            if self._fits(run, step.wait, mailed.event, is_failure_told=are_failures_told):
                fit.append(owner)
        return fit

    def _bring(self, owners: list[tuple[bytes, bytes]], mailed: Mailed) -> list[tuple[bytes, bytes]]:
        """Send an event to the steps of other partitions; returns those of this one."""
        here = [owner for owner in owners if self._draft.has(owner[0])]
        event = encode(mailed.event) if len(here) < len(owners) else b""
        for run, step in owners:
            if not self._draft.has(run):
                met = EventMet(run=run, step=step, name=mailed.name, event=event, origin=mailed.origin)
                self._draft.tell_run(run, met)
        return here

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


def _counts(wait: EventWait, mailed: Mailed) -> bool:
    """Whether an event comes after what a wait waits from on."""
    return mailed.place >= wait.since and _is_behind(wait, mailed.origin)


def _is_behind(wait: EventWait, origin: Origin) -> bool:
    """Whether an event comes after the one that started the run of a wait, as far as the wait asks for that."""
    partition, offset, received_ms = origin
    return received_ms >= wait.since_ms and (partition != wait.trigger[0] or offset > wait.trigger[1])
