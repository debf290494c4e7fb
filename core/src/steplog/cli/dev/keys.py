"""Keys on a terminal, while it lasts."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed(handle: Callable[[str], None]) -> Iterator[bool]:
    """Call ``handle`` on the running loop with each key that is pressed; gives whether there is a terminal for that."""
    if not is_ours():
        yield False
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def read() -> None:
        keys = os.read(descriptor, 64).decode(errors="ignore")
        if not keys:  # the terminal is gone
            loop.remove_reader(descriptor)
        elif not keys.startswith("\x1b"):  # arrows and the like
            for key in keys:
                handle(key)

    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def is_ours() -> bool:
    """Whether standard input and error are a terminal, and this process is in its foreground."""
    try:
        descriptor = sys.stdin.fileno()
        return sys.stderr.isatty() and os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return False
