"""Fixtures of more than one module."""

import logging
from collections.abc import Iterator

import pytest

from .running import Heard


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logging.getLogger("steplog").addHandler(handler)
    yield handler
    logging.getLogger("steplog").removeHandler(handler)
