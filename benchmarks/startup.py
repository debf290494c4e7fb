"""What an import and a command cost before they do anything, and how soon ``steplog dev`` is ready, again and again."""

import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 9
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import steplog": ["-c", "import steplog"],
    "steplog --help": ["-m", "steplog", "--help"],
}
FUNCTIONS = """
import time
from steplog import App, Context

app = App("startup")


async def began() -> int:
    return time.time_ns()


@app.function("first", trigger="startup/first")
async def first(ctx: Context) -> int:
    return await ctx.step.run("began", began)
"""


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
        print(f"{name:24} {median:6.0f} ms, {median - floor:4.0f} above the interpreter")
    taken_s: dict[str, list[float]] = {"dev ready": [], "dev event to first step": [], "dev save to reloaded": []}
    for _ in range(ROUNDS):
        for name, seconds in zip(taken_s, _dev(), strict=True):
            taken_s[name] += seconds
    for name, seconds in taken_s.items():
        print(f"{name:24} {statistics.median(seconds) * 1000:6.0f} ms, at most {max(seconds) * 1000:.0f}")


def _dev() -> tuple[list[float], list[float], list[float]]:
    """Start ``steplog dev``, send it events, save its file; the seconds that each of that took."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "app.py")
        file.write_text(FUNCTIONS)
        began = time.perf_counter()
        dev = subprocess.Popen(
            [sys.executable, "-m", "steplog", "dev", "app.py", "--port", "0"], cwd=directory, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            port = int(_line(dev, r"events +http://[^:]+:([0-9]+)/"))
            _line(dev, "(Ctrl-C)")
            ready = time.perf_counter() - began
            first = [_first_step(port) for _ in range(5)]
            file.write_text(FUNCTIONS + "# saved\n")
            began = time.perf_counter()
            _line(dev, "(reloaded)")
            return [ready], first[1:], [time.perf_counter() - began]
        finally:
            os.kill(dev.pid, signal.SIGINT)
            dev.communicate()


def _line(dev: "subprocess.Popen[str]", pattern: str) -> str:
    assert dev.stderr is not None
    for line in dev.stderr:
        if match := re.search(pattern, line):
            return match[1]
    raise RuntimeError("it has ended")


def _first_step(port: int) -> float:
    """The seconds from before an event is sent to when its run's first step begins."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    sent_ns = time.time_ns()
    connection.request("POST", "/e/dev", json.dumps({"name": "startup/first", "data": {}}))
    id_ = json.loads(connection.getresponse().read())["ids"][0]
    output = None
    while output is None:
        connection.request("GET", f"/v1/events/{id_}/runs")
        output = json.loads(connection.getresponse().read())["data"][0]["output"]
    connection.close()
    return float(output - sent_ns) / 1e9


if __name__ == "__main__":
    main()
