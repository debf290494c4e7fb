"""Fixtures of more than one module."""

import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steplog.paths import file_url

from .postgres_server import PostgresServer
from .running import Heard

_numbers = itertools.count(1)


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logging.getLogger("steplog").addHandler(handler)
    yield handler
    logging.getLogger("steplog").removeHandler(handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a database."""
    with tempfile.TemporaryDirectory(prefix="steplog-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # its user is another one
        server = PostgresServer(Path(folder) / "server")
        server.start()
        try:
            yield server.dsn
        finally:
            server.stop("immediate")


@pytest.fixture(scope="session")
def kafka() -> str:
    """The address of a Kafka cluster."""
    return os.environ.get("STEPLOG_TEST_KAFKA", "127.0.0.1:19092")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives addresses of histories that do not exist yet, in each kind of store."""
    if request.param == "sqlite":
        return lambda: file_url(tmp_path_factory.mktemp("history") / "history.db")
    database = request.getfixturevalue("postgres")
    return lambda: f"{database}?schema=history_{next(_numbers)}"
