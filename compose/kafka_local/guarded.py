"""A process that ends with the one that started it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")


class Guarded:
    """A command that runs until it ends or is ended, in a session of its own (Ctrl-C does not reach it).

    When this process dies, even by SIGKILL, ``at_orphaned`` is sent to the command and the folder ``removed`` goes.
    What the command prints is appended to ``log``.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, folder: Path, at_orphaned: int = signal.SIGKILL, user: str = "",
        removed: Path | None = None, environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        words = [str(int(at_orphaned)), user, str(removed or ""), *command]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), *words], cwd=folder, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=output, start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )  # fmt: skip
        assert self._guard.stdout is not None, "it was asked for"
        with self._guard.stdout as told:
            self.pid = int(told.readline() or 0)

    @property
    def is_running(self) -> bool:
        return self._guard.poll() is None

    def send(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""
        if self.pid and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its code, 128 + the signal that ended it. Raises ``TimeoutExpired``."""
        code = self._guard.wait(timeout_s)
        assert self._guard.stdin is not None, "it was asked for"
        self._guard.stdin.close()
        return code

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()
