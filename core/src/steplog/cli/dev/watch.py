"""Watches files by looking at them: nothing to install, and it works on every file system, mounted ones too."""

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.1  # some stat calls: 0.1 ms for 50 files
SETTLE_S = 0.03  # a save is over when nothing has changed for so long
GONE_S = 1.0  # how long a file may be missing: editors delete it and write it anew
CLOCK_NS = 20_000_000  # files have the time of the last tick


class State(NamedTuple):
    """What changes with a file."""

    modified_ns: int
    size_bytes: int
    inode: int


class Watch:
    """What the files were when they were last looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, State | None] = {}
        self._folders: dict[str, frozenset[str]] = {}

    def replace(self, files: Iterable[str], *, since_ns: int, with_new: bool = False) -> None:
        """Watch these files instead. One that is new here and was saved after ``since_ns`` has changed already.

        ``with_new``: new modules beside them count as well; one may be what an import is missing.
        """
        seen = {file: self._seen[file] if file in self._seen else _first_look(file, since_ns) for file in files}
        self._seen = seen
        folders = {str(Path(file).parent) for file in files} if with_new else set()
        self._folders = {folder: _modules(folder) for folder in folders}

    @property
    def files(self) -> list[str]:
        """What is watched."""
        return list(self._seen)

    async def changed(self) -> list[str]:
        """Wait until something has changed, and the save is over; returns the files that did."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._look() != (self._seen, self._folders):
                break
        deadline_s, found = time.monotonic() + GONE_S, self._look()
        while True:
            await asyncio.sleep(SETTLE_S)
            now = self._look()
            if now == found and (None not in now[0].values() or time.monotonic() > deadline_s):
                break
            found = now
        changed = [file for file, state in now[0].items() if state != self._seen.get(file)]
        self._seen, self._folders = now
        return changed

    def _look(self) -> tuple[dict[str, State | None], dict[str, frozenset[str]]]:
        return {file: _look(file) for file in self._seen}, {folder: _modules(folder) for folder in self._folders}


def forget_compiled(files: Iterable[str]) -> None:
    """Delete the compiled files of some modules.

    Python takes one for up to date by its source's size and second; two saves in one second may not differ in either.
    """
    for file in files:
        Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)


def _first_look(file: str, since_ns: int) -> State | None:
    state = _look(file)
    if state is not None and state.modified_ns > since_ns - CLOCK_NS:
        return State(0, 0, 0)
    return state


def _look(file: str) -> State | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - ten times a second
    except OSError:
        return None
    return State(found.st_mtime_ns, found.st_size, found.st_ino)


def _modules(folder: str) -> frozenset[str]:
    try:
        return frozenset(name for name in os.listdir(folder) if name.endswith(".py"))  # noqa: PTH208
    except OSError:
        return frozenset()
