"""``steplog start`` as a process of its own, with its engine and its history, to be sent events and to be killed."""

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec

SHOP = Path(__file__).with_name("shop.py")
KEY, SIGNING_KEY = "key", "signkey-test-" + "0a" * 32
READY_S, STOP_S = 30.0, 20.0
Part = Literal["functions", "engine", "history", "all"]
_MODULES = {"engine": "steplog.shells.child", "history": "steplog.history.projector"}
T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """What the event API said."""

    status: int
    ids: list[str] = []
    error: str = ""


class Server:
    """One server after the other on the log in a folder. Leaving the context ends the last one."""

    def __init__(
        self, folder: Path, functions: Path = SHOP, *, around: Path | None = None,
        environment: Mapping[str, str] | None = None, url: str | None = None, config: str = "",
    ) -> None:  # fmt: skip
        """``around``: the folder of what is not on the log's disk; ``url``: of a log that is not in the folder."""
        self.log, around = folder / "log.db", around or folder
        self.effects, self.output = around / "effects", around / "output"
        self._url = url or f"sqlite:{self.log}"
        self._config = around / "steplog.toml"
        self._config.write_text(config)  # so that no other is read
        self._functions = functions
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("STEPLOG_", "INNGEST_"))}
        self._environment = {
            **kept, "EFFECTS": str(self.effects), "STEPLOG_EVENT_KEY": KEY, "STEPLOG_SIGNING_KEY": SIGNING_KEY,
            **(environment or {}),
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    # --- start and end

    def start(self) -> float:
        """Start and wait until it serves; returns the seconds that took."""
        began_s = time.monotonic()
        reads, writes = os.pipe()
        try:
            self._process = self.spawn("--ready-fd", str(writes), pass_fds=(writes,))
        finally:
            os.close(writes)
        with os.fdopen(reads) as ready:
            assert select.select([ready], [], [], READY_S)[0], f"it does not serve: {self.printed()}"
            line = ready.readline()
        assert line, f"it ended before it served: {self.printed()}"
        self.port = json.loads(line)["port"]
        return time.monotonic() - began_s

    def spawn(self, *arguments: str, pass_fds: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
        """Start a process, and leave it to itself."""
        command = [sys.executable, "-m", "steplog", "start", str(self._functions), "--log", self._url]
        with self.output.open("ab") as output:
            return subprocess.Popen(
                [*command, "--config", str(self._config), "--port", "0", *arguments],
                pass_fds=pass_fds, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        assert self._process is not None, "start() comes first"
        self._process.terminate()
        code = self._process.wait(STOP_S)
        self._process = None
        return code

    def kill(self, part: Part = "all") -> None:
        """Kill one of its processes, or all, by SIGKILL. Without functions or engine the others end by themselves."""
        assert self._process is not None, "start() comes first"
        if part == "all":
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            os.kill(self.pid(part), signal.SIGKILL)
        if part != "history":
            self._process.wait(STOP_S)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    # --- its processes

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def ended(self) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        assert self._process is not None, "start() comes first"
        code = self._process.wait(STOP_S)
        self._process = None
        return code

    def pid(self, part: Part) -> int:
        """The process that does this part."""
        assert self._process is not None, "start() comes first"
        if part in ("functions", "all"):
            return self._process.pid
        return until(lambda: self._below(self._process.pid if self._process else 0, _MODULES[part]))

    def _below(self, pid: int, module: str) -> int:
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with contextlib.suppress(OSError):
                if module in Path(f"/proc/{child}/cmdline").read_text():
                    return child
                if found := self._below(child, module):
                    return found
        return 0

    def printed(self) -> str:
        """All that servers on this log have printed."""
        return self.output.read_text() if self.output.exists() else ""

    # --- its API

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)

    def post(self, events: object, connection: http.client.HTTPConnection | None = None) -> Answer:
        """Send events. Raises ``OSError`` or ``HTTPException`` where no answer comes."""
        if connection is None:
            with contextlib.closing(self.connection()) as own:
                return self.post(events, own)
        connection.request("POST", f"/e/{KEY}", events if isinstance(events, bytes) else json.dumps(events))
        response = connection.getresponse()
        answer = json.loads(response.read())
        return Answer(response.status, answer.get("ids") or [], answer.get("error") or "")

    def get(self, path: str, connection: http.client.HTTPConnection | None = None) -> Any:
        """Ask; the answer has to be 200."""
        if connection is None:
            with contextlib.closing(self.connection()) as own:
                return self.get(path, own)
        connection.request("GET", path, headers={"Authorization": f"Bearer {SIGNING_KEY}"})
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body)["data"]


def rss_bytes(pid: int) -> int:
    """The memory that a process has; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def until(found: Callable[[], T], *, within_s: float = READY_S, why: str = "it did not come true in time") -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline_s = time.monotonic() + within_s
    while not (answer := found()):
        assert time.monotonic() < deadline_s, why
        time.sleep(0.005)
    return answer
