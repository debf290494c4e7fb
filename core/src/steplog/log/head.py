"""How far a log has come, in a small file beside it (fault C6).

A log that is behind its head is an older copy of itself: restored from a backup, or with a WAL that was damaged. The
head is written after each commit and never synced, so it may lag behind the log, and is never ahead of it.
"""

import os
import struct
from pathlib import Path
from zlib import crc32

_FIELDS = struct.Struct(">16sQ")  # the log's id, the number of its last commit
_CRC = struct.Struct(">I")


class Head:
    """The head of the log at a path. Raises ``OSError`` where its file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path.with_name(path.name + ".head"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def read(self, log_id: bytes) -> int:
        """The number of the last commit that is known of this log; 0 where none is."""
        data = os.pread(self._file, _FIELDS.size + _CRC.size, 0)
        fields = data[: _FIELDS.size]
        if data[_FIELDS.size :] != _CRC.pack(crc32(fields)):  # new, or damaged
            return 0
        id_, number = _FIELDS.unpack(fields)
        return int(number) if id_ == log_id else 0

    def write(self, log_id: bytes, number: int) -> None:
        """Note a commit. A disk that is full is the log's to report."""
        fields = _FIELDS.pack(log_id, number)
        try:  # noqa: SIM105 - suppress() would add a third of the time to each commit
            os.pwrite(self._file, fields + _CRC.pack(crc32(fields)), 0)
        except OSError:
            pass

    def close(self) -> None:
        os.close(self._file)
