"""``steplog dev`` as a process: its lines as they are printed, and its API."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from steplog.log.sqlite import JournalReader

from .command_line import clean_environment

WAIT_S = 20.0
_NO_CACHE = "PYTHONDONTWRITEBYTECODE"  # with it nobody would see that a compiled file is older than its source


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: Any  # JSON


class DevServer:
    """A server that was started in a directory; leaving the context ends it and all that it has started."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory, self.lines = directory, list[str]()
        self._news = threading.Condition()
        environment = {name: value for name, value in clean_environment().items() if name != _NO_CACHE}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "steplog", "dev", *arguments, "--port", "0"],
            cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.url = self.said(r"events +(http://[^/]+)/e/dev")[1]
        self.said(r"Ctrl-C")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reading.join()

    # --- what it prints

    def said(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until so many lines fit, and return the last."""
        deadline_s = time.monotonic() + WAIT_S
        with self._news:
            while True:
                found = [match for line in self.lines if (match := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no line {count} fits {pattern!r}: {self.lines}"
                self._news.wait(left_s)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        self.process.stderr.close()

    # --- its API

    def send(self, name: str, data: dict[str, Any] | None = None) -> str:
        """Send an event; returns its internal id."""
        answer = self.post("/e/dev", {"name": name, "data": data or {}})
        assert answer.status == 200, answer.body
        return str(answer.body["ids"][0])

    def post(self, path: str, body: Any) -> "Answer":
        port = int(self.url.rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, json.loads(answer.read()))

    def get(self, path: str) -> Any:
        return self.get_json(path)["data"]

    def get_json(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=WAIT_S) as response:
            return json.load(response)

    def result(self, event_id: str) -> Any:
        """Wait for the end of the one run of an event; returns its output."""
        (run,) = self.get(f"/v1/events/{event_id}/runs")
        ended = until(lambda: self._ended(run["run_id"]))
        assert ended["state"] == "completed", ended
        return ended["output"]

    def _ended(self, run_id: str) -> Any:
        run = self.get(f"/v1/runs/{run_id}?wait=10s")
        return run if run["ended_at"] else None

    # --- its files and processes

    def write(self, code: str, name: str = "app.py", *, at_ns: int | None = None) -> None:
        """Save a file as editors do: in one go, by another name. ``at_ns``: the time that it gets."""
        draft = self.directory / f".{name}.draft"
        draft.write_text(code)
        if at_ns is not None:
            os.utime(draft, ns=(at_ns, at_ns))
        draft.rename(self.directory / name)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Read the journal's records of a kind."""
        with JournalReader(self.directory / ".steplog/dev.db") as reader:
            records = [record for row in reader.journal(0, 10_000) for record in json.loads(row.data)]
        return [record for record in records if record["kind"] == kind]

    def interrupt(self) -> int:
        """Press Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)

    def processes(self, module: str = "") -> list[int]:
        """The processes of its session that run, or those of a module."""
        return [pid for pid, command in _session(self.process.pid) if module in command]


def until(found: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true, and return it."""
    deadline_s = time.monotonic() + WAIT_S
    while not (answer := found()):
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)
    return answer


@contextmanager
def no_room(pid: int) -> Iterator[None]:
    """Let a process write no file, as where a disk is full."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _session(leader: int) -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            state, _, _, session = (directory / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                yield int(directory.name), (directory / "cmdline").read_bytes().decode().replace("\0", " ")
