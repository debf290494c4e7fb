"""Where the engine of a node may keep its log: memory, a file, Kafka; how it is killed, and what is read of the log.

The file and Kafka have the engine in a process of its own, as ``steplog start`` has it.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from steplog.app import App
from steplog.engine.functions import EngineConfig
from steplog.engine.processor import LoadedState, Turn
from steplog.engine.retry import RetryPolicy
from steplog.errors import LogUnavailable
from steplog.log.memory import MemoryLog
from steplog.log.sqlite import JournalReader
from steplog.log.topics import EVENTS, JOURNAL, Layout
from steplog.member import ClusterConfig
from steplog.node import Engine
from steplog.shells.process import ProcessEngine
from steplog.turns import Log
from tests.kafka_clients import QUICK

from .stores import make_topics

PARTITIONS = 16  # two of them write the journal
PLAIN = EngineConfig(retry=RetryPolicy(interval_ms=1))
PRODUCING = msgspec.structs.replace(PLAIN, can_produce=True)

Record = dict[str, Any]


class Place(Protocol):
    """A log that outlives the nodes over it."""

    @property
    def config(self) -> EngineConfig:
        """How a node is to decide."""

    def engine(self, app: App) -> Engine | Callable[[], Log]:
        """What a node is to decide by from now on."""

    def kill(self) -> None:
        """End the engine as ``kill -9`` does."""

    def read(self) -> tuple[list[Record], list[Record]]:
        """The journal and the events, those of a run in order."""

    def close(self) -> None: ...


class _Mortal:
    """A log whose process can die: from then on nothing of it reaches the log."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.is_dead = False

    async def load(self) -> LoadedState:
        self._check()
        return await self._log.load()

    async def commit(self, turn: Turn) -> None:
        self._check()
        await self._log.commit(turn)

    def close(self) -> None:
        """Nothing is held."""

    def _check(self) -> None:
        if self.is_dead:
            raise LogUnavailable("the process is dead")


class Memory:
    """The engine in a thread."""

    config = PRODUCING

    def __init__(self) -> None:
        self._log = MemoryLog()
        self._living = _Mortal(self._log)

    def engine(self, app: App) -> Callable[[], Log]:
        living = self._living = _Mortal(self._log)
        return lambda: living

    def kill(self) -> None:
        self._living.is_dead = True

    def read(self) -> tuple[list[Record], list[Record]]:
        def decoded(rows: list[tuple[int, list[bytes]]]) -> list[Record]:
            return [msgspec.json.decode(record) for _, records in list(rows) for record in records]

        return decoded(self._log.journal), decoded(self._log.events)

    def close(self) -> None:
        self._log.close()


class _Process:
    """An engine in a process of its own."""

    config = PLAIN
    _engine: ProcessEngine

    def _start(self, app: App, *, path: Path = Path(), cluster: ClusterConfig | None = None) -> ProcessEngine:
        functions = [function.spec for function in app.functions.values()]
        self._engine = ProcessEngine(functions, self.config, log_path=path, cluster=cluster)
        return self._engine

    def kill(self) -> None:
        os.kill(self._engine.pid, signal.SIGKILL)


class File(_Process):
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "steplog.db"

    def engine(self, app: App) -> ProcessEngine:
        return self._start(app, path=self._path)

    def read(self) -> tuple[list[Record], list[Record]]:
        with JournalReader(self._path) as reader:
            rows = reader.journal(0, 10_000), reader.events(0, 10_000)
        journal, events = [[record for row in found for record in msgspec.json.decode(row.data)] for found in rows]
        return journal, events

    def close(self) -> None:
        """Nothing is held."""


class Kafka(_Process):
    """A log on Kafka, read by consumers that know nothing of steplog."""

    config = PRODUCING

    def __init__(self, bootstrap: str, prefix: str, folder: Path) -> None:
        self.bootstrap, self._folder = bootstrap, folder
        self.layout = Layout(prefix, PARTITIONS)
        make_topics(bootstrap, self.layout)
        self._tails = {topic: Tail(bootstrap, self.layout, topic) for topic in (JOURNAL, EVENTS)}

    def engine(self, app: App) -> ProcessEngine:
        cluster = ClusterConfig(
            brokers=self.bootstrap, prefix=self.layout.prefix, partitions=PARTITIONS, node="node",
            data=str(self._folder), client={name: str(value) for name, value in QUICK.items()},
        )  # fmt: skip
        return self._start(app, cluster=cluster)

    def read(self) -> tuple[list[Record], list[Record]]:
        return self._tails[JOURNAL].read(), self._tails[EVENTS].read()

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()


class Tail:
    """Everything that is committed in a topic, as far as it has come."""

    def __init__(self, bootstrap: str, layout: Layout, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "tail", **QUICK})
        name = layout.name(topic)
        self._places = [TopicPartition(name, p, OFFSET_BEGINNING) for p in range(layout.count(topic))]
        self._has_begun = False
        self._found: list[Record] = []

    def read(self) -> list[Record]:
        if not self._has_begun:
            self._has_begun = True
            self._consumer.assign(self._places)
        for message in self._consumer.consume(1_000, timeout=0.05):
            value = message.value()
            assert message.error() is None, message.error()
            assert isinstance(value, bytes)
            self._found.append(msgspec.json.decode(value))
        return self._found

    def close(self) -> None:
        self._consumer.close()
