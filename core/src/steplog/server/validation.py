"""``events.validate = "refuse"``: the edge turns away events whose data do not fit their type.

A type is a Python class, which the functions' process has. The edge knows the names alone, and asks about those; an
event of another name costs a look-up, and with ``accept`` there is no ``Validation`` at all.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from steplog.engine.messages import EventAccepted
from steplog.errors import TypesUnavailable

ANSWER_S = 2.0  # a function that blocks the users' loop keeps it from answering
MOST_ASKED_BYTES = 64 << 20  # of events that are not answered yet; they stay in memory until then


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """What has a type: names of events, what patterns have before their star, and the ids of functions."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    functions: frozenset[str] = frozenset()

    def covers(self, event: EventAccepted) -> bool:
        """Whether the functions have something to say of an event; of an invocation, whether its function has."""
        if event.starts is not None:
            return event.starts in self.functions
        return event.name in self.names or event.name.startswith(self.prefixes)


class Misfit(msgspec.Struct, frozen=True, array_like=True):
    """The first of some events whose data do not fit: its place among them, from 0, and what is wrong with it."""

    index: int
    problem: str


Check = Callable[[Sequence[EventAccepted]], Misfit | None]
"""Says it where the types are, on the users' loop."""
Ask = Callable[[list[EventAccepted]], "asyncio.Future[Misfit | None]"]
"""Has it said, for the server's loop; the shells know how."""


def nothing_to_say(_: Sequence[EventAccepted]) -> None:
    """The check of a node whose functions nobody asks."""


class Validation:
    """Asks about the events of each request."""

    def __init__(self, typed: Typed, ask: Ask) -> None:
        self._typed, self._ask = typed, ask
        self._asked_bytes = 0

    async def misfit(self, events: Sequence[EventAccepted]) -> Misfit | None:
        """Find the first event whose data do not fit. Raises ``TypesUnavailable`` where nobody answers in time."""
        places = [place for place, event in enumerate(events) if self._typed.covers(event)]
        if not places:
            return None
        asked = [events[place] for place in places]
        if self._asked_bytes > MOST_ASKED_BYTES:
            raise TypesUnavailable("the functions have not answered for others yet whether data fit their types")
        size_bytes = sum(len(event.body) for event in asked)
        self._asked_bytes += size_bytes
        answer = self._ask(asked)
        answer.add_done_callback(lambda _: self._forget(size_bytes))
        await asyncio.wait({answer}, timeout=ANSWER_S)
        if not answer.done():
            raise TypesUnavailable(f"the functions did not say within {ANSWER_S:g} s whether data fit their types")
        misfit = answer.result()
        return None if misfit is None else Misfit(places[misfit.index], misfit.problem)

    def _forget(self, size_bytes: int) -> None:
        self._asked_bytes -= size_bytes
