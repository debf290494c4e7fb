"""The mark of a log that is moved to another place: while it is there, no engine starts (docs/decisions/0018).

It stands in the file's table ``meta``, on Kafka in the registry, under the same name.
"""

from datetime import UTC, datetime
from typing import Literal

import msgspec

from steplog.errors import LogMoved

NAME = "move"
KEY = NAME.encode()


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration has written into one of its two logs."""

    id: str  # of the migration
    role: Literal["source", "target"]  # what this log is to it
    is_over: bool = False  # of a source: the target has everything, and decides from now on
    source: str  # addresses, without secrets
    target: str
    partitions: int = 0  # of the target; 0: it is a file
    at_ms: int
    events_bytes: str = ""  # the largest record that the topic of events took before: it takes none meanwhile


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Move).decode


def encode_move(move: Move) -> bytes:
    """Write a mark."""
    return _encode(move)


def decode_move(value: bytes | str) -> Move:
    """Read a mark."""
    return _decode(value)


def refusal(move: Move) -> LogMoved:
    """Why no engine starts on a log with this mark, and what to do."""
    command = f"steplog migrate --from {move.source} --to {move.target}"
    ways = f"go on with: {command} --resume\n  or take it back with: {command} --abort"
    if move.role == "target":
        return LogMoved(f"{move.target} is not whole yet: it is being moved here from {move.source}\n  {ways}")
    if move.is_over:
        return LogMoved(f"{move.source} was moved to {move.target}; start there: --log {move.target}")
    since = datetime.fromtimestamp(move.at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return LogMoved(f"{move.source} is being moved to {move.target} since {since}\n  {ways}")
