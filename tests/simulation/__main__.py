"""``python -m tests.simulation SEED`` traces one seed; ``--seeds N [--from K]`` runs many, up to the first failure."""

import argparse
import sys
import time
from collections import Counter

from .world import simulate


def main() -> int:
    """Run simulations from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="trace this one")
    parser.add_argument("--seeds", type=int, metavar="N", help="run so many")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="from this one on")
    args = parser.parse_args()
    if args.seed is not None:
        print(simulate(args.seed, trace=print))
        return 0
    began, fired, kinds, turns = time.perf_counter(), Counter[str](), Counter[str](), 0
    for seed in range(args.first, args.first + (args.seeds or 300)):
        report = simulate(seed)
        fired += report.fired
        kinds += report.kinds
        turns += report.turns
    for name, count in sorted([*fired.items(), *kinds.items()]):
        print(f"{count:>9,} {name}")
    print(f"{turns:,} turns in {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
