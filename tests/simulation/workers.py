"""Simulations on all cores: ``python -m tests.simulation --part …`` in processes of their own, each with some of it.

Which process runs a seed makes no difference to it, and outcomes come in the order of what was asked for.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .mutation import Hunt
from .world import Report

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "proof.md"
SEEDS_A_PART, CLUSTERS_A_PART, MUTANTS_A_PART = 250, 25, 12  # a process takes a third of a second to start
DEADLINE_S = 300  # of one part: a fault may keep a simulation from its end


def simulated(first: int, seeds: int, *, is_cluster: bool = False) -> list[Report]:
    """Run seeds from ``first`` on. Raises ``AssertionError`` with a failing seed and what it said."""
    size = CLUSTERS_A_PART if is_cluster else SEEDS_A_PART
    parts = [(start, min(size, first + seeds - start)) for start in range(first, first + seeds, size)]
    kind = ["--cluster"] if is_cluster else []
    lines = _spread([[*kind, "--from", str(start), "--seeds", str(count)] for start, count in parts])
    return [msgspec.json.decode(line, type=Report) for line in lines]


def counted(reports: Sequence[Report]) -> tuple[Counter[str], Counter[str]]:
    """What happened in all of them: faults, and kinds of records."""
    fired, kinds = Counter[str](), Counter[str]()
    for report in reports:
        fired.update(report.fired)
        kinds.update(report.kinds)
    return fired, kinds


def hunted(names: Sequence[str], seeds: int, *, is_fresh: bool = True) -> list[Hunt]:
    """Look for mutants among seeds from 0 on. Raises ``AssertionError`` where one is stale.

    Not ``is_fresh``: begin with the seed that the page has, which spares those before it.
    """
    parts = [names[start : start + MUTANTS_A_PART] for start in range(0, len(names), MUTANTS_A_PART)]
    kind = [] if is_fresh else ["--known"]
    lines = _spread([["--seeds", str(seeds), *kind, "--mutants", *part] for part in parts])
    return [msgspec.json.decode(line, type=Hunt) for line in lines]


def known_seeds() -> dict[str, int]:
    """The seed that has found each mutant, as the page says."""
    rows = re.findall(r"^\| (.+?) \| `.+?` \| .+? \| (\d+) \|$", PAGE.read_text(encoding="utf8"), re.MULTILINE)
    return {name: int(seeds) - 1 for name, seeds in rows}


def _spread(parts: Sequence[Sequence[str]]) -> list[str]:
    """Run the command with each list of arguments, as many at once as there are cores; gives their lines in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [line for output in pool.map(_run, parts) for line in output.splitlines()]


def _run(arguments: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--part", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
