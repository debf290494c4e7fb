"""Watches the WAL of a log: a process that reads it in one long transaction makes it grow (fault C5).

SQLite cannot write the WAL over while a reader needs it. Nothing is lost and commits go on, but the disk fills up.
"""

import asyncio
import logging
import os
import re
from pathlib import Path

from steplog.errors import LogUnavailable
from steplog.log.sqlite import WAL_KEPT_BYTES, SqliteLog

WATCH_S = 2.0
WARNED_BYTES = 64 << 20  # 4 MiB are usual
SAMPLES, SAMPLE_S = 8, 0.05  # of who reads
_READ_LOCKS = range(123, 128)  # bytes of the -shm file (sqlite.org/walformat.html, "Locking Matrix")
_LOCK = re.compile(r"POSIX +ADVISORY +READ +(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) (\d+) (\d+)")

logger = logging.getLogger(__name__)


class WalWatch:
    """Cuts the WAL as soon as it is free again, and warns when it has grown, again whenever it has doubled."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log
        self._wal = log.path.with_name(log.path.name + "-wal")
        self._warned_bytes = 0

    async def run(self) -> None:
        """Watch until cancelled, on the loop that commits."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self.look()
            except LogUnavailable as error:  # commits fail then too, and say so
                logger.debug("the WAL cannot be written back: %s", error)

    async def look(self) -> None:
        """Look once."""
        size_bytes = self._size_bytes()
        if size_bytes > WAL_KEPT_BYTES and self._log.shrink_wal():
            size_bytes = self._size_bytes()
        if size_bytes >= max(WARNED_BYTES, 2 * self._warned_bytes):
            self._warned_bytes = size_bytes
            logger.warning(
                "%s has grown to %d MiB, because %s in one transaction; end that, and it shrinks by itself. Commits go "
                "on as long as the disk has space",
                self._wal, size_bytes >> 20, await self._who(),
            )  # fmt: skip
        elif self._warned_bytes and size_bytes < WARNED_BYTES:
            self._warned_bytes = 0
            logger.warning("%s has shrunk to %d MiB", self._wal, size_bytes >> 20)

    def _size_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    async def _who(self) -> str:
        """Who reads the log, and goes on: the projector reads it too, for a moment each time."""
        found = readers(self._log.path) - {os.getpid()}
        for _ in range(SAMPLES):
            await asyncio.sleep(SAMPLE_S)
            found &= readers(self._log.path)
        return f"process {' and '.join(map(str, sorted(found)))} reads the log" if found else "a process reads the log"


def readers(log_path: Path) -> set[int]:
    """The processes that are reading a log just now; none where the system does not tell."""
    try:
        inode = log_path.with_name(log_path.name + "-shm").stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return set()
    return {
        int(pid)
        for pid, file, first, last in _LOCK.findall(locks)
        if int(file) == inode and int(first) <= _READ_LOCKS[-1] and int(last) >= _READ_LOCKS[0]
    }
