"""Conditions that had no value for an event, and so were false (GAP-05): each is told of at most once an hour."""

from msgspec import UNSET, UnsetType

from steplog.engine.draft import Draft
from steplog.engine.records import ExpressionFailure
from steplog.errors import EvaluationError

TOLD_EVERY_MS = 3_600_000
MOST_KNOWN = 10_000  # conditions; those of waits may hold values, so that there is no end of them


class Failures:
    """Gathers what the next record of an event, or of a wait, is to tell."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._told_ms: dict[tuple[str, str], int] = {}  # (function, condition) → when
        self._new: list[ExpressionFailure] = []

    def note(self, function: str, condition: str, error: EvaluationError) -> None:
        """Tell of a condition that has failed, where nothing was told of it for an hour."""
        key, now_ms = (function, condition), self._draft.now_ms
        if now_ms - self._told_ms.get(key, -TOLD_EVERY_MS) >= TOLD_EVERY_MS:
            if len(self._told_ms) >= MOST_KNOWN:
                self._told_ms.clear()
            self._told_ms[key] = now_ms
            self._new.append(ExpressionFailure(*key, str(error)))

    def take(self) -> tuple[ExpressionFailure, ...] | UnsetType:
        """Hand out what is to be told; UNSET where that is nothing."""
        if not self._new:
            return UNSET
        taken, self._new = tuple(self._new), []
        return taken
