"""Simulations on all cores: ``python -m tests.simulation`` in processes of their own, each with a part of the work."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]


def spread(parts: Sequence[Sequence[str]]) -> Iterator[str]:
    """Run the command with each list of arguments, as many at once as there are cores; gives their output in order.

    Raises ``AssertionError`` with what a process wrote to stderr, where it fails.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_run, parts)


def _run(arguments: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
