"""A process outside reads the log in one transaction while much is written (fault C5)."""

from pathlib import Path

import pytest

from .long_read import read_for_long


@pytest.mark.spec("FAULT-C5")
def test_a_long_read_is_named_and_the_wal_shrinks_when_it_ends(tmp_path: Path) -> None:
    print(read_for_long(tmp_path))
