"""How far a log has come, in a small file beside it (fault C6).

A log that is behind its head is an older copy of itself: restored from a backup, or with a WAL that was damaged. The
head is written after each commit and never synced, so it may lag behind the log, and is never ahead of it. It is mapped
into memory, as SQLite does with its index of the WAL: a call of the system for each commit cost 1 % of all CPU time.
"""

import mmap
import os
import struct
from pathlib import Path
from zlib import crc32

_FIELDS = struct.Struct(">16sQ")  # the log's id, the number of its last commit
_CRC = struct.Struct(">I")
_BYTES = _FIELDS.size + _CRC.size


class Head:
    """The head of the log at a path. Raises ``OSError`` where its file cannot be made."""

    def __init__(self, path: Path) -> None:
        file = os.open(path.with_name(path.name + ".head"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            held = os.pread(file, _BYTES, 0)
            os.pwrite(file, held.ljust(_BYTES, b"\0"), 0)  # a disk that is full refuses it here, not in the map
            self._map = mmap.mmap(file, _BYTES)
        finally:
            os.close(file)

    def read(self, log_id: bytes) -> int:
        """The number of the last commit that is known of this log; 0 where none is."""
        fields, crc = self._map[: _FIELDS.size], self._map[_FIELDS.size :]
        if crc != _CRC.pack(crc32(fields)):  # new, or damaged
            return 0
        id_, number = _FIELDS.unpack(fields)
        return int(number) if id_ == log_id else 0

    def write(self, log_id: bytes, number: int) -> None:
        """Note a commit."""
        fields = _FIELDS.pack(log_id, number)
        self._map[:] = fields + _CRC.pack(crc32(fields))

    def close(self) -> None:
        self._map.close()
