"""``kill -9`` at each boundary of a commit, in a real process on a real file (fault A1)."""

from pathlib import Path

import pytest

from .commit_points import POINTS, die_and_go_on

RUNS = 100


@pytest.mark.spec("FAULT-A1", "DUR-01", "DUR-13")
@pytest.mark.parametrize(
    ("point", "number"), [*((point, 1) for point in POINTS), ("within append", 2), ("after results", 4)]
)
def test_nothing_is_lost_and_nothing_recorded_runs_again(tmp_path: Path, point: str, number: int) -> None:
    die_and_go_on(tmp_path, point, number, RUNS)
