"""What the tests of this folder share."""

from pathlib import Path

import pytest

from .disk import build


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk that fails, as a library to be preloaded."""
    return build(tmp_path_factory.mktemp("disk"))
