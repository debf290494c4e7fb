"""The ``redo`` topic: all that a turn has changed of the state, as one record rather than one a key.

The state of a partition stands in two topics. ``state`` is compacted and has the keys that have stayed a while: those
that have left the engine's overlay (``engine/state.py``). ``redo`` has the turns whose changes may not all be there
yet; it is short, and what nobody needs is deleted. So what a short run writes and deletes again is never a record of
its own. The state is what ``state`` says, and then the redo, in order, from its last record's ``redo_from`` on.

Several partitions write to one partition of ``redo``. Where each has to begin reading is a key of its state.
"""

from collections.abc import Iterator

import msgspec

from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.log.broker import Place, Produced
from steplog.log.topics import REDO, shared

PART_BYTES = 1 << 20
START = bytes([keys.NODE]) + b"redo"  # in ``state``: the offset from which on a partition's redo is read
Changes = dict[bytes, bytes | None]


class Redo(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record: a turn, or a part of one, of a partition of the log."""

    partition: int
    turn: int
    now_ms: int
    redo_from: int  # what turns before it have changed is in ``state``
    changes: dict[bytes, bytes | None]


_encode = msgspec.msgpack.Encoder().encode
decode_redo = msgspec.msgpack.Decoder(Redo).decode


def redo_place(partition: int, partitions: int) -> Place:
    """Where a partition of a log of so many writes its redo."""
    return Place(REDO, partition % shared(partitions))


def redo_key(partition: int) -> bytes:
    """The key of a partition's records."""
    return b"%d" % partition


def redo_records(place: Place, partition: int, turn: Turn) -> list[Produced]:
    """Write what a turn has changed, in parts of about a megabyte; at least one, which says that there was a turn."""
    state = turn.state
    return [
        Produced(
            place, redo_key(partition), _encode(Redo(partition, turn.number, turn.now_ms, state.redo_from, changes))
        )
        for changes in _parts(state.changes)
    ]


class Replay:
    """The redo of one partition, as it is read in order."""

    def __init__(self) -> None:
        self._turns: dict[int, Changes] = {}  # those that are needed
        self.head: tuple[int, int] | None = None  # turn and time of the last commit

    def add(self, redo: Redo) -> None:
        """Read a record."""
        self.head = redo.turn, redo.now_ms
        self._turns.setdefault(redo.turn, {}).update(redo.changes)
        while self._turns and (turn := next(iter(self._turns))) < redo.redo_from:
            del self._turns[turn]

    def changes(self) -> Changes:
        """The last value of each key that it changes."""
        return {key: value for changes in self._turns.values() for key, value in changes.items()}


def _parts(changes: Changes) -> Iterator[Changes]:
    part: Changes = {}
    size = 0
    for key, value in changes.items():
        size += len(key) + len(value or b"")
        if size > PART_BYTES and part:
            yield part
            part, size = {}, len(key) + len(value or b"")
        part[key] = value
    yield part
