"""Starts an engine's process. It waits for its first frame, so it can be started before anything is known."""

import socket
import subprocess
import sys
from collections.abc import Sequence


def start_engine(sockets: Sequence[socket.socket], *, serves: bool) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start an engine's process; returns it with the connection to it.

    ``sockets`` are inherited under their own numbers. With ``serves`` it loads at once what HTTP needs.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "steplog.shells.child", str(theirs.fileno())]  # -P: no module of the user's
    with theirs:
        process = subprocess.Popen(
            [*command, "serve"] if serves else command, stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *(sock.fileno() for sock in sockets)],
        )  # fmt: skip
    return process, ours
