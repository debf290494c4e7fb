"""Decides messages: how owners change, what is written, what happens after.

One ``apply`` handles one message. It changes the state, appends journal records and asks for effects (``draft.py``);
nothing of that is visible outside before the turn that holds it is committed. Each kind of owner has a module, which
knows the ones before it in this order: runs, versions, waits, endings, dispatching, routing, arrivals, steps. One that
wants something of a later one leaves a message in the draft, which is decided before the turn ends.
"""

from collections.abc import Callable, Mapping
from typing import Any

from steplog.engine import keys
from steplog.engine.arrivals import Arrivals
from steplog.engine.backoffs import end_backoffs
from steplog.engine.crons import Crons
from steplog.engine.dispatching import Dispatches
from steplog.engine.draft import Draft, Home
from steplog.engine.endings import Endings
from steplog.engine.failures import Failures
from steplog.engine.functions import ENVIRONMENTS, EngineConfig, Registry
from steplog.engine.mail import Mail
from steplog.engine.messages import (
    Adopt,
    Carried,
    DispatchLost,
    Drain,
    EventAccepted,
    EventMet,
    EventOffered,
    EventsRead,
    Input,
    LookBack,
    Message,
    OpReported,
    PlanCrons,
    RetryNow,
    RunParked,
    RunReported,
    SignalAnswered,
    SignalAwaited,
    SignalHeard,
    SignalSent,
    SweepSeen,
    TimerFired,
    Unreadable,
    WaitArmed,
    WaitEnded,
    WaitForgotten,
    decode_message,
)
from steplog.engine.recent import EventLog, Recent
from steplog.engine.routing import Routing
from steplog.engine.runs import Runs
from steplog.engine.signals import Signals
from steplog.engine.state import State
from steplog.engine.steps import Steps
from steplog.engine.versions import Versions
from steplog.engine.waits import Waits


