"""What simulated functions do: trees of steps, sleeps, sent events, errors, branches and races.

A script is data, and what it does next is a pure function of the results that were delivered to it, in their order: so
a replay does what the live run did, and two drivers cannot disagree.
"""

from collections.abc import Callable, Mapping
from functools import cache
from random import Random

import msgspec

from steplog.engine.ids import hash16, step_wire_id


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step with a body. It fails ``failures`` times, and takes its process with it the first ``kills`` times."""

    id: str
    failures: int = 0
    kills: int = 0
    is_final: bool = False  # a failure says that trying again cannot help
    retry_after_ms: int | None = None
    is_caught: bool = True  # the function goes on without it when it has failed


class Nap(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep."""

    id: str
    ms: int


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """A step that sends events. ``event_id`` is shared by all runs of the function, so most of them are duplicates."""

    id: str
    names: tuple[str, ...]
    event_id: str | None = None


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is written to a topic of others."""

    id: str
    topic: str


TAKES_OVER = "take-over"  # how the ids begin of steps that take a signal over
TOLD = 1  # the data of a signal that a run sends
SAME, SMALLER = "async.data.n == event.data.n", "async.data.n < event.data.n"  # the index helps with the first
FAILING = "async.data.missing + 1 > 0"  # has no value for any event


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait for an event of one of some names, or of each, on a condition over its number and the run's own."""

    id: str
    names: tuple[str, ...]
    timeout_ms: int
    all_of: bool = False
    condition: str | None = None
    is_since_trigger: bool = False


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """A wait for a signal; it fails, or takes over, where another step waits for it."""

    id: str
    signal: str
    timeout_ms: int
    replaces: bool = False


