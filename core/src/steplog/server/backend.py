"""What the server needs of a node; ``node.py`` has it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from steplog.engine.messages import EventAccepted
from steplog.history.position import Position
from steplog.history.queries import History
from steplog.server.validation import Misfit

T = TypeVar("T")


class Misdirected(Exception):
    """Another node was to be asked."""


class Backend(Protocol):
    """A node, as the server sees it. Its methods are called on the server's loop."""

    def problem(self) -> str | None:
        """What keeps the node from its work, if anything does."""
        ...

    def now_ms(self) -> int:
        """The partition's time."""
        ...

    async def submit(self, events: list[EventAccepted]) -> None:
        """Commit the events of one request as one group; they are durable when it returns.

        Raises ``Overloaded`` or ``LogUnavailable``; then none of them was accepted, or it is not known.
        """
        ...

    def ask(self, events: list[EventAccepted]) -> "asyncio.Future[Misfit | None]":
        """Have the functions say which of some events is the first whose data do not fit its type."""
        ...

    async def signal(self, name: str, data: bytes, *, is_forwarded: bool) -> str | None:
        """Send a signal; returns the run that it resumes, None where nobody waits.

        Raises ``LogUnavailable``; ``Misdirected`` where it was forwarded to this node, which does not decide it.
        """
        ...

    def is_function(self, function: str) -> bool:
        """Whether a function, by its qualified id, is registered."""
        ...

    def position(self) -> Position:
        """How far the log is with everything that was answered: what a read has to see."""
        ...

    async def wait_ended(self, run_id: str, timeout_s: float) -> None:
        """Return when the run has ended or the time is up; at once for a run that is not open."""
        ...

    async def read(self, query: Callable[[History], T], *, at_least: Position) -> tuple[T, bool]:
        """Ask the history in a thread, after waiting up to 2 s for the projection to reach a position.

        The second value says whether it did not: what is read may be stale. Raises ``HistoryUnavailable``.
        """
        ...
