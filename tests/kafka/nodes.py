"""Nodes of one log: ``steplog start`` in processes of their own, and what tests ask of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

T = TypeVar("T")
SOON_S = 60.0
KEYS = {"STEPLOG_EVENT_KEY": "sent", "STEPLOG_SIGNING_KEY": "signed"}


class Node:
    """One process, with its children in a group of their own."""

    def __init__(self, name: str, log: str, directory: Path, source: Path | None, options: Sequence[str]) -> None:
        self.name, self._log, self._directory, self._source = name, log, directory, source
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, and wait until it serves."""
        ready, theirs = os.pipe()
        files = [] if self._source is None else [str(self._source)]
        command = [
            sys.executable, "-m", "steplog", "start", *files, "--log", self._log, "--port", "0", "--ready-fd",
            str(theirs), "--set", f"kafka.node={self.name}", *self._options,
        ]  # fmt: skip
        with (self._directory / f"{self.name}.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self._directory, env=os.environ | KEYS, pass_fds=[theirs], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        os.close(theirs)
        with os.fdopen(ready) as lines:
            line = lines.readline()
        assert line, f"{self.name} did not start:\n{self.said}"
        self.url = json.loads(line)["url"]

    @property
    def said(self) -> str:
        """What it has written to its log."""
        return (self._directory / f"{self.name}.log").read_text()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(SOON_S)
            self._process = None

    def kill(self) -> None:
        """End it, and its engine, by SIGKILL."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(SOON_S)
            self._process = None

    def send(self, name: str, data: Any, **fields: Any) -> str:
        """Send an event; returns its id."""
        status, answer = self.ask("POST", f"/e/{KEYS['STEPLOG_EVENT_KEY']}", {"name": name, "data": data, **fields})
        assert status == 200, answer
        return str(answer["ids"][0])

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask its API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {KEYS['STEPLOG_SIGNING_KEY']}", "content-type": "application/json"}
        request = Request(self.url + path, data, headers, method=method)
        try:
            with urlopen(request, timeout=SOON_S) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def runs_of(self, event: str) -> list[dict[str, Any]]:
        """The runs that an event has started, as this node's history has them."""
        status, answer = self.ask("GET", f"/v1/events/{event}/runs")
        return list(answer["data"]) if status == 200 else []

    def run(self, event: str, state: str) -> dict[str, Any]:
        """Wait until the one run of an event is in a state."""
        return until(lambda: next((run for run in self.runs_of(event) if run["state"] == state), None))


@contextmanager
def nodes(
    names: Sequence[str], log: str, directory: Path, source: Path, options: Sequence[str] = ()
) -> Iterator[list[Node]]:
    """Start nodes; all of them are ended."""
    made = [Node(name, log, directory, source, options) for name in names]
    try:
        with ThreadPoolExecutor() as side_by_side:
            list(side_by_side.map(Node.start, made))
        yield made
    finally:
        for node in made:
            node.kill()


def until(ask: Callable[[], T | None]) -> T:
    """Ask until there is an answer."""
    deadline_s = time.monotonic() + SOON_S
    while not (answer := ask()):
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.05)
    return answer
