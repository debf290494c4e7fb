"""Where connectors hand in events: a group at once, durable when it returns."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from steplog.engine.events import accept_event
from steplog.engine.functions import DEFAULT_ENV
from steplog.engine.ids import ulid
from steplog.engine.messages import EventAccepted
from steplog.engine.operations import EventOut
from steplog.entropy import Entropy
from steplog.server.validation import Misfit, Validation

Accept = Callable[[Sequence[EventOut]], Awaitable[Misfit | None]]
"""Accepts events, which are checked already, as one group; None when they are durable. With ``Misfit`` none of them
was accepted: the data of that one do not fit their type. An event whose id was accepted before starts nothing again.

Raises an error that is ``retryable`` where nothing was accepted, or that is not known: hand them in again later.
"""


class Intake(Protocol):
    """A node, as connectors see it (``Turns``, ``Member``)."""

    def now_ms(self) -> int:
        """The node's time."""

    async def submit(self, events: list[EventAccepted]) -> object:
        """Accept events; they are durable when it returns. Raises ``Overloaded`` or ``LogUnavailable``."""


def entrance(intake: Intake, source: str, validation: Validation | None = None) -> Accept:
    """Hand in events of a source, which stands with each of them. ``validation`` asks whether data fit their types."""
    entropy = Entropy()

    async def accept(events: Sequence[EventOut]) -> Misfit | None:
        received_ms, last = intake.now_ms(), len(events) - 1
        accepted = [
            accept_event(
                event, ulid(received_ms, entropy.take()), env=DEFAULT_ENV, received_ms=received_ms, source=source,
                is_last=index == last,
            )
            for index, event in enumerate(events)
        ]  # fmt: skip
        misfit = None if validation is None else await validation.misfit(accepted)
        if misfit is None:
            await intake.submit(accepted)
        return misfit

    return accept
