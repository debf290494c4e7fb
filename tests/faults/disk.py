"""The disk that fails (``disk.c``), and processes that write a log to it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SOURCE, WRITER = Path(__file__).with_name("disk.c"), Path(__file__).with_name("writer.py")


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "disk.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE)]
    subprocess.run([*command, "-o", str(library)], check=True)
    return library


class Writers:
    """Processes on the disk that fails, forked from one that has loaded everything. Leaving the context ends that."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, WRITER], env={**os.environ, "LD_PRELOAD": str(library)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, **case: Any) -> dict[str, int]:
        """Run one case, the fields of ``writer.Case``; returns its ``code`` and, where it ended, ``operations``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the writers' process has ended"
        found: dict[str, int] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
