"""``uv run python -m benchmarks [NAME…]``: all of them, or those that are named."""

import argparse
import importlib
import platform
import sqlite3
import sys

NAMES = (
    "state",
    "projector",
    "startup",
    "runs",
    "latency",
    "steps",
    "backlog",
    "ingest",
    "sleepers",
    "cron",
    "cel",
    "waits",
    "replay",
    "slow_clients",
    "kafka.runs",
    "kafka.ingest",
    "kafka.nodes",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    chosen = parser.parse_args().names or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is named {', '.join(unknown)}")
    print(f"CPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}")
    for name in chosen:
        print(f"\n== {name}")
        sys.stdout.flush()
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
