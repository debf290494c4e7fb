"""Whether the data of events fit the types that the functions of some apps declare for them.

An event is refused exactly where a run that reads it as it is declared would fail: each function sees it by its own
types, and what an app lists beside them stands for what its functions wait for.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from steplog.app import App
from steplog.engine.events import RESERVED_PREFIX
from steplog.engine.messages import EventAccepted
from steplog.errors import EventDataInvalid
from steplog.event import EventType, Types, find_type, read_event
from steplog.server.validation import Misfit, Typed

_REFUSED_BY = 'events.validate = "refuse"'
_CACHED_NAMES = 1_024  # names that a pattern covers come from outside


class EventTypes:
    """The types that some apps know."""

    def __init__(self, apps: Iterable[App]) -> None:
        known = list(apps)
        self._by_function: dict[str, Types] = {
            function.id: function.event_types
            for app in known
            for function in app.functions.values()
            if function.event_types
        }
        listed = [(each,) for app in known for each in app.event_types.values() if not each.is_pattern]
        self._groups: list[Types] = [*self._by_function.values(), *listed]
        self._of_name = functools.lru_cache(_CACHED_NAMES)(self._find)

    def typed(self) -> Typed:
        """What there is a type of; events whose names are the server's own cannot be sent."""
        every = [each for group in self._groups for each in group if not each.is_plain]
        every = [each for each in every if not each.name.startswith(RESERVED_PREFIX)]
        return Typed(
            names=frozenset(each.name for each in every if not each.is_pattern),
            prefixes=tuple(sorted({each.name[:-1] for each in every if each.is_pattern})),
            functions=frozenset(self._by_function),
        )

    def misfit(self, events: Sequence[EventAccepted]) -> Misfit | None:
        """Find the first of some events whose data do not fit."""
        for index, event in enumerate(events):
            problem = self._problem(event) if event.starts is None else self._problem_of_call(event, event.starts)
            if problem is not None:
                return Misfit(index, problem)
        return None

    def _problem(self, event: EventAccepted) -> str | None:
        for each in self._of_name(event.name):
            try:
                read_event(event.body, (each,))
            except EventDataInvalid as error:
                return f"{error.problem} (type {each.name} in {each.source}, {_REFUSED_BY})"
        return None

    def _problem_of_call(self, event: EventAccepted, function: str) -> str | None:
        try:
            read_event(event.body, self._by_function.get(function, ()))
        except EventDataInvalid as error:
            return f"{error.problem} (type {error.type_name} of {function}, {_REFUSED_BY})"
        return None

    def _find(self, name: str) -> list[EventType[Any]]:
        """The types by which an event of this name is read, each of them once."""
        found = (find_type(name, group) for group in self._groups)
        return list({id(each): each for each in found if each is not None and not each.is_plain}.values())
