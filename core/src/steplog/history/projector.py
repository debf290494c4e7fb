"""The process that keeps the history up to date: polls the journal, folds what is new, writes it with its position.

``python -m steplog.history.projector LOG HISTORY`` ends when its standard input closes, that is, with its parent.
Invariant: rows and position are one transaction, so it may be killed at any moment, and two of them do no harm.
"""

import logging
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from steplog.diagnostics import log_to_stderr
from steplog.errors import LogUnavailable, SteplogError
from steplog.history import schema
from steplog.history.journal import Batch, Tape
from steplog.history.projection import project
from steplog.log.sqlite import JournalReader

POLL_S = 0.02  # while something happens: what was written is seen this much later
IDLE_POLL_S = 0.1  # when nothing happens
MOST_REST_S = 0.4  # when much happens: reads wait up to 2 s for what was written before them
REST = 8  # times what a batch took: under load batches grow, so that most runs are whole in one, and cost a third less
SLOWER = 1.2  # each poll that finds nothing; idle after about ten
UNAVAILABLE_S = 1.0
LAST_BATCHES = 16  # after the parent's end, so that what it wrote last is there

logger = logging.getLogger(__name__)


class Projector:
    """Projects a log into a history. Makes the file where there is none, or where it is of another log or version."""

    def __init__(self, log_path: Path, history_path: Path) -> None:
        self.path = history_path
        self._reader = JournalReader(log_path)
        self._tape = Tape(self._reader)
        try:
            self._connection = schema.open_writer(history_path)
            with schema.unavailable(self.path):
                self._position = self._prepare()
        except BaseException:
            self._reader.close()
            raise

    @property
    def position(self) -> int:
        """Every turn up to here is in the history."""
        return self._position

    def step(self) -> Batch | None:
        """Project one batch; None where nothing is new."""
        batch = self._tape.read(self._position)
        if batch is not None:
            with schema.unavailable(self.path):
                self._commit(batch)
        return batch

    def catch_up(self) -> int:
        """Project everything that is in the log now, and return the position reached."""
        target = self._reader.last_position()
        while self._position < target and self.step() is not None:
            pass
        return self._position

    def close(self) -> None:
        """Close both files."""
        self._connection.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _prepare(self) -> int:
        """Make the tables where they are not those of this log, and return the position."""
        connection, log_id = self._connection, self._reader.log_id
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = schema.read_meta(connection)
            fits = found is not None and (found.log_id, found.version) == (log_id, schema.VERSION)
            if found is None or not fits or found.position > self._reader.last_position():
                schema.drop_tables(connection)
                schema.create_tables(connection, log_id)
                found = schema.Meta(0, log_id, schema.VERSION)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return found.position

    def _commit(self, batch: Batch) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            moved = connection.execute(
                "UPDATE meta SET position = ? WHERE position = ? AND log_id = ?",
                (batch.position, self._position, self._reader.log_id),
            )
            if moved.rowcount:
                project(connection, batch.turns)
            found = schema.read_meta(connection)  # further on, where another projector was faster
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        if found is None or found.log_id != self._reader.log_id:
            raise LogUnavailable(f"{self.path} has become the history of another log")
        self._position = found.position


def main(log_path: str, history_path: str, logs: str = "") -> int:
    """Project until the parent ends. ``logs``: json, or for people."""
    log_to_stderr(as_json=logs == "json")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, whose last records are to be projected
    try:
        with Projector(Path(log_path), Path(history_path)) as projector:
            _follow(projector)
    except SteplogError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _follow(projector: Projector) -> None:
    wait_s, reason = POLL_S, ""
    while True:
        started_s = time.monotonic()
        try:
            batch = projector.step()
        except LogUnavailable as error:
            if str(error) != reason:  # else it was told, a second ago
                reason = str(error)
                logger.warning("history is not written; trying again: %s", reason)
            batch, wait_s = None, UNAVAILABLE_S
        else:
            reason = ""
            wanted_s = wait_s * SLOWER if batch is None else REST * (time.monotonic() - started_s)
            wait_s = min(max(wanted_s, POLL_S), IDLE_POLL_S if batch is None else MOST_REST_S)
        if _parent_ended(0 if batch is not None and batch.is_full else wait_s):
            break
    for _ in range(LAST_BATCHES):
        if projector.step() is None:
            break


def _parent_ended(wait_s: float) -> bool:
    """Wait for the end of standard input."""
    readable, _, _ = select.select([0], [], [], wait_s)
    return bool(readable) and not os.read(0, 4096)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
