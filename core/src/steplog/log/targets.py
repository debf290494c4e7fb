"""The topics that steps produce to: what is wrong with a record is said before it is part of a transaction.

A transaction that fails takes the turns of many runs with it, so no record gets into one that its topic would refuse.
"""

from collections.abc import Awaitable, Callable

import msgspec

from steplog.engine.operations import Produce
from steplog.errors import LogUnavailable, RecordRefused, RecordTooLarge, SteplogError, TopicUnknown
from steplog.log.broker import BrokerError, Target

KNOWN_MS = 60_000  # what is known of a topic holds for so long
MISSED_MS = 1_000  # and that there is none
REFUSED_MS = 30_000  # and that it has refused a record


class _Known(msgspec.Struct, frozen=True):
    until_ms: int
    target: Target | None
    refusal: str | None = None


class Targets:
    """Looks at topics, and remembers them for a while. ``describe`` is ``Broker.describe``."""

    def __init__(self, describe: Callable[[str], Awaitable[Target | None]], now_ms: Callable[[], int]) -> None:
        self._describe, self._now_ms = describe, now_ms
        self._known: dict[str, _Known] = {}

    async def problem(self, record: Produce) -> SteplogError | None:
        """Say why a record cannot be written, if it cannot."""
        try:
            known = await self._look(record.topic)
        except BrokerError as error:
            return LogUnavailable(f"topic {record.topic} cannot be looked at: {error}")
        target = known.target
        if known.refusal is not None:
            return RecordRefused(f"topic {record.topic} has just refused a record: {known.refusal}")
        if target is None:
            return TopicUnknown(f"there is no topic {record.topic}; create it, steplog does not")
        if record.partition is not None and record.partition >= target.partitions:
            return TopicUnknown(
                f"topic {record.topic} has no partition {record.partition}, its last is {target.partitions - 1}"
            )
        if record.size_bytes > target.record_bytes:
            return RecordTooLarge(record.topic, record.size_bytes, target.record_bytes)
        if target.is_compacted and record.key is None:
            return RecordRefused(f"topic {record.topic} is compacted: its records need a key")
        return None

    def refused(self, topic: str, reason: str) -> None:
        """A transaction has failed for a record of this topic: for a while no other gets into one."""
        self._known[topic] = _Known(self._now_ms() + REFUSED_MS, None, reason)

    def forget(self) -> None:
        """Look at every topic anew, but for those that have refused a record."""
        self._known = {topic: known for topic, known in self._known.items() if known.refusal is not None}

    async def _look(self, topic: str) -> _Known:
        known = self._known.get(topic)
        if known is None or known.until_ms <= self._now_ms():
            target = await self._describe(topic)
            until_ms = self._now_ms() + (MISSED_MS if target is None else KNOWN_MS)
            known = self._known[topic] = _Known(until_ms, target)
        return known