class Tell(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that is sent."""

    id: str
    signal: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A function that is invoked."""

    id: str
    function: str
    timeout_ms: int
    is_caught: bool = True


class Raise(msgspec.Struct, frozen=True, kw_only=True):
    """The function's own code raises the first ``times`` times that it comes here."""

    id: str
    times: int


class Sequence(msgspec.Struct, frozen=True):
    """One after the other."""

    nodes: tuple["Node", ...]


class Gather(msgspec.Struct, frozen=True):
    """All at once; over when all are, or when the first raises."""

    branches: tuple["Node", ...]


class Race(msgspec.Struct, frozen=True):
    """All at once; over with the first, while the others go on."""

    branches: tuple["Node", ...]


Operation = Step | Nap | Send | Put | Wait | Listen | Tell | Call
Node = Operation | Raise | Sequence | Gather | Race


class Reached(msgspec.Struct):
    """Where a function has come to. ``at`` counts the delivered results that it took; None while it is not over."""

    at: int | None = None
    raised: str | None = None  # "step" for an uncaught failure, "code" for the function's own error


def follow(
    node: Node, order: Mapping[str, int], failed: Mapping[str, bool], raises: Callable[[Raise], bool],
    calls: list[Operation], at: int = 0,
) -> Reached:  # fmt: skip
    """Go through a script as far as it gets, and put every operation that it has called in ``calls``.

    ``order`` maps delivered steps to their place (from 1), ``failed`` says which of them failed, and ``raises`` whether
    the function's own code raises here.
    """
    match node:
        case Sequence(nodes=nodes):
            for inner in nodes:
                reached = follow(inner, order, failed, raises, calls, at)
                if reached.at is None or reached.raised:
                    return reached
                at = reached.at
            return Reached(at)
        case Gather(branches=branches):
            found = [follow(inner, order, failed, raises, calls, at) for inner in branches]
            broken = [r for r in found if r.raised]
            if broken:
                return min(broken, key=lambda r: r.at or 0)
            places = [r.at for r in found]
            return Reached() if None in places else Reached(max(place or 0 for place in places))
        case Race(branches=branches):
            found = [follow(inner, order, failed, raises, calls, at) for inner in branches]
            over = [r for r in found if r.at is not None]
            return min(over, key=lambda r: r.at or 0) if over else Reached()
        case Raise():
            return Reached(at, "code" if raises(node) else None)
        case _:
            calls.append(node)
            place = order.get(node.id)
            if place is None:
                return Reached()
            is_uncaught = failed[node.id] and isinstance(node, Step | Call) and not node.is_caught
            return Reached(max(at, place), "step" if is_uncaught else None)


def operations(node: Node) -> list[Operation]:
    """Every operation of a script."""
    match node:
        case Sequence(nodes=inner) | Gather(branches=inner) | Race(branches=inner):
            return [found for one in inner for found in operations(one)]
        case Raise():
            return []
        case _:
            return [node]


@cache
def step_hash(step_id: str) -> bytes:
    """The key component of a step, as drivers make it."""
    return hash16(step_wire_id(step_id, 0).encode())


SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NAPS_MS = (0, 1, 50, SECOND, 20 * SECOND, 2 * MINUTE, HOUR, 26 * HOUR, 5 * DAY)


class Author:
    """Writes random scripts; ids are unique within a function."""

    def __init__(
        self, chance: Random, sends: tuple[str, ...], calls: tuple[str, ...], *, awaits: tuple[str, ...], may_kill: bool
    ) -> None:
        self._chance, self._sends, self._calls, self._awaits = chance, sends, calls, awaits
        self._may_kill = may_kill
        self._ids = 0

    def write(self) -> Node:
        """Write a function."""
        return self._sequence(depth=0, is_racing=False)

    def _sequence(self, depth: int, *, is_racing: bool) -> Node:
        most = 4 if depth == 0 else 2
        nodes = [self._node(depth, is_racing=is_racing) for _ in range(self._chance.randint(depth and 1, most))]
        return Sequence(tuple(nodes))

    def _node(self, depth: int, *, is_racing: bool) -> Node:
        kind = self._chance.random()
        if depth < 2 and kind < 0.22:
            branches = [self._sequence(depth + 1, is_racing=is_racing) for _ in range(self._chance.randint(2, 3))]
            return Gather(tuple(branches))
        if depth < 2 and kind < 0.30:
            return Race(tuple([self._sequence(depth + 1, is_racing=True) for _ in range(2)]))
        if depth == 0 and kind < 0.34:  # many timers at once
            return Gather(tuple([Nap(id=self._id("nap"), ms=self._chance.choice(NAPS_MS)) for _ in range(8)]))
        if depth == 0 and kind < 0.37:  # an error while a body executes
            return Gather((self._step(), self._raise()))
        if kind < 0.40 and not is_racing:
            return self._raise()
        if kind < 0.52:
            return Nap(id=self._id("nap"), ms=self._chance.choice(NAPS_MS))
        if kind < 0.60 and self._sends:
            return self._send()
        if kind < 0.74:
            return self._wait()
        if kind < 0.82 and self._calls:
            return self._call()
        return self._step()

    def _raise(self) -> Raise:
        return Raise(id=self._id("raise"), times=self._chance.choice((1, 1, 2, 9)))

    def _wait(self) -> Wait | Listen | Tell:
        chance = self._chance
        kind, timeout_ms = chance.random(), chance.choice(NAPS_MS)
        if kind < 0.6:
            names = tuple(chance.sample(self._awaits, chance.choice((1, 1, 2, 2))))
            return Wait(
                id=self._id("wait"), names=names, timeout_ms=timeout_ms,
                all_of=len(names) > 1 and chance.random() < 0.7,
                condition=FAILING if chance.random() < 0.1 else chance.choice((None, SAME, SAME, SMALLER)),
                is_since_trigger=chance.random() < 0.5,
            )  # fmt: skip
        if kind < 0.85:
            replaces = chance.random() < 0.3
            step_id = self._id(TAKES_OVER if replaces else "listen")
            return Listen(id=step_id, signal=chance.choice("xy"), timeout_ms=timeout_ms, replaces=replaces)
        signal = chance.choice("xy")
        return Tell(id=f"{self._id('tell')}-{signal}", signal=signal)

    def _call(self) -> Call:
        chance = self._chance
        return Call(
            id=self._id("call"), function=chance.choice(self._calls), timeout_ms=chance.choice(NAPS_MS[3:]),
            is_caught=chance.random() < 0.8,
        )  # fmt: skip

    def _step(self) -> Step:
        chance = self._chance
        return Step(
            id=self._id("step"),
            failures=chance.choice((0, 0, 0, 0, 1, 2, 9)),
            kills=chance.choice((0, 0, 1, 2, 16)) if self._may_kill and chance.random() < 0.2 else 0,
            is_final=chance.random() < 0.05,
            retry_after_ms=chance.choice((-5, 10 * SECOND, 30 * HOUR)) if chance.random() < 0.2 else None,
            is_caught=chance.random() < 0.8,
        )

    def _send(self) -> Send:
        step_id = self._id("send")
        names = tuple(self._chance.choice(self._sends) for _ in range(self._chance.randint(1, 2)))
        return Send(id=step_id, names=names, event_id=f"{step_id}-x" if self._chance.random() < 0.3 else None)

    def _id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids}"
