"""Where the time of a benchmark goes: ``python -m benchmarks.profile NAME [--top 10] [--lines]``.

Samples every process of ``python -m benchmarks NAME`` with py-spy, 500 times a second, while it is on a processor, and
prints for each kind of process the functions, or lines, that were found at work most often. C code counts for the line
that calls it. What is sampled in a system call is sampled a little too often.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

RATE = 500
KINDS = (("steplog.history.projector", "history"), ("steplog.shells.child", "engine"))  # else: the functions'
IDLE = ("Condition.wait", "wait (threading.py", "select (selectors.py", "_parent_ended (")  # as py-spy names them
_PROCESS = re.compile(r'^process \d+:"(.*)"$')
_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>.*):(?P<line>\d+)\)$")


def sampled(name: str) -> list[tuple[list[str], int]]:
    """Run a benchmark; returns its stacks, outermost frame first, and how often each was found."""
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory) / "stacks"
        subprocess.run(
            ["py-spy", "record", "--subprocesses", "--rate", str(RATE), "--format", "raw", "--output", str(found), "--",
             sys.executable, "-m", "benchmarks", name],
            check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        lines = [line.rpartition(" ") for line in found.read_text().splitlines()]
    return [(stack.split(";"), int(count)) for stack, _, count in lines]


def at_work(stacks: list[tuple[list[str], int]], *, are_lines: bool) -> dict[str, Counter[str]]:
    """Count, for each kind of process, what is innermost."""
    found: dict[str, Counter[str]] = {}
    for stack, count in stacks:
        commands = [match[1] for frame in stack if (match := _PROCESS.match(frame))]
        kind = next((kind for part, kind in KINDS if part in commands[-1]), "functions")
        frame = _FRAME.match(stack[-1])
        if frame is None or any(idle in stack[-1] for idle in IDLE) or any("importlib" in each for each in stack):
            continue
        file = "/".join(Path(frame["file"]).parts[-2:])
        place = f"{file}:{frame['line']} {frame['function']}" if are_lines else f"{file} {frame['function']}"
        found.setdefault(kind, Counter())[place] += count
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a benchmark")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many")
    parser.add_argument("--lines", action="store_true", help="lines instead of functions")
    args = parser.parse_args()
    for kind, counts in at_work(sampled(args.name), are_lines=args.lines).items():
        total = counts.total()
        print(f"\n{kind}: {total} samples")
        for place, count in counts.most_common(args.top):
            print(f"{100 * count / total:5.1f} %  {place}")


if __name__ == "__main__":
    main()