class Engine:
    """The owners of one partition."""

    def __init__(
        self, state: State, log: EventLog | None, registry: Registry, config: EngineConfig, home: Home = Home()
    ) -> None:
        self.state, self._registry = state, registry
        self._learnt: set[bytes] = set()
        self.draft = draft = Draft(state, home)
        self.runs = runs = Runs(draft)
        self._versions = versions = Versions(draft)
        self._waits = waits = Waits(draft)
        self._signals = signals = Signals(draft)
        self._endings = Endings(draft, runs, waits, signals, registry, config)
        self._dispatches = Dispatches(draft, runs, self._endings, registry, config)
        failures = Failures(draft)
        self._routing = Routing(draft, runs, versions, self._dispatches, registry, failures)
        self._crons = Crons(draft, registry)
        self._mail = mail = Mail(draft, log)
        recent = Recent(draft, log, config.kept_bytes)
        self._arrivals = arrivals = Arrivals(draft, runs, waits, mail, recent, failures, config)
        self._steps = steps = Steps(
            draft, runs, waits, signals, arrivals, self._endings, self._dispatches, registry, config
        )
        self.deciders: dict[type[Message | Input], Callable[[Any], None]] = {
            EventAccepted: self._accept,
            OpReported: steps.report,
            RunReported: self._endings.report,
            RunParked: self._dispatches.park,
            TimerFired: self._fire,
            WaitEnded: steps.end_wait,
            WaitForgotten: self._forget_wait,
            WaitArmed: waits.armed,
            EventOffered: self._offer,
            EventMet: self._bring,
            LookBack: steps.look_back,
            EventsRead: steps.looked_back,
            SignalAwaited: signals.wait,
            SignalSent: signals.send,
            SignalHeard: steps.hear,
            SignalAnswered: signals.answered,
            DispatchLost: self._dispatches.lose,
            Adopt: self._dispatches.adopt,
            RetryNow: self._retry_now,
            Drain: self._drain,
            PlanCrons: self._plan_crons,
            SweepSeen: self._routing.sweep,
            Unreadable: draft.put_aside,
            Carried: self._decide_carried,
        }

    @property
    def live_runs(self) -> int:
        """How many runs are dispatched."""
        return self.runs.live

    def recover(self, *, is_counted: bool = True) -> list[Message]:
        """What has to be decided first: the dispatches that were in flight when the log was last written."""
        state, runs = self.state, self.runs
        was_drained = state.get(keys.DRAINED) is not None
        if was_drained:
            state.delete(keys.DRAINED)
        found: list[Message] = []
        for key, _ in state.owned(bytes([keys.LIVE])):
            run = runs.get(keys.run_of(key))
            if run is None:
                state.delete(key)
            elif run.is_terminal:  # bodies that outlived their run are gone with their process
                runs.remove(run)
            else:
                run.is_live = True
                runs.live += 1
                found.append(DispatchLost(run=run.key, counted=is_counted and not was_drained))
        for env in ENVIRONMENTS:
            for function, spec in self._registry.by_id.items():
                self._versions.of(env, spec)
                orphans = state.owned(keys.orphans(env, function)) if self._registry.is_here(function) else ()
                found.extend(Adopt(run=keys.run_of(key), function=function) for key, _ in orphans)
            self._routing.recover(env)
            self._waits.recover(env)
            found += [SweepSeen(env=env), PlanCrons(env=env)]
        self._mail.recover()
        asking = [keys.ask_owner(key) for key, _ in state.owned(bytes([keys.ASK]))]
        found += [LookBack(run=run, step=step) for run, step in asking]
        return found + [Carried(key=key, message=message) for key, message in state.owned(keys.CARRIED)]

    def reconcile(self) -> list[Message]:
        """What has to be decided when other functions are known than before."""
        for env in ENVIRONMENTS:
            for spec in self._registry.by_id.values():
                self._versions.of(env, spec)
        return [PlanCrons(env=env) for env in ENVIRONMENTS]

    def apply(self, message: Message | Input) -> None:
        """Decide a message. What owners send each other because of it is in ``draft.messages``, to be decided next."""
        self.deciders[type(message)](message)

    def _accept(self, event: EventAccepted) -> None:
        met = self._arrivals.find(event) if self._waits.is_used else None
        self._routing.accept(event, resumed=() if met is None else self._steps.resumed_by(met))
        if met is not None:
            self._steps.meet(met)

    def _offer(self, offered: EventOffered) -> None:
        self._steps.meet(self._arrivals.offered(offered))

    def _bring(self, met: EventMet) -> None:
        self._steps.meet(self._arrivals.brought(met))

    def _forget_wait(self, message: WaitForgotten) -> None:
        (self._signals if keys.is_signal(message.key) else self._waits).forgotten(message)

    def _fire(self, timer: TimerFired) -> None:
        if timer.step == keys.CRON_TICK:
            self._crons.fire(timer)
        else:
            self._steps.fire(timer)

    def _retry_now(self, message: RetryNow) -> None:
        end_backoffs(self.draft, self.runs, message)

    def _drain(self, _: Drain) -> None:
        self.state.put(keys.DRAINED, b"1")

    def _plan_crons(self, message: PlanCrons) -> None:
        self._crons.plan(message.env)

    def _decide_carried(self, carried: Carried) -> None:
        self.state.delete(carried.key)
        self.apply(decode_message(carried.message))

    def open_mail(self) -> None:
        """Go on with the events that earlier turns have not held against all waits."""
        while (met := self._arrivals.next_mailed()) is not None:
            self._steps.meet(met)

    def learn(self, registry: Mapping[bytes, bytes]) -> None:
        """Take note of what every partition has to know."""
        for key in registry.keys() - self._learnt:
            self._learnt.add(key)
            if key[0] == keys.PATH:
                self._waits.learn(registry[key])

    def pump(self) -> bool:
        """Give free places to the runs that wait. Returns whether the next turn has something to do at once."""
        return self._dispatches.pump() or not self._mail.is_empty
