"""Fixtures of more than one module."""

import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from compose.kafka_local import Cluster
from steplog.paths import file_url
from tests.postgres import Postgres

from .running import Heard
from .topics import Topics, topics_of

_numbers = itertools.count(1)


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logging.getLogger("steplog").addHandler(handler)
    yield handler
    logging.getLogger("steplog").removeHandler(handler)


@pytest.fixture(scope="session")
def kafka(kafka: Cluster) -> str:
    """The address of a Kafka cluster."""
    return kafka.bootstrap


@pytest.fixture(scope="session")
def postgres(postgres: Postgres) -> str:
    """The address of a database."""
    return postgres.database()


@pytest.fixture
def topics(kafka: str) -> Iterator[Topics]:
    """Topics of a test, deleted after it."""
    with topics_of(kafka) as made:
        yield made


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives addresses of histories that do not exist yet, in each kind of store."""
    if request.param == "sqlite":
        return lambda: file_url(tmp_path_factory.mktemp("history") / "history.db")
    database = request.getfixturevalue("postgres")
    return lambda: f"{database}?schema=history_{next(_numbers)}"
