"""``python -m tests.simulation SEED`` traces one seed; ``--seeds N [--from K]`` runs many, up to the first failure.

``--mutants [NAME …]`` puts deliberate faults into the product, one after the other, and looks for the seed that finds
each, from 0 to N. Both use all cores; ``--part`` is what one of their processes is called with. ``--cluster`` means the
histories of several processes on Kafka instead of those of one.
"""

import argparse
import sys
import time

import msgspec

from .cluster import simulate_cluster
from .mutants import ALL_MUTANTS
from .mutation import Hunt, hunt
from .workers import counted, hunted, known_seeds, simulated
from .world import simulate

SEEDS = 300


def main() -> int:
    """Run simulations from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="trace this one")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="run so many")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="from this one on")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="find these faults; without names, all")
    parser.add_argument("--cluster", action="store_true", help="several processes on Kafka")
    parser.add_argument("--known", action="store_true", help="mutants: begin with the seed that docs/proof.md has")
    parser.add_argument("--part", action="store_true", help="in this process, with JSON for output")
    args = parser.parse_args()
    if args.seed is not None:
        print((simulate_cluster if args.cluster else simulate)(args.seed, trace=print))
        return 0
    if args.part:
        _do_part(args.first, args.seeds, args.mutants, is_cluster=args.cluster, is_fresh=not args.known)
        return 0
    began = time.perf_counter()
    if args.mutants is not None:
        names = args.mutants or [mutant.name for mutant in ALL_MUTANTS]
        is_found = _print_hunts(hunted(names, args.seeds, is_fresh=not args.known))
    else:
        is_found = True
        _print_totals(args.first, args.seeds, is_cluster=args.cluster)
    print(f"{time.perf_counter() - began:.1f} s")
    return 0 if is_found else 1


def _do_part(first: int, seeds: int, names: list[str] | None, *, is_cluster: bool, is_fresh: bool) -> None:
    """Do a part of the work; print each outcome as soon as it is known."""
    if names is None:
        for seed in range(first, first + seeds):
            print(msgspec.json.encode((simulate_cluster if is_cluster else simulate)(seed)).decode())
        return
    by_name = {mutant.name: mutant for mutant in ALL_MUTANTS}
    known = {} if is_fresh else known_seeds()
    for name in names:
        print(msgspec.json.encode(hunt(by_name[name], seeds, known.get(name))).decode(), flush=True)


def _print_totals(first: int, seeds: int, *, is_cluster: bool) -> None:
    reports = simulated(first, seeds, is_cluster=is_cluster)
    fired, kinds = counted(reports)
    turns = sum(report.turns for report in reports)
    for name, count in sorted([*fired.items(), *kinds.items()]):
        print(f"{count:>9,} {name}")
    print(f"{seeds:,} histories, {turns:,} turns")


def _print_hunts(hunts: list[Hunt]) -> bool:
    """Print a table; returns whether all were found."""
    width = max(len(found.name) for found in hunts)
    print(f"{'mutant':{width}}  {'promise':8} {'seeds':>5}  what the check said")
    for found in hunts:
        seeds = "none" if found.seed is None else found.seed + 1
        print(f"{found.name:{width}}  {found.promise:8} {seeds:>5}  {found.said[:100]}")
    return all(found.seed is not None for found in hunts)


if __name__ == "__main__":
    sys.exit(main())
