"""Fixtures of more than one module."""

import logging
from collections.abc import Iterator

import pytest

from .running import Heard
from .topics import Topics, topics_of


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logging.getLogger("steplog").addHandler(handler)
    yield handler
    logging.getLogger("steplog").removeHandler(handler)


@pytest.fixture(scope="session")
def kafka() -> str:
    """The address of a Kafka broker."""
    return "127.0.0.1:19092"


@pytest.fixture
def topics(kafka: str) -> Iterator[Topics]:
    with topics_of(kafka) as made:
        yield made
