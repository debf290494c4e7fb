"""The engine as a child process, ``steplog start`` as anyone would run it, so that it can be killed like any other."""

import http.client
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from steplog.demo.place import Place
from steplog.errors import SteplogError

ORDERS = Path(__file__).with_name("orders.py")
READY_S = 20.0
STOP_S = 10.0
SEND_S = 30.0
SHOWN_LINES = 20


class DemoFailed(SteplogError):
    """The demo could not be played to its end."""

    code = "demo_failed"


class Engine:
    """One engine after the other on one log, with keys of their own making. Leaving the context ends the last one."""

    def __init__(self, place: Place, directory: Path, environment: dict[str, str]) -> None:
        self._place = place
        self._output = directory.absolute() / "engine.log"
        self._event_key = secrets.token_hex(16)
        self._config = self._output.with_name("steplog.toml")  # empty: what is configured here is not the demo's
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("STEPLOG_", "INNGEST_"))},
            **environment,
            "STEPLOG_EVENT_KEY": self._event_key,
            "STEPLOG_SIGNING_KEY": secrets.token_hex(32),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def start(self) -> float:
        """Start an engine and wait until it serves; returns the seconds that took."""
        began_s = time.monotonic()
        ready, told = os.pipe()
        try:
            self._config.touch()
            command = [
                sys.executable, "-m", "steplog", "start", str(ORDERS), "--log", self._place.url, "--config",
                str(self._config), *self._place.arguments,
            ]  # fmt: skip
            with self._output.open("ab") as output:
                self._process = subprocess.Popen(
                    [*command, "--port", "0", "--ready-fd", str(told)], pass_fds=(told,), env=self._environment,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            os.close(told)
            told = -1
            self._port = self._read_port(ready)
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        return time.monotonic() - began_s

    def send(self, events: Sequence[dict[str, Any]]) -> int:
        """Send events; returns how many were accepted, which is all of them or an error."""
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=SEND_S)) as connection:
            connection.request("POST", f"/e/{self._event_key}", json.dumps(events))
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise DemoFailed(f"the engine refused the events: {response.status} {answer.get('error')}")
        return len(answer["ids"])

    def kill(self) -> None:
        """End the engine, its functions and its history at once, as a power cut would."""
        assert self._process is not None, "start() comes first"
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        """Raise ``DemoFailed`` where the engine has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise self._failure(f"the engine ended by itself, with code {self._process.returncode}")

    def stop(self) -> None:
        """End the engine in order; by force where that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None and self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.stop()

    def _read_port(self, ready: int) -> int:
        """Read the line that says that the engine serves."""
        deadline_s = time.monotonic() + READY_S
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([ready], [], [], max(deadline_s - time.monotonic(), 0))
            if not readable:
                raise self._failure(f"the engine did not serve within {READY_S:.0f} s")
            part = os.read(ready, 4096)
            if not part:
                raise self._failure("the engine ended before it served")
            line += part
        return int(json.loads(line)["port"])

    def _failure(self, what: str) -> DemoFailed:
        lines = self._output.read_text(encoding="utf8", errors="replace").splitlines()[-SHOWN_LINES:]
        return DemoFailed("\n  ".join([f"{what}; the last lines of {self._output}:", *lines]))
