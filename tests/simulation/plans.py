"""What one seed chooses: functions, limits, and how much goes wrong."""

from random import Random

import msgspec

from steplog.engine.cron import CatchUp
from steplog.engine.events import FINISHED_EVENT
from steplog.engine.functions import CronTrigger, EngineConfig, EventTrigger, FunctionSpec
from steplog.engine.operations import EventOut
from steplog.engine.retry import RetryPolicy
from steplog.engine.state import Limits

from .scripts import DAY, HOUR, MINUTE, SAME, SECOND, SMALLER, Author, Node, Sequence, Step, Wait
from .told import ODD, PERIODS_MS

START_MS = 1_800_000_000_000
ROOMY_BYTES = 1 << 20  # more than all events of a simulation take
ROOTS, CHILDREN = ("root.a", "root.b", "root.c"), ("child.a", "child.b")
CROWD = "crowd.a"  # starts a function whose runs all wait for the same
AT_COMMITS = (
    "crash within a turn",
    "crash before a commit",
    "crash after a commit",
    "crash among the effects",
    "commit refused",
    "commit with unknown outcome",
)


class Group(msgspec.Struct):
    """Events that are sent together, again and again until they are answered."""

    events: list[EventOut]
    seed: int | None = None  # their internal ids derive from it, as from an SDK's: the same at every try
    is_answered: bool = False
    tries: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Drawn once, before anything happens."""

    functions: tuple[FunctionSpec, ...]
    scripts: dict[str, Node]
    groups: tuple[tuple[int, Group], ...]  # (when it is sent, group)
    signals: tuple[tuple[int, str], ...]  # (when it is sent, from outside, signal)
    config: EngineConfig
    limits: Limits
    calm_ms: int  # from then on nothing goes wrong any more
    evict_after_ms: int
    at_commits: tuple[str, ...]  # the faults that hit commits
    fault_chance: float  # of one at each commit
    crashes: int  # at any moment
    drains: int
    down_ms: int  # the longest time between two processes
    is_partial: bool  # starts may lack a function
    repeat_chance: float  # of a report or an event
    hop_ms: int  # the longest way between driver, engine and sender
    hurries: int  # how often somebody lets all that waits for another attempt have it at once


def draw(chance: Random) -> Plan:
    """Draw a plan."""
    crash_chance = chance.choice((0.0, 0.01, 0.05, 0.15))
    calm_ms = START_MS + chance.choice((MINUTE, HOUR, 2 * DAY))
    functions, scripts = _functions(chance, may_kill=crash_chance > 0)
    functions += _started_by_the_engine(chance, functions, scripts, calm_ms)
    groups = _groups(chance, calm_ms)
    if chance.random() < 0.2:
        spec = FunctionSpec(id="app-crowd", app="app", triggers=(EventTrigger(CROWD),))
        functions, scripts = (*functions, spec), {**scripts, spec.id: _crowd_script(chance)}
        groups += _crowd(chance, START_MS + chance.randrange(SECOND))
    return Plan(
        functions=functions,
        scripts=scripts,
        groups=tuple(groups),
        signals=tuple([(_early(chance, calm_ms), chance.choice("xy")) for _ in range(chance.choice((0, 0, 1, 4)))]),
        config=EngineConfig(
            live_runs=chance.choice((1, 2, 4, 10_000, 10_000)),
            steps_per_run=chance.choice((2, 4, 1_000, 1_000, 1_000, 1_000)),
            run_state_bytes=chance.choice((250, 32_000_000, 32_000_000, 32_000_000)),
            lost_allowance=chance.choice((0, 3)),
            retry=RetryPolicy(interval_ms=chance.choice((None, 0, SECOND))),
            met_per_turn=chance.choice((1, 1, 2, 1_000)),
            kept_bytes=chance.choice((1_500, ROOMY_BYTES, ROOMY_BYTES)),
        ),
        limits=chance.choice((Limits(), _tiny(chance), _tiny(chance))),
        calm_ms=calm_ms,
        evict_after_ms=chance.choice((0, 0, 30 * SECOND, 30 * SECOND, 400 * DAY)),
        at_commits=tuple(chance.sample(AT_COMMITS, chance.randint(1, len(AT_COMMITS)))),
        fault_chance=crash_chance,
        crashes=chance.choice((0, 0, 1, 3)),
        drains=chance.choice((0, 0, 1, 2)),
        down_ms=chance.choice((MINUTE, (calm_ms - START_MS) // 6)),
        is_partial=chance.random() < 0.2,
        repeat_chance=chance.choice((0.0, 0.2, 0.5)),
        hop_ms=chance.choice((0, 2, 2_000)),
        hurries=chance.choice((0, 0, 2, 10)),
    )


def _tiny(chance: Random) -> Limits:
    return Limits(
        pending_keys=chance.choice((0, 3, 12)), pending_turns=chance.choice((1, 5, 20)),
        slice_keys=chance.choice((1, 4)), head_keys=chance.choice((1, 1, 2, 3)),
        redo_bytes=chance.choice((400, 1 << 20)), young_turns=2, held_bytes=300,
    )  # fmt: skip


def _functions(chance: Random, *, may_kill: bool) -> tuple[tuple[FunctionSpec, ...], dict[str, Node]]:
    specs: list[FunctionSpec] = []
    scripts: dict[str, Node] = {}
    are_roots = [index == 0 or chance.random() < 0.6 for index in range(chance.randint(2, 4))]
    callees = tuple([f"app-{index}" for index, is_root in enumerate(are_roots) if not is_root])
    for index, is_root in enumerate(are_roots):
        names = ROOTS if is_root else CHILDREN
        awaited = chance.choices(names, k=chance.randint(1, 2))
        triggers = tuple([EventTrigger(name, chance.choice((None, None, ODD))) for name in awaited])
        spec = FunctionSpec(id=f"app-{index}", app="app", triggers=triggers, retries=chance.choice((0, 1, 4)))
        specs.append(spec)
        sends, calls = (CHILDREN, callees) if is_root else ((), ())
        awaits = (*ROOTS, *CHILDREN)
        scripts[spec.id] = Author(chance, sends, calls, awaits=awaits, may_kill=may_kill).write()
    return tuple(specs), scripts


def _started_by_the_engine(
    chance: Random, functions: tuple[FunctionSpec, ...], scripts: dict[str, Node], calm_ms: int
) -> tuple[FunctionSpec, ...]:
    """Functions for a failure, for every end, and for the ticks of a cron."""
    specs: list[FunctionSpec] = []
    if chance.random() < 0.3:
        specs.append(FunctionSpec(id="app-handler", app="app", retries=0, failure_of=chance.choice(functions).id))
    if chance.random() < 0.15:
        specs.append(FunctionSpec(id="app-ends", app="app", retries=0, triggers=(EventTrigger(FINISHED_EVENT),)))
    if chance.random() < 0.2:
        cron = next(cron for cron, period_ms in reversed(PERIODS_MS.items()) if period_ms <= calm_ms - START_MS)
        catch_up: CatchUp = chance.choice(("last", "skip", "all"))
        trigger = CronTrigger(cron, jitter_ms=chance.choice((0, 20 * SECOND)), catch_up=catch_up)
        specs.append(FunctionSpec(id="app-cron", app="app", retries=1, triggers=(trigger,)))
    for spec in specs:
        scripts[spec.id] = Author(chance, (), (), awaits=ROOTS, may_kill=False).write()
    return tuple(specs)


def _early(chance: Random, calm_ms: int) -> int:
    """A time before it is calm, rather an early one."""
    return START_MS + int((calm_ms - START_MS) * chance.random() ** 3)


def _groups(chance: Random, calm_ms: int) -> list[tuple[int, Group]]:
    ids = [f"order-{n}" for n in range(4)]
    found: list[tuple[int, Group]] = []
    for index in range(chance.randint(2, 7)):
        at_ms = _early(chance, calm_ms)
        events = [draw_event(chance, at_ms, ids) for _ in range(chance.choice((1, 1, 2, 4)))]
        found.append((at_ms, Group(events, seed=index if chance.random() < 0.2 else None)))
        if chance.random() < 0.7:  # what it starts may wait for this one, which is there first
            found.append((at_ms + chance.randint(0, 5), Group([draw_event(chance, at_ms, ids)])))
    return found


def _crowd_script(chance: Random) -> Node:
    wait = Wait(
        id="wait-1", names=CHILDREN, timeout_ms=chance.choice((30, 60, SECOND, MINUTE)), all_of=chance.random() < 0.3,
        condition=chance.choice((None, SAME, SMALLER)), is_since_trigger=chance.random() < 0.3,
    )  # fmt: skip
    return Sequence((wait, Step(id="step-2")))


def _crowd(chance: Random, at_ms: int) -> list[tuple[int, Group]]:
    """Many runs, and a few events soon after that each of them waits for."""
    starting = [EventOut(name=CROWD, data=b'{"n":%d}' % chance.randint(0, 1)) for _ in range(chance.randint(3, 7))]
    found = [(at_ms, Group(starting))]
    for _ in range(chance.randint(1, 4)):
        event = EventOut(name=chance.choice(CHILDREN), data=b'{"n":%d}' % chance.randint(0, 1))
        found.append((at_ms + chance.randint(0, 80), Group([event])))
    return found


def draw_event(chance: Random, at_ms: int, ids: list[str]) -> EventOut:
    """Draw an event; half of them have an id of ``ids``."""
    return EventOut(
        name=chance.choice((*ROOTS, *ROOTS, *CHILDREN, "nobody.listens")),
        data=b'{"n":%d}' % chance.randint(0, 1),
        id=chance.choice(ids) if chance.random() < 0.5 else None,
        ts=at_ms + chance.choice((-DAY, MINUTE, 3 * HOUR)) if chance.random() < 0.2 else None,
    )
