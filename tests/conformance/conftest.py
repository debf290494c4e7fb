"""Every log, by its name."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest

from compose.kafka_local import Cluster
from tests.kafka_clients import create_topic

from .places import File, Kafka, Memory, Place
from .stores import KafkaShelf, KafkaStore, MemoryStore, SqliteStore, Store
from .stories import Played, play

STORES = ("memory", "sqlite", "kafka")
WITHOUT_COPY = "kafka without its copy"  # as a node on another machine finds it


@pytest.fixture(scope="session")
def shelf(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaShelf]:
    """One log on Kafka for all checks of the contract."""
    made = KafkaShelf(kafka.bootstrap, "conformance-stores", tmp_path_factory.mktemp("copies"))
    yield made
    made.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty log."""

    def on_kafka(*, keeps_copy: bool) -> Store:
        return KafkaStore(request.getfixturevalue("shelf"), keeps_copy=keeps_copy)

    makers: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(tmp_path),
        "kafka": lambda: on_kafka(keeps_copy=True),
        WITHOUT_COPY: lambda: on_kafka(keeps_copy=False),
    }
    made = makers[request.param]()
    yield made
    made.close()


LEDGER = "conformance-ledger"  # a topic that functions write


class Logs:
    """What all stories have come to on each log, played when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> None:
        self._request, self._folders = request, folders
        self._played: dict[str, Played] = {}

    @cached_property
    def on_kafka(self) -> Kafka:
        """The log on Kafka, which is there once its stories were played."""
        bootstrap = self._request.getfixturevalue("kafka").bootstrap
        create_topic(bootstrap, LEDGER)
        return Kafka(bootstrap, "conformance-engine", self._folders.mktemp("node"))

    def played(self, name: str) -> Played:
        if name not in self._played:
            place = self._place(name)
            try:
                self._played[name] = play(place, topic=LEDGER)
            finally:
                place.close()
        return self._played[name]

    def _place(self, name: str) -> Place:
        match name:
            case "memory":
                return Memory()
            case "sqlite":
                return File(self._folders.mktemp("log"))
        return self.on_kafka


@pytest.fixture(scope="session")
def logs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """The logs with everything that was played on them."""
    return Logs(request, tmp_path_factory)
