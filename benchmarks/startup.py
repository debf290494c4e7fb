"""What an import and a command cost before they do anything."""

import statistics
import subprocess
import sys
import time

ROUNDS = 9
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import steplog": ["-c", "import steplog"],
    "steplog --help": ["-m", "steplog", "--help"],
}


def main() -> None:
    floor = 0.0
    for name, arguments in COMMANDS.items():
        taken = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began)
        median = statistics.median(taken) * 1000
        floor = floor or median
        print(f"{name:20} {median:6.0f} ms, {median - floor:4.0f} above the interpreter")
