"""What the tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.kafka_local import Cluster

from .disk import build
from .kafka_proxy import KafkaProxy


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk that fails, as a library to be preloaded."""
    return build(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def kafka_proxy(kafka: Cluster) -> Iterator[KafkaProxy]:
    """In front of the shared broker, for clients of ``kafka.proxied_bootstrap``."""
    with KafkaProxy(kafka.brokers[0]) as proxy:
        yield proxy
