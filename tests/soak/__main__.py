"""``python -m tests.soak [PART…] [--minutes 10] [--seed N]``: the faults at full length.

Ends with 1 where a promise broke. Without PART it is the kill loop; ``all`` names every part.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import msgspec

from tests.faults import commit_points, damage, disk, kill_loop, long_read, power

RUNS = 20_000
CALM = 0.2  # of the time: without kills, to see whether memory is flat
FLAT_MB, FLAT = 4, 0.05  # what memory may grow by, in MiB or as a share, within that time
POINT_RUNS, CUTS, DAMAGES = 1_000, 1_000, 2_000


class Soak(msgspec.Struct, frozen=True):
    """What was asked for."""

    folder: Path
    seconds: float
    runs: int
    seed: int


def kills(soak: Soak) -> str:
    """Processes are killed at random (A7)."""
    done = kill_loop.kill_loop(
        soak.folder, seed=soak.seed, runs=soak.runs, seconds=soak.seconds, pause_s=(3, 10),
        calm_s=CALM * soak.seconds,
    )  # fmt: skip
    rss = done.rss_mb
    before, after = fmean(rss[len(rss) // 4 : len(rss) // 2]), fmean(rss[len(rss) * 3 // 4 :])
    assert after - before <= max(FLAT_MB, FLAT * before), f"memory grows: {rss}"
    killed = ", ".join(f"{count} {part}" for part, count in done.kills.items())
    return "\n".join([
        f"{done.runs:,} runs completed, 0 unaccounted, every step recorded once",
        f"killed: {killed}; requests without an answer {done.unanswered}, refused {done.refused}",
        f"bodies that began again: {done.bodies_again:,}",
        f"slowest start {done.slowest_start_s:.1f} s, last run ended {done.ended_after_s:.1f} s after the last event",
        f"memory of engine and functions, without kills: {before:.0f} MiB, later {after:.0f} MiB",
    ])  # fmt: skip


def points(soak: Soak) -> str:
    """A process dies at each point of a commit (A1)."""
    chance = random.Random(soak.seed)
    for point in commit_points.POINTS:
        folder = soak.folder / point.replace(" ", "-")
        folder.mkdir()
        commit_points.die_and_go_on(folder, point, chance.randint(1, 4), POINT_RUNS)
    return f"{len(commit_points.POINTS)} points, {POINT_RUNS:,} runs each"


def cuts(soak: Soak) -> str:
    """The power is cut (C2)."""
    return str(power.cut_power(soak.folder, disk.build(soak.folder), seed=soak.seed, cuts=CUTS))


def damages(soak: Soak) -> str:
    """Bytes of the file change (C4)."""
    return str(damage.damage_often(soak.folder, seed=soak.seed, damages=DAMAGES))


def reads(soak: Soak) -> str:
    """A process outside reads for long (C5)."""
    return str(long_read.read_for_long(soak.folder, seconds=soak.seconds, pause_s=1))


PARTS: dict[str, Callable[[Soak], str]] = {
    "kills": kills, "points": points, "cuts": cuts, "damages": damages, "reads": reads,
}  # fmt: skip


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, all; default: kills")
    parser.add_argument("--minutes", type=float, default=10, help="of kills, and of reads")
    parser.add_argument("--runs", type=int, default=RUNS, help="of kills")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args()
    named = list(PARTS) if "all" in args.parts else args.parts or ["kills"]
    if unknown := [name for name in named if name not in PARTS]:
        parser.error(f"no part is named {', '.join(unknown)}")
    code = 0
    for name in named:
        print(f"== {name}: {PARTS[name].__doc__} seed {args.seed}", flush=True)
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="steplog-soak-", ignore_cleanup_errors=True) as folder:
            try:
                print(PARTS[name](Soak(Path(folder), args.minutes * 60, args.runs, args.seed)))
            except AssertionError:
                traceback.print_exc()
                print("BROKEN")
                code = 1
        print(f"{time.monotonic() - began_s:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
