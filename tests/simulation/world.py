"""A node, its senders and everything that goes wrong, under one seeded scheduler in virtual time.

``simulate(seed)`` makes functions, sends events and injects faults until it is calm, then lets everything come to rest
and checks that nothing is left. The same seed gives the same run, to the last message.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from heapq import heappop, heappush
from random import Random
from typing import TypeVar

import msgspec

from steplog.engine import keys
from steplog.engine.effects import Answer, Dispatch, Effect, MakeRoom
from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV, CronTrigger, FunctionSpec, Registry
from steplog.engine.ids import encode_ulid, ulid
from steplog.engine.messages import Drain, Message, OfRun, OpReported, RetryNow, RunReported, SignalSent
from steplog.engine.operations import EventOut
from steplog.engine.processor import Processor, Turn
from steplog.log.memory import MemoryLog, MemoryTable

from .driver import Driver
from .plans import ROOMY_BYTES, START_MS, Group, draw
from .scripts import DAY, HOUR, MINUTE, SECOND
from .watch import Watch

MOST_STRIKES = 40  # of the faults that hit commits
MOST_TURNS = 6_000  # of one simulation; beyond it, it does not come to rest
MOST_TRIES = 200  # of a sender; beyond it, it gets no answer
ANSWER_MS = 5_000  # how long a sender waits before it sends again
EVERYTHING = (b"\0", b"\xff", 1 << 30)
T = TypeVar("T")


class Report(msgspec.Struct, frozen=True):
    """What happened under one seed."""

    seed: int
    turns: int
    runs: int
    fired: dict[str, int]  # faults, and other things that a suite has to have met
    kinds: dict[str, int]  # of journal records


class Strike(msgspec.Struct, frozen=True):
    """The one fault of a simulation: at the ``nth`` moment, from 1, at which it could be."""

    kind: str
    nth: int


def simulate(seed: int, *, only: Strike | None = None, trace: Callable[[str], None] | None = None) -> Report:
    """Run one simulation; raises ``Broken`` where a promise does not hold.

    ``only`` replaces the seed's faults by a single one. ``trace`` gets a line for everything that happens.
    """
    try:
        return Simulation(seed, only, trace).run()
    except Exception as error:
        error.add_note(f"seed {seed}; alone and traced: python -m tests.simulation {seed}")
        raise


class Simulation:
    """Everything that happens, in the order of its time."""

    def __init__(self, seed: int, only: Strike | None, trace: Callable[[str], None] | None) -> None:
        self._seed, self._only, self._trace = seed, only, trace
        self._chance = Random(seed)
        plan = draw(self._chance)
        if only is not None:
            plan = msgspec.structs.replace(plan, crashes=0, drains=0, is_partial=False)
        self._plan = plan
        self.evict_after_ms = plan.evict_after_ms
        self.watch = Watch(
            retries={f.id: f.retries for f in plan.functions}, live_runs=plan.config.live_runs,
            lost_allowance=plan.config.lost_allowance, is_roomy=plan.config.kept_bytes == ROOMY_BYTES,
        )  # fmt: skip
        self.now_ms = START_MS
        self._agenda: list[tuple[int, int, int, Callable[[], None]]] = []  # (when, number, life, what)
        self._number = 0
        self._life = 1  # of the process; what an earlier one had on the agenda does not happen
        self._log = MemoryLog()
        self._processor: Processor | None = None
        self._driver = Driver(self, plan.scripts)
        self._is_busy = False  # a turn is open or being committed
        self._is_draining = False  # it ends in order as soon as it can
        self._is_calm = False
        self._missing: str | None = None  # a function that is not registered
        self._turns = self._opened_turn = self._redo_from = 0
        self._reported_ms: dict[bytes, int] = {}  # when the last report of a run arrives
        self._released_ms = 0  # when the last effects arrive
        self._tickets: dict[int, tuple[Group, list[str]]] = {}
        self._signals: dict[int, str] = {}  # by their tickets, which are negative
        self._sent_signals = 0
        self._held: list[Callable[[], None]] = []  # what senders try again as soon as there is a node
        self._events = 0
        self._strikes_left = MOST_STRIKES
        self._spent: Counter[tuple[str, str]] = Counter()
        self._fired: Counter[str] = Counter()
        self._met: Counter[str] = Counter()  # moments at which a fault could have struck

    def run(self) -> Report:
        """Let everything happen."""
        plan = self._plan
        self._start()
        for at_ms, group in plan.groups:
            self._outside(at_ms - START_MS, lambda group=group: self._send(group))  # type: ignore[misc]  # bound now
        for at_ms, signal in plan.signals:
            self._outside(at_ms - START_MS, lambda signal=signal: self._signal(signal))  # type: ignore[misc]
        for action in [*[self._crash] * plan.crashes, *[self._drain] * plan.drains, *[self._hurry] * plan.hurries]:
            self._outside(self._chance.randrange(plan.calm_ms - START_MS), action)
        self._outside(plan.calm_ms - START_MS, self._calm_down)
        self._come_to_rest()
        self.watch.expect(all(group.is_answered for _, group in plan.groups), "P1", "a sender has no answer")
        self.watch.at_rest()
        self._outside(3 * DAY, lambda: self._send(Group([EventOut(name="nobody.listens", data=b"{}")])))
        self._come_to_rest()
        left = [key for key in self.watch.state if key[0] not in (keys.PATH, keys.FUNCTION)]
        self.watch.expect(not left, "state", f"{len(left)} ids outlive their window")
        self._fired["attempt before its time"] = self.watch.hurried
        return Report(self._seed, self._turns, len(self.watch.runs), self._fired, self.watch.kinds)

    # --- time

    def _come_to_rest(self) -> None:
        """Do what is due, and let time pass to what is due next, until nothing is."""
        while True:
            processor = None if self._is_busy else self._processor
            due_ms = None
            if processor is not None:
                if self._is_draining:
                    self._end_in_order(processor)
                    continue
                if processor.has_work(self.now_ms):
                    self._decide(processor)
                    continue
                due_ms = processor.next_due_ms()
                self.watch.idle(due_ms)
            if due_ms is not None and (not self._agenda or due_ms < self._agenda[0][0]):
                self._pass_to(due_ms)
            elif self._agenda:
                at_ms, _, life, action = heappop(self._agenda)
                self._pass_to(at_ms)
                if life in (0, self._life):
                    action()
            else:
                return

    def _pass_to(self, at_ms: int) -> None:
        self.now_ms = self.watch.now_ms = max(self.now_ms, at_ms)

    def _after(self, ms: int, action: Callable[[], None]) -> None:
        """Do something later, if this process still lives then."""
        self._number += 1
        heappush(self._agenda, (self.now_ms + ms, self._number, self._life, action))

    def _outside(self, ms: int, action: Callable[[], None]) -> None:
        """Do something later, whatever happens to the process."""
        self._number += 1
        heappush(self._agenda, (self.now_ms + ms, self._number, 0, action))

    def _hop_ms(self) -> int:
        return self._chance.randint(0, self._plan.hop_ms)

    # --- the node: decide, commit, release

    def _start(self) -> None:
        """Start a process."""
        self._missing = None
        if self._plan.is_partial and not self._is_calm and self._chance.random() < 0.5:
            self._missing = self._chance.choice(self._plan.functions).id
            self.fired("function not registered")
        self._driver.die()
        self._opened_turn = self._turns
        self._read_log()

    def _read_log(self) -> None:
        loaded = finished(self._log.load())
        assert isinstance(loaded.table, MemoryTable), "a log in memory has its table there"
        is_whole = loaded.table.scan(*EVERYTHING) == sorted(self.watch.state.items())
        self.watch.expect(is_whole, "state", "what was read is not what was committed")
        functions = self._registered()
        self.watch.told.register(functions)
        self._processor = Processor(loaded, Registry(functions), self._plan.config, self._plan.limits)
        self._processor.recover(is_counted=loaded.turn == self._opened_turn)
        self._is_busy = False
        held, self._held = self._held, []
        for action in held:
            self._outside(0, action)

    def _registered(self) -> list[FunctionSpec]:
        """The functions that this process knows; those with a cron lose it when it is calm, or there is no end."""
        found = [f for f in self._plan.functions if f.id != self._missing]
        return [msgspec.structs.replace(f, triggers=()) if self._is_calm and _has_cron(f) else f for f in found]

    def _decide(self, processor: Processor) -> None:
        """Decide a part of a turn, or all of it."""
        if self._processor is not processor:
            return
        self._is_busy = True
        is_complete = processor.advance(self.now_ms, self._chance.choice((1, 4, 2_000)))
        if self._strikes("crash within a turn"):
            self.kill("crash within a turn")
        elif is_complete:
            turn = processor.seal()
            self._after(self._chance.choice((0, 1, 3)), lambda: self._commit(processor, turn))
        else:
            self._after(self._chance.choice((0, 1, 100)), lambda: self._decide(processor))

    def _commit(self, processor: Processor, turn: Turn) -> None:
        if self._processor is not processor:
            return
        if self._strikes("crash before a commit"):
            self.kill("crash before a commit")
        elif self._strikes("commit refused"):
            self._lose_memory("commit refused")
        else:
            self._write(turn)
            if self._strikes("crash after a commit"):
                self.kill("crash after a commit")
            elif self._strikes("commit with unknown outcome"):
                self._lose_memory("commit with unknown outcome")
            else:
                self._release(processor)

    def _write(self, turn: Turn) -> None:
        finished(self._log.commit(turn))
        self._turns += 1
        assert self._turns < MOST_TURNS, "it does not come to rest"
        self._say(f"turn {turn.number}", *turn.records)
        if turn.state.flush:
            self.fired("slice of the table")
        if self._redo_from < turn.state.redo_from <= turn.number:
            self.fired("redo cut")
        self._redo_from = turn.state.redo_from
        self.watch.committed(turn)

    def _release(self, processor: Processor) -> None:
        effects = processor.committed()
        live = processor.engine.live_runs
        self.watch.expect(live == self.watch.live, "limit", f"the engine counts {live} live runs: {self.watch.live}")
        for effect in effects:
            if isinstance(effect, Answer) and effect.ticket in self._signals:
                self.watch.heard(self._signals.pop(effect.ticket), effect.run_id)
        if len(effects) > 1 and self._strikes("crash among the effects"):
            self._hand_out(effects[: self._chance.randrange(1, len(effects))])
            self._to_driver(lambda: self.kill("crash among the effects"))
            return
        self._is_busy = False
        self._hand_out(effects)

    def _hand_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer) and effect.ticket in self._tickets:
                self._outside(self._hop_ms(), lambda ticket=effect.ticket: self._answer(ticket))  # type: ignore[misc]
        self._to_driver(lambda: self._arrive([e for e in effects if not isinstance(e, Answer)]))

    def _to_driver(self, action: Callable[[], None]) -> None:
        """What goes to the driver arrives in order."""
        self._released_ms = max(self._released_ms, self.now_ms + self._hop_ms())
        self._after(self._released_ms - self.now_ms, action)

    def _arrive(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._say("  effect", effect)
            match effect:
                case MakeRoom():
                    self.fired("no place for a run")
                case Dispatch(is_poisoned=True):
                    self.fired("poisoned dispatch")
                case Dispatch(pending=(_, *_)):
                    self.fired("dispatch with steps that wait")
                case _:
                    pass
        self._driver.handle(effects)

    def _post(self, *messages: Message) -> None:
        for message in messages:
            self._say("  message" if self._processor else "  message for nobody", message)
            if self._processor is not None:
                self._processor.post(message)

    # --- faults

    def _strikes(self, kind: str) -> bool:
        plan = self._plan
        if self._only is not None:
            self._met[kind] += 1
            return self._only == Strike(kind, self._met[kind])
        if self._is_calm or kind not in plan.at_commits or self._chance.random() >= plan.fault_chance:
            return False
        self._strikes_left -= 1  # or many runs would never get as far as their answers
        return self._strikes_left >= 0

    def fired(self, kind: str) -> None:
        self._fired[kind] += 1

    def kill(self, why: str) -> None:
        """End the process: what it held, executed and was told is gone."""
        self._end(why, self._chance.choice((0, SECOND, self._plan.down_ms)))

    def _end(self, why: str, restart_ms: int, *, is_lost: bool = True) -> None:
        self.fired(why)
        self._say(f"--- {why}")
        self._life += 1
        self._processor, self._is_busy = None, False
        self._reported_ms.clear()
        self._released_ms = 0
        self.watch.hit(is_counted=is_lost)
        self.watch.messages_lost()
        self._outside(restart_ms, self._start)

    def _lose_memory(self, why: str) -> None:
        """The node drops what it holds and reads it back; bodies go on, and answer for dispatches that are over."""
        self.fired(why)
        self._say(f"--- {why}")
        self._processor = None
        self.watch.messages_lost()

        def abandon() -> None:
            self._driver.abandon()
            self.watch.hit()

        self._to_driver(abandon)
        self._after(self._chance.choice((0, 500)), self._read_log)

    def _crash(self) -> None:
        if self._processor is not None:
            self.kill("crash at any moment")

    def _drain(self) -> None:
        self._is_draining = True

    def _end_in_order(self, processor: Processor) -> None:
        """Hand back what is in flight with a last commit."""
        self._is_draining = False
        processor.post(Drain())
        while processor.has_work(self.now_ms):
            while not processor.advance(self.now_ms):
                pass
            self._write(processor.seal())
            for effect in processor.committed():
                if isinstance(effect, Answer) and effect.ticket in self._tickets:
                    self._answer(effect.ticket)
        self._end("end in order", 0, is_lost=False)

    def _hurry(self) -> None:
        """Somebody does not want to wait for the next attempts."""
        if self._processor is not None:
            self.watch.hurry()
            self._post(RetryNow(env=DEFAULT_ENV))

    def _calm_down(self) -> None:
        self._is_calm = True
        if self._missing is not None or any(map(_has_cron, self._plan.functions)):
            self._drain()

    # --- the driver's world

    def body(self, end: Callable[[], None]) -> None:
        self._after(self._chance.choice((0, 1, 1, 5, 200, 3 * SECOND, 10 * MINUTE)), end)

    def report(self, run: bytes, message: OfRun) -> None:
        at_ms = max(self._reported_ms.get(run, 0), self.now_ms + self._hop_ms())
        self._reported_ms[run] = at_ms
        self._after(at_ms - self.now_ms, lambda: self._post(message))
        if isinstance(message, OpReported | RunReported) and self._chance.random() < self._plan.repeat_chance:
            self._after(
                at_ms - self.now_ms + self._chance.choice((0, 5, 2 * SECOND, MINUTE, HOUR)),
                lambda: self._repeat(message),
            )

    def _repeat(self, message: Message) -> None:
        self.fired("end reported twice" if isinstance(message, RunReported) else "step reported twice")
        self._post(message)

    def takes_from(self, run_id: str, name: str, times: int) -> bool:
        self._spent[run_id, name] += 1
        return self._spent[run_id, name] <= times

    # --- senders

    def _send(self, group: Group, *, is_repeat: bool = False) -> None:
        if group.is_answered and not is_repeat:
            return
        if self._processor is None:
            self._held.append(lambda: self._send(group, is_repeat=is_repeat))
            return
        ticket = len(self._tickets) + 1
        internal = [self._internal_id(group, index) for index in range(len(group.events))]
        self._tickets[ticket] = (group, [encode_ulid(each) for each in internal])
        messages = [
            accept_event(
                event, internal[index], env=DEFAULT_ENV, received_ms=self.now_ms, source="simulation",
                is_seeded=group.seed is not None, is_last=index == len(internal) - 1,
                ticket=ticket if index == len(internal) - 1 else None,
            )
            for index, event in enumerate(group.events)
        ]  # fmt: skip
        self._after(self._hop_ms(), lambda: self._post(*messages))
        self._outside(ANSWER_MS, lambda: self._send_again(group))

    def _signal(self, signal: str) -> None:
        self._sent_signals += 1
        ticket = -self._sent_signals
        self._signals[ticket] = signal
        self._post(SignalSent(env=DEFAULT_ENV, signal=signal, data=b"2", ticket=ticket))

    def _send_again(self, group: Group) -> None:
        if not group.is_answered:
            group.tries += 1
            self.watch.expect(group.tries < MOST_TRIES, "P1", "a sender has no answer")
            self.fired("event sent again")
            self._send(group)

    def _internal_id(self, group: Group, index: int) -> bytes:
        if group.seed is not None:
            return ulid(START_MS + group.seed, index.to_bytes(10, "big"))
        self._events += 1
        return ulid(self.now_ms, self._events.to_bytes(10, "little"))

    def _answer(self, ticket: int) -> None:
        group, internal_ids = self._tickets[ticket]
        self.watch.answered(internal_ids)
        group.is_answered = True
        if self._chance.random() < self._plan.repeat_chance:
            self.fired("event repeated")
            after_ms = self._chance.choice((0, SECOND, HOUR, DAY - HOUR, DAY + HOUR, 2 * DAY, 3 * DAY))
            self._outside(after_ms, lambda: self._send(group, is_repeat=True))

    # --- for people

    def _say(self, what: str, *details: object) -> None:
        if self._trace is not None:
            shown = [d.decode() if isinstance(d, bytes) else str(d) for d in details]
            self._trace("\n".join([f"{self.now_ms - START_MS:>12} {what}", *[f"{'':14}{line}" for line in shown]]))


def _has_cron(function: FunctionSpec) -> bool:
    return any(isinstance(trigger, CronTrigger) for trigger in function.triggers)


def finished(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a log in memory does not wait")
