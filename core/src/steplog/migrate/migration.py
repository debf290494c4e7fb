"""The order of a migration, in which at every moment at most one of the two logs can be started (docs/decisions/0018).

The mark of the source says where a migration is. One write decides who has the runs: the source's mark is set to
*over* when the target has everything. Before it a migration may be taken back, after it only gone on with.
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from steplog.errors import MigrationRefused
from steplog.log.moves import Move, refusal
from steplog.migrate.copying import Copy, Counts
from steplog.migrate.ends import Source, Target
from steplog.migrate.file import FileSource, FileTarget
from steplog.paths import KafkaAddress, is_kafka, log_path, masked

Tell = Callable[[str, Counts], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration has done."""

    source: str
    target: str
    partitions: int  # of the target; 0: it is a file
    counts: Counts


class Migration:
    """Moves the log at one address to another. Raises ``MigrationRefused`` where that makes no sense.

    ``partitions``: of a target on Kafka. ``tell`` is called after every durable step, with its name.
    """

    def __init__(
        self, source: str, target: str, *, partitions: int, replication: int | None = None,
        tell: Tell = lambda _what, _counts: None, connected: Callable[[str], str] = lambda url: url,
    ) -> None:  # fmt: skip
        """``connected`` gives an address with the further settings that clients need."""
        self._source_url, self._target_url = _address(source), _address(target)
        if masked(self._source_url) == masked(self._target_url):
            raise MigrationRefused(f"{masked(source)} is where the log is already")
        self._partitions, self._replication, self._tell = partitions, replication, tell
        self._connected = connected

    def start(self) -> Result:
        """Move a log that is not marked to a place where there is none."""
        with ExitStack() as stack:
            source = self._open_source(stack)
            if (marked := source.move) is not None:
                raise refusal(marked)
            target = self._open_target(stack, self._partitions)
            if target.exists:
                raise MigrationRefused(f"{masked(self._target_url)} is there already; a log is moved to a new place")
            move = Move(
                id=os.urandom(16).hex(), role="source", source=masked(self._source_url),
                target=masked(self._target_url), at_ms=round(time.time() * 1000),
                partitions=target.partitions if is_kafka(self._target_url) else 0,
            )  # fmt: skip
            return self._move(source, target, move)

    def resume(self) -> Result:
        """Go on with a migration that was interrupted, wherever that was."""
        with ExitStack() as stack:
            source = self._open_source(stack)
            move = self._marked(source)
            target = self._open_target(stack, move.partitions)
            if move.is_over:
                if (found := target.move) is not None and found.id == move.id:
                    self._complete(target, Counts())
                return self._result(move, Counts())
            return self._move(source, target, move)

    def abort(self) -> None:
        """Take a migration back: what was copied is deleted, and the source is as it was."""
        with ExitStack() as stack:
            source = self._open_source(stack)
            move = self._marked(source)
            if move.is_over:
                raise MigrationRefused(f"{move.target} has everything, and may have gone on; finish with --resume")
            target = self._open_target(stack, move.partitions)
            self._clear(target, move)
            self._tell("cleared", Counts())
            source.thaw()

    def _move(self, source: Source, target: Target, move: Move) -> Result:
        source.freeze(move)
        self._tell("frozen", Counts())
        self._clear(target, move)
        self._tell("cleared", Counts())
        target.create(msgspec.structs.replace(move, role="target", events_bytes=""))
        self._tell("created", Counts())
        copy = Copy(source, target, self._tell)
        copy.run()
        copy.copy_dead(self._connected(self._source_url), self._connected(self._target_url))
        source.mark(msgspec.structs.replace(move, is_over=True))
        self._tell("over", copy.counts)
        self._complete(target, copy.counts)
        return self._result(move, copy.counts)

    def _complete(self, target: Target, counts: Counts) -> None:
        target.complete()
        self._tell("complete", counts)

    def _clear(self, target: Target, move: Move) -> None:
        """Delete what an earlier try has made; anything else is left alone."""
        if not target.exists:
            return
        found = target.move
        if found is None or found.id != move.id:
            raise MigrationRefused(
                f"{move.target} is there, and was not made by this migration; move it away, then go on"
            )
        target.remove()

    def _marked(self, source: Source) -> Move:
        move = source.move
        if move is None or move.role == "target":
            raise MigrationRefused(f"{masked(self._source_url)} is not being moved; there is nothing to go on with")
        if move.target != masked(self._target_url):
            raise refusal(move)
        return move

    def _result(self, move: Move, counts: Counts) -> Result:
        return Result(source=move.source, target=move.target, partitions=move.partitions, counts=counts)

    def _open_source(self, stack: ExitStack) -> Source:
        source: Source
        if is_kafka(self._source_url):
            from steplog.migrate.topics import KafkaSource  # the client comes with it

            source = KafkaSource(KafkaAddress.parse(self._connected(self._source_url)))
        else:
            source = FileSource(_path(self._source_url))
        stack.callback(source.close)
        return source

    def _open_target(self, stack: ExitStack, partitions: int) -> Target:
        target: Target
        if is_kafka(self._target_url):
            from steplog.migrate.topics import KafkaTarget

            target = KafkaTarget(KafkaAddress.parse(self._connected(self._target_url)), partitions, self._replication)
        else:
            target = FileTarget(_path(self._target_url))
        stack.callback(target.close)
        return target


def _address(url: str) -> str:
    """An address in one way of writing it. Raises ``ConfigInvalid``."""
    return KafkaAddress.parse(url).url if is_kafka(url) else f"sqlite:{log_path(url).absolute()}"


def _path(url: str) -> Path:
    return log_path(url)
