"""``steplog start`` as a process, for clients that mean it ill: raw bytes in, and a look at the server's memory."""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from steplog.log.sqlite import JournalReader

EVENT_KEY, SIGNING_KEY = "hostile-key", "signkey-test-" + "5e" * 32
READY_S, STOP_S = 30.0, 20.0
FUNCTIONS = """
from steplog import App, Context

app = App("shop")

@app.function("count", trigger="shop/counted")
async def count(ctx: Context) -> int:
    return len(ctx.event.data)
"""


class Reply(msgspec.Struct, frozen=True):
    """A response that was read to its end."""

    status: int
    body: bytes
    retry_after: str | None = None

    @property
    def error(self) -> str:
        return str(json.loads(self.body).get("error", ""))

    @property
    def ids(self) -> list[str]:
        ids: list[str] = json.loads(self.body)["ids"]
        return ids


class Target:
    """A server on a log in a folder; leaving the context kills it, if it has not been stopped."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder, self.log = folder, folder / "log.db"
        functions, self._output = folder / "functions.py", folder / "output"
        functions.write_text(FUNCTIONS)
        (folder / "steplog.toml").touch()  # so that no other is read
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("STEPLOG_", "INNGEST_"))}
        reads, writes = os.pipe()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "steplog", "start", str(functions), "--log", f"sqlite:{self.log}", "--port", "0",
                 "--config", str(folder / "steplog.toml"), "--ready-fd", str(writes),
                 *[part for setting in settings for part in ("--set", setting)]],
                env=kept | {"STEPLOG_EVENT_KEY": EVENT_KEY, "STEPLOG_SIGNING_KEY": SIGNING_KEY},
                pass_fds=(writes,), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        os.close(writes)
        with os.fdopen(reads) as ready:
            is_ready = select.select([ready], [], [], READY_S)[0]
            line = ready.readline() if is_ready else ""
        assert line, f"it does not serve: {self.printed()}"
        self.port = int(json.loads(line)["port"])
        self._first_processes = self.processes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        self._process.terminate()
        return self._process.wait(STOP_S)

    # --- its processes

    def processes(self) -> dict[str, int]:
        """Its processes, by what each does."""
        found = {"functions": self._process.pid}
        for pid in _below(self._process.pid):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            found["engine" if "shells.child" in command else "history"] = pid
        return found

    def rss_bytes(self, part: str = "engine") -> int:
        """The memory of one of its processes."""
        pages = Path(f"/proc/{self._first_processes[part]}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def assert_lives(self) -> None:
        """It is the same processes as at its start, they serve, and they have printed no trace of an error."""
        assert self.processes() == self._first_processes
        assert len(self.send({"name": "shop/alive"}).ids) == 1
        printed = self.printed()
        assert "Traceback" not in printed, printed

    def printed(self) -> str:
        return self._output.read_text()

    # --- its API

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request with the signing key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"Bearer {SIGNING_KEY}", **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.read(), response.headers["retry-after"])

    def send(self, events: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Send events; bytes go as they are."""
        body = events if isinstance(events, bytes) else json.dumps(events).encode()
        return self.request("POST", f"/e/{EVENT_KEY}", body, headers)

    def get(self, path: str) -> Any:
        reply = self.request("GET", path)
        assert reply.status == 200, reply
        return json.loads(reply.body)["data"]

    def open(self, *parts: bytes) -> socket.socket:
        """Connect, and send the beginning of something."""
        connection = socket.create_connection(("127.0.0.1", self.port), READY_S)
        for part in parts:
            connection.sendall(part)
        return connection

    def exchange(self, *parts: bytes) -> bytes:
        """Send bytes and nothing after them, and read what comes until the server closes."""
        with contextlib.closing(self.open(*parts)) as connection:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            return _read(connection)

    # --- its log

    def routed(self) -> list[str]:
        """The names of all events that were accepted."""
        decode = msgspec.json.Decoder(list[dict[str, Any]]).decode
        with JournalReader(self.log) as reader:
            found = [record for row in reader.journal(0, 100_000) for record in decode(row.data)]
        return [record["name"] for record in found if record["kind"] == "event.routed"]


def until(found: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true, and return it."""
    deadline_s = time.monotonic() + READY_S
    while not (answer := found()):
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.01)
    return answer


def _read(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            received += part
    return received


def _below(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in _below(child)]
