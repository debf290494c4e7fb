"""A directory with a file of functions and ``steplog dev`` at work on it, as a process of its own."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .command_line import Done, clean_environment, steplog

READY_S = 15


class Place:
    """The directory, its server and commands in it."""

    def __init__(self, directory: Path, functions: str, *files: str) -> None:
        self.directory = directory
        (directory / "functions.py").write_text(functions)
        ready, told = os.pipe()
        self.server = subprocess.Popen(
            [sys.executable, "-m", "steplog", "dev", *files, "functions.py", "--port", "0",
             "--retry-interval", "1", "--ready-fd", str(told)],
            cwd=directory, pass_fds=(told,), env=clean_environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(told)
        assert select.select([ready], [], [], READY_S)[0], "the server does not get ready"
        self.url = json.loads(os.read(ready, 4096))["url"]
        os.close(ready)

    def steplog(self, *arguments: str, stdin: str = "") -> Done:
        return steplog(*arguments, cwd=self.directory, stdin=stdin, environment={"STEPLOG_URL": self.url})

    def json(self, *arguments: str) -> Any:
        return json.loads(self.steplog(*arguments, "--json").stdout)

    def send(self, *arguments: str) -> Any:
        sent = self.steplog("send", *arguments, "--json")
        assert sent.code in (0, 1), sent.stderr
        return json.loads(sent.stdout)

    def stop(self) -> None:
        if self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(10) == 0


@contextmanager
def placed(directory: Path, functions: str, *files: str) -> Iterator[Place]:
    """Serve ``functions`` as ``functions.py``, beside other files, until the block ends."""
    place = Place(directory, functions, *files)
    try:
        yield place
    finally:
        place.server.kill()
        place.server.wait()
