"""Starts the two processes of a generation. Light, so that the first can load while the parent does."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from steplog.shells.spawn import start_engine


class Spawned(NamedTuple):
    """Two processes that load what they need of steplog, and wait for the first frame on ``control``."""

    functions: "subprocess.Popen[bytes]"
    engine: "subprocess.Popen[bytes]"
    control: socket.socket


def spawn(sockets: Sequence[socket.socket]) -> Spawned:
    """Start both. The engine's inherits the sockets under their own numbers."""
    ours, theirs = socket.socketpair()
    engine, connection = start_engine(sockets, serves=True)
    with theirs, connection:
        numbers = [theirs.fileno(), connection.fileno()]
        functions = subprocess.Popen(
            [sys.executable, "-P", "-m", "steplog.cli.dev.functions", *map(str, numbers)],
            stdin=subprocess.DEVNULL, pass_fds=numbers,
        )  # fmt: skip
    return Spawned(functions, engine, ours)
