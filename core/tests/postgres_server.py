"""A PostgreSQL of the tests' own: in a folder, on a loopback port, without a password."""

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

USER = "postgres"  # it refuses to run as root


class PostgresServer:
    """A server that may be stopped and started again with what it holds."""

    def __init__(self, folder: Path) -> None:
        self._data, self._port = folder / "data", _free_port()
        self.dsn = f"postgresql://{USER}@127.0.0.1:{self._port}/postgres"
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -k '' -h 127.0.0.1 -c fsync=off -c max_connections=50"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
        assert found, "PostgreSQL is missing: apt-get install postgresql"
        user = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        done = subprocess.run(
            [str(found[-1]), *arguments], cwd="/", check=False, capture_output=program == "initdb", text=True,
            stdin=subprocess.DEVNULL, user=user and user.pw_uid, group=user and user.pw_gid,
            extra_groups=[] if user else None, stdout=None if program == "initdb" else subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
