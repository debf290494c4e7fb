"""A turn's changes of the state as one record of the ``state`` topic, rather than one for each key.

The topic has two kinds of records. ``redo/<turn>/<n>`` has all that a turn has changed, in parts of about a megabyte. A
key that stays has a record of its own once it has left the engine's overlay (``engine/state.py``); the redo of turns
whose keys are all gone, or have their own records, is deleted. So what a short run writes and deletes again never
becomes a record of its own. The state is what the records of single keys say, and then the redo from ``redo_from`` on.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.log.broker import Fetched

PART_BYTES = 1 << 20
Changes = dict[bytes, bytes | None]


class Redo(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record. ``redo_from``: what turns before it have changed is in records of its own."""

    turn: int
    now_ms: int
    redo_from: int
    changes: dict[bytes, bytes | None]


_encode = msgspec.msgpack.Encoder().encode
decode_redo = msgspec.msgpack.Decoder(Redo).decode


def redo_records(turn: Turn) -> list[tuple[bytes, bytes]]:
    """Write what a turn has changed."""
    number, state = turn.number, turn.state
    return [
        (keys.redo(number, part), _encode(Redo(number, turn.now_ms, state.redo_from, changes)))
        for part, changes in enumerate(_parts(state.changes))
    ]


def changed(key: bytes, value: bytes | None) -> Mapping[bytes, bytes | None]:
    """Every key that a record of the topic says something of; turn and time are among them (``keys.HEAD``)."""
    if key[0] != keys.REDO:
        return {key: value}
    if value is None:
        return {}
    redo = decode_redo(value)
    redo.changes[keys.HEAD] = _encode((redo.turn, redo.now_ms))
    return redo.changes


class Replay:
    """What was read of a partition's state, in order: records of single keys first, then the redo that is needed.

    Redo that is needed no more says nothing: while it is read, compaction may have taken what followed it.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}  # where the redo records stand that are still there
        self._needed: dict[bytes, Changes] = {}  # what they have changed, of those that are needed
        self.head: tuple[int, int] | None = None  # turn and time of the last commit

    def take(self, records: Iterable[Fetched]) -> Changes:
        """Read some more; returns the last value of each key that has a record of its own."""
        last: Changes = {}
        for record in records:
            key, value = record.key, record.value
            if key[0] != keys.REDO:
                last[key] = value
            elif value is None:
                self._places.pop(key, None)
                self._needed.pop(key, None)
            else:
                redo = decode_redo(value)
                self.head = redo.turn, redo.now_ms
                self._places[key] = record.offset
                self._needed[key] = redo.changes
                self._forget(keys.redo(redo.redo_from, 0))
        return last

    @property
    def keys(self) -> list[bytes]:
        """Those of the redo records that are to be deleted once what they owe is written."""
        return list(self._places)

    @property
    def offset(self) -> int | None:
        """Where the first of them stands."""
        return min(self._places.values(), default=None)

    def owed(self) -> Changes:
        """The last value of each key that may have no record of its own with it."""
        owed: Changes = {}
        for changes in self._needed.values():
            owed.update(changes)
        return owed

    def _forget(self, before: bytes) -> None:
        while self._needed and (key := next(iter(self._needed))) < before:
            del self._needed[key]


def _parts(changes: Changes) -> Iterator[Changes]:
    """Cut changes where they would be too large for one record; one part at least."""
    part: Changes = {}
    size = 0
    for key, value in changes.items():
        size += len(key) + len(value or b"")
        if size > PART_BYTES and part:
            yield part
            part, size = {}, len(key) + len(value or b"")
        part[key] = value
    yield part
