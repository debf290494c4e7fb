"""What holds for every test, and the servers that tests share: each starts when the first test asks for it."""

import itertools
import re
import signal
from collections.abc import Iterator

import pytest

from compose.kafka_local import Cluster
from tests import servers
from tests.postgres import Postgres

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; the processes of tests inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """A broker. Tests keep apart by the prefix of their topics, groups and transactional ids: ``kafka_prefix``."""
    with servers.kafka() as cluster:
        yield cluster


@pytest.fixture
def kafka_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix that no other test has."""
    return f"{re.sub('[^A-Za-z0-9-]', '-', request.node.name)[:60]}-{next(_numbers)}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server. Each test makes a database of its own: ``postgres.database()`` is its URL."""
    with servers.postgres() as server:
        yield server
