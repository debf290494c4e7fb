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
from steplog.log.sqlite import SqliteLog

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


def rows(history: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of a history but its meta, to compare two of them. Where a run's steps stand depends on the batches."""
    connection = sqlite3.connect(history)
    connection.execute(_STEPS)
    connection.execute("UPDATE runs SET steps = '[]'")
    tables = ("runs", "steps", "attempts", "events", "functions", "dead")
    found = {table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}
    connection.rollback()
    connection.close()
    return found


_STEPS = """
    INSERT INTO steps (run, id, env, name, op, state, attempt, seq, started_ms, ended_ms, output)
    SELECT runs.id, value ->> 0, env, value ->> 1, value ->> 2, 'completed', value ->> 3, value ->> 4, value ->> 5,
        value ->> 6, value -> 7
    FROM runs, json_each(runs.steps)"""
