"""The command line as a function: what a process of its own would print, without the time that its start takes."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from steplog.cli import commands, output
from steplog.cli.commands import run


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def clean_environment() -> dict[str, str]:
    """The environment without what a developer may have set for steplog."""
    ours = ("STEPLOG_", "INNGEST_", "NO_COLOR", "FORCE_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def steplog(
    *arguments: str, cwd: Path | None = None, stdin: str = "", environment: Mapping[str, str] | None = None
) -> Done:
    """Run a command in this process."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf8", write_through=True) for _ in range(2))
    with (
        chdir(cwd or Path.cwd()),
        patch.dict(os.environ, clean_environment() | dict(environment or {}), clear=True),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        output.choose_color("auto")
        code = run(commands, arguments)
    return Done(code, *(stream.buffer.getvalue().decode() for stream in (stdout, stderr)))


def steplog_process(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None, timeout_s: float = 30
) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "steplog", *arguments],
        cwd=cwd,
        env=clean_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
