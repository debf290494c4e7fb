"""``--fresh``: the log is put aside, so that the next one is empty."""

import fcntl
import os
from pathlib import Path

from steplog.errors import LogLocked
from steplog.paths import history_path

_SUFFIXES = ("", "-wal", "-shm", ".head")  # a SQLite file, and how far it had come; they belong together


def put_aside(log_path: Path) -> Path | None:
    """Rename a log to ``<name>.before``, over the one before it, and forget its history.

    Returns its new name; None where there was none. Raises ``LogLocked`` where a process writes it.
    """
    if not log_path.exists():
        return None
    kept = log_path.with_name(f"{log_path.name}.before")
    lock = os.open(log_path.with_name(f"{log_path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for suffix in reversed(_SUFFIXES):  # the file itself last
            _beside(history_path(log_path), suffix).unlink(missing_ok=True)
            _beside(kept, suffix).unlink(missing_ok=True)
            if _beside(log_path, suffix).exists():
                _beside(log_path, suffix).rename(_beside(kept, suffix))
    except BlockingIOError:
        raise LogLocked(str(log_path), "another process") from None
    finally:
        os.close(lock)
    return kept


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
