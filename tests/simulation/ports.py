"""What the simulated driver needs of the world around it."""

from collections.abc import Callable
from typing import Protocol

from steplog.engine.messages import OfRun

from .watch import Watch


class World(Protocol):
    """Time, chance and faults."""

    @property
    def watch(self) -> Watch:
        """What the world promises."""

    @property
    def now_ms(self) -> int:
        """The time."""

    @property
    def evict_after_ms(self) -> int:
        """A run that waits for longer is parked."""

    def body(self, end: Callable[[], None]) -> None:
        """Let a step's body run for a while; its end does not come if the process dies."""

    def report(self, run: bytes, message: OfRun) -> None:
        """Send a report to the engine: after those of the same run, perhaps twice."""

    def takes_from(self, run_id: str, name: str, times: int) -> bool:
        """Whether something that goes wrong ``times`` times goes wrong once more; survives every crash."""

    def kill(self, why: str) -> None:
        """End the process at once."""

    def fired(self, kind: str) -> None:
        """Count something that happened."""
