"""The logger that a function gets: what it says while recorded steps are replayed it has said before (PY-50)."""

import logging
from collections.abc import Callable
from typing import Any


class RunLogger(logging.Logger):
    """Logs as the logger of the function's module does, silently while ``is_replaying``; records carry ``run_id``."""

    def __init__(self, module: str, run_id: str, is_replaying: Callable[[], bool]) -> None:
        super().__init__(module)
        self._base, self._run_id, self._is_replaying = logging.getLogger(module), run_id, is_replaying

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return not self._is_replaying() and self._base.isEnabledFor(level)

    def getEffectiveLevel(self) -> int:  # noqa: N802 - logging's name
        return self._base.getEffectiveLevel()

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - logging's name
        record = super().makeRecord(*args, **kwargs)
        record.run_id = self._run_id
        return record

    def handle(self, record: logging.LogRecord) -> None:
        self._base.handle(record)
