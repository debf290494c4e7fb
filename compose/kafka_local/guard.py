"""Runs a command that must not outlive who started it: ``guard.py SIGNAL USER REMOVED COMMAND…``.

Prints the command's pid and ends with its code. When standard input ends, whoever held it is gone, however it
ended: the command is sent the signal (SIGKILL after some seconds), and the folder REMOVED is removed. Empty words mean
the present user and no folder. Imports nothing of ours, so that ``python -I -S`` runs it at once.
"""

import os
import shutil
import subprocess
import sys
import threading

_GRACE_S = 5


def main() -> int:
    number, user, removed, *command = sys.argv[1:]
    groups: list[int] | None = [] if user else None
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, user=user or None, group=user or None, extra_groups=groups
    )
    print(process.pid, flush=True)
    sys.stdout.close()
    is_orphaned = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        is_orphaned.set()
        process.send_signal(int(number))
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    if is_orphaned.is_set() and removed:
        shutil.rmtree(removed, ignore_errors=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())  # at once: the thread waits for input that need not come
