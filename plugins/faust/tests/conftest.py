"""Faust in an environment of its own, and its worker as a process."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

PLUGIN = Path(__file__).parents[1]
SYNC_S = 300.0
WAIT_S = 120.0
Started = Callable[..., "Process"]


class Process(NamedTuple):
    """A process that writes into files."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    def until(self, what: Callable[[str, str], object]) -> str:
        """Wait until standard output and error are as they should be; returns the output."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            code = self.process.poll()
            out, err = self.out.read_text(errors="replace"), self.err.read_text(errors="replace")
            if what(out, err):
                return out
            assert code is None, f"it has ended with {code}:\n{out}\n{err}"
            assert time.monotonic() < deadline_s, f"not in {WAIT_S:.0f} s:\n{out}\n{err}"
            time.sleep(0.05)

    def stop(self) -> int:
        """End it in order; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where the programs of the plugin's environment are; made, or brought up to date, by uv."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv is not None, "uv is missing: pip install uv"
    environment = {name: value for name, value in os.environ.items() if name not in _OF_AN_ENVIRONMENT}
    done = subprocess.run(
        [uv, "sync", "--directory", str(PLUGIN)], env=environment, capture_output=True, text=True, timeout=SYNC_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return PLUGIN / ".venv" / "bin"


_OF_AN_ENVIRONMENT = ("PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV")


@pytest.fixture
def start(programs: Path, tmp_path: Path) -> Iterator[Started]:
    """Starts a program of that environment in the test's directory; what still runs at the end is killed."""
    with ExitStack() as ending:
        number = 0

        def start(command: Sequence[str], **variables: str) -> Process:
            nonlocal number
            number += 1
            out, err = tmp_path / f"{number}.out", tmp_path / f"{number}.err"
            with out.open("wb") as out_file, err.open("wb") as err_file:
                process = subprocess.Popen(
                    [str(programs / command[0]), *command[1:]], cwd=tmp_path, env=_environment(variables),
                    stdin=subprocess.DEVNULL, stdout=out_file, stderr=err_file, start_new_session=True,
                )  # fmt: skip
            ending.callback(_kill, process)
            return Process(process, out, err)

        yield start


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    own: dict[str, str] = {
        name: value for name, value in os.environ.items()
        if name not in _OF_AN_ENVIRONMENT and not name.startswith(("STEPLOG_", "INNGEST_"))
    }  # fmt: skip
    return {**own, **variables}


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(WAIT_S)
