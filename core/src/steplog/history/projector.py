"""The process that keeps the history up to date: reads the log, folds what is new, writes it with its position.

``python -m steplog.history.projector`` reads what it is to do from its standard input, as one line of JSON, and ends
when that closes, that is, with its parent. Invariant: rows and position are one transaction, so it may be killed at any
moment, and two of them do no harm.
"""

import logging
import os
import select
import signal
import sys
import time
from types import TracebackType
from typing import Self

import msgspec

from steplog.diagnostics import log_to_stderr
from steplog.errors import LogUnavailable, SteplogError
from steplog.history.position import Position
from steplog.history.source import Portion, Source, open_source
from steplog.history.store import Store, open_store
from steplog.paths import is_kafka, is_postgres

POLL_S = 0.02  # while something happens: what was written is seen this much later
IDLE_POLL_S = 0.1  # when nothing happens
MOST_REST_S = 0.4  # when much happens: reads wait up to 2 s for what was written before them
REST = 8  # times what a batch took: under load batches grow, so that most runs are whole in one, and cost a third less
SLOWER = 1.2  # each poll that finds nothing; idle after about ten
UNAVAILABLE_S, MOST_UNAVAILABLE_S = 0.5, 5.0  # between two tries where log or history is away
LAST_BATCHES = 16  # after the parent's end, so that what it wrote last is there

logger = logging.getLogger(__name__)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a projector is to do: addresses of a log and of a history, and how it is to tell about itself.

    ``member`` is the node's name, stable over restarts, where several nodes project into one history.
    """

    log: str
    history: str
    member: str = ""
    logs_json: bool = False


class Projector:
    """Projects a log into a history. Makes the tables where there are none, or where they are of another version."""

    def __init__(self, source: Source, store: Store) -> None:
        self._source, self._store = source, store
        store.prepare(source)
        self._position = store.position()

    @property
    def position(self) -> Position:
        """Everything up to here is in the history."""
        return self._position

    def step(self) -> Portion | None:
        """Project what comes next; None where nothing is new."""
        portion = self._source.read(self._position)
        if portion is not None:
            self._position = self._store.commit(portion)
        return portion

    def catch_up(self) -> Position:
        """Project everything that is in the log now, and return the position reached."""
        target = self._source.end()
        while not self._position.covers(target):
            if self.step() is None:
                time.sleep(POLL_S / 4)
        return self._position

    def close(self) -> None:
        """Close log and history."""
        self._store.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_projector(log: str, history: str, *, member: str = "") -> Projector:
    """Open log and history by their addresses. Those of one history in PostgreSQL share the partitions of a log."""
    source = open_source(log, is_shared=is_postgres(history), member=member)
    try:
        store = open_store(history)
        try:
            return Projector(source, store)
        except BaseException:
            store.close()
            raise
    except BaseException:
        source.close()
        raise


def main() -> int:
    """Project until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, whose last records are to be projected
    task = msgspec.json.decode(_line(), type=Task)
    log_to_stderr(as_json=task.logs_json)
    try:
        projector = _opened(task)
        if projector is not None:
            with projector:
                _follow(projector)
    except SteplogError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        return error.exit_code
    return 0


class _Away:
    """Log or history are away: says so once, and how long to wait before each further try."""

    def __init__(self) -> None:
        self._wait_s = UNAVAILABLE_S
        self._is_told = False

    def told(self, error: LogUnavailable) -> float:
        """Tell why, unless it was told, and return how long to wait."""
        if not self._is_told:
            self._is_told = True
            logger.warning("history is not written; trying again: %s", error)
        wait_s = self._wait_s
        self._wait_s = min(2 * wait_s, MOST_UNAVAILABLE_S)
        return wait_s

    def over(self) -> None:
        """It works again."""
        if self._is_told:
            logger.warning("history is written again")
        self._is_told, self._wait_s = False, UNAVAILABLE_S


def _opened(task: Task) -> Projector | None:
    """Open log and history; where one is on a server that is away, wait for it. None: the parent has ended."""
    away = _Away()
    while True:
        try:
            projector = open_projector(task.log, task.history, member=task.member)
        except LogUnavailable as error:
            if not (is_postgres(task.history) or is_kafka(task.log)):
                raise
            if _parent_ended(away.told(error)):
                return None
        else:
            away.over()
            return projector


def _follow(projector: Projector) -> None:
    wait_s, away = POLL_S, _Away()
    while True:
        started_s = time.monotonic()
        try:
            portion = projector.step()
        except LogUnavailable as error:
            portion, wait_s = None, away.told(error)
        else:
            wait_s = min(wait_s, MOST_REST_S)
            wanted_s = wait_s * SLOWER if portion is None else REST * (time.monotonic() - started_s)
            wait_s = min(max(wanted_s, POLL_S), IDLE_POLL_S if portion is None else MOST_REST_S)
            if portion is not None:
                away.over()
        if _parent_ended(0 if portion is not None and portion.is_full else wait_s):
            break
    for _ in range(LAST_BATCHES):
        if projector.step() is None:
            break


def _line() -> bytes:
    """Read the first line of standard input, and nothing after it."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 1)):
        line += more
    return line


def _parent_ended(wait_s: float) -> bool:
    """Wait for the end of standard input."""
    readable, _, _ = select.select([0], [], [], wait_s)
    return bool(readable) and not os.read(0, 4096)


if __name__ == "__main__":
    sys.exit(main())
