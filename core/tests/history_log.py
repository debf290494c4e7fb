"""A partition whose turns are also written to a log file, for tests of what reads one."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec

from steplog.engine.effects import Dispatch
from steplog.engine.functions import EngineConfig, FunctionSpec
from steplog.engine.processor import Turn
from steplog.history import schema
from steplog.history.position import Position
from steplog.history.projector import Projector
from steplog.history.projector import open_projector as open_projector_at
from steplog.history.queries import History, WholeStep
from steplog.history.queries import open_history as open_history_at
from steplog.history.store import open_reader
from steplog.log.sqlite import SqliteLog
from steplog.paths import file_url

from .partition import Partition, broke, function, ran, returned, slept

Json = dict[str, object]


class RecordedPartition(Partition):
    """Everything that ``Partition`` commits is also in the file."""

    def __init__(self, path: Path, *functions: FunctionSpec, config: EngineConfig | None = None) -> None:
        self.path = path
        self._file = SqliteLog(path)
        asyncio.run(self._file.load())
        super().__init__(*functions or (function("f"),), config=config)

    def write(self, turn: Turn) -> None:
        super().write(turn)
        asyncio.run(self._file.commit(turn))

    def close(self) -> None:
        self._file.close()

    @property
    def position(self) -> Position:
        """Of the newest commit."""
        return Position.commit(self.commits)

    def finish(self, name: str = "f", *, steps: int = 3) -> str:
        """One run from its event to its end; returns its id."""
        at = self.start(name)
        for index in range(steps):
            self.post(ran(at, f"step-{index}", b'{"index":%d}' % index))
        self.post(returned(at, b'"done"'))
        return at.run_id

    def live(self, name: str = "f") -> Dispatch:
        """One run that has completed a step, has failed another, and sleeps for a minute in a third."""
        at = self.start(name)
        self.post(ran(at, "done"), broke(at, "broken"), slept(at, "nap", self.now_ms + 60_000))
        return at


def open_projector(log: Path, history: Path | str) -> Projector:
    """A projector of a log's file into a history, which is a file too or has an address."""
    return open_projector_at(file_url(log), _address(history))


def open_history(history: Path | str) -> History:
    """A history, to read it."""
    return open_history_at(_address(history))


def _address(history: Path | str) -> str:
    return history if isinstance(history, str) else file_url(history)


def copy_log(source: Path, target: Path) -> Path:
    """Copy a log that may be open, with all that is committed."""
    with sqlite3.connect(source) as reading, sqlite3.connect(target) as writing:
        reading.backup(writing)
    reading.close()
    writing.close()
    return target


def damage(log: Path, change: Callable[[list[Json]], list[Json]], *, table: str = "journal") -> None:
    """Change the records of a log, turn by turn, and make the checksums fit."""
    connection = sqlite3.connect(log)
    for position, data in connection.execute(f"SELECT position, data FROM {table}").fetchall():
        changed = msgspec.json.encode(change(msgspec.json.decode(data)))
        crc = crc32(changed, crc32(position.to_bytes(8, "big")))
        connection.execute(f"UPDATE {table} SET data = ?, crc = ? WHERE position = ?", (changed, crc, position))
    connection.commit()
    connection.close()


def flip(log: Path, position: int, *, table: str = "journal") -> None:
    """Change a row without its checksum, as a failing disk would."""
    connection = sqlite3.connect(log)
    connection.execute(f"UPDATE {table} SET crc = crc + 1 WHERE position = ?", (position,))
    connection.commit()
    connection.close()


def rows(history: Path | str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of a history but its meta, to compare two of them. Where a run's steps stand depends on the batches,
    and whether an event's runs stand beside it on the log."""
    reader = open_reader(_address(history))
    with reader.reading() as read:
        found = {table: read(f"SELECT * FROM {table}") for table in (*schema.TABLES, "dead")}
    reader.close()
    absent = {"until_ms": None, "retry_at_ms": None, "error": None, "waits_for": None}
    for run in found["runs"]:
        for whole in msgspec.json.decode(run["steps"], type=list[WholeStep]):
            step = msgspec.structs.asdict(whole) | {"output": str(whole.output, "utf8"), "state": "completed"}
            found["steps"].append({"run": run["id"], "env": run["env"], **step, **absent})
        run["steps"] = "[]"
    routings = {routing.pop("event"): routing for routing in found.pop("routings")}
    for event in found["events"]:
        if event["runs"] is None:
            event |= routings.get(event["internal_id"], {})
    found["steps"] = [dict(sorted(step.items())) for step in found["steps"]]
    return {table: sorted([tuple(row.values()) for row in values], key=repr) for table, values in found.items()}
