"""A PostgreSQL server of the tests' own: Debian's programs over a temporary folder, on a free port of 127.0.0.1."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from compose.kafka_local.errors import end_of
from compose.kafka_local.guarded import Guarded
from compose.kafka_local.ports import HOST, free_ports

READY_S, STOP_S = 60.0, 20.0
OWNER = "postgres"
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off",  # what the machine's crash would lose
    "wal_level": "logical", "max_connections": "100", "shared_buffers": "32MB", "listen_addresses": HOST,
}  # fmt: skip


class PostgresUnavailable(Exception):
    """PostgreSQL cannot be had or started here; the message names what is missing."""


class Postgres:
    """A server that ends with this process, and its data with it. Started and ended as a context.

    Anybody on this machine may connect. PostgreSQL refuses to run as root: then it runs as ``postgres``, or ``nobody``.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="steplog-postgres-"))
        self.log, self._data = self._folder / "log", self._folder / "data"
        self._process: Guarded | None = None
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        """Of the database that each server has."""
        return f"postgresql://{OWNER}@{HOST}:{self.port}/postgres"

    def database(self) -> str:
        """Make a database, and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url.removesuffix("postgres") + name

    def execute(self, statement: str, url: str | None = None) -> str:
        """Execute SQL by ``psql``, and return what it prints: a row a line, values parted by ``|``."""
        command = [str(self._programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, url or self.url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=READY_S).stdout.strip()

    def start(self) -> None:
        """Start and wait until it serves; again after ``kill`` on the same data and port."""
        if not self._data.exists():
            self._initialise()
        self._process = Guarded(
            [str(self._programs / "postgres"), "-D", str(self._data)], log=self.log, folder=self._folder,
            at_orphaned=signal.SIGQUIT, user=self._user, removed=self._folder,
        )  # fmt: skip
        deadline_s = time.monotonic() + READY_S
        ask = [str(self._programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        while subprocess.run(ask, check=False, timeout=READY_S).returncode:
            if not self._process.is_running or time.monotonic() > deadline_s:
                self.kill()
                raise PostgresUnavailable(f"PostgreSQL does not serve; its log ends with\n{end_of(self.log)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order, whoever is connected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it without a checkpoint: the next start recovers (SIGQUIT; SIGKILL would leave shared memory behind)."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send(number)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _initialise(self) -> None:
        if self._user:
            shutil.chown(self._folder, self._user)
        initdb = str(self._programs / "initdb")
        command = [initdb, "-N", "-A", "trust", "-U", OWNER, "-E", "UTF8", "--locale=C", str(self._data)]
        done = subprocess.run(
            command, user=self._user or None, group=self._user or None, extra_groups=[] if self._user else None,
            cwd=self._folder, capture_output=True, text=True, timeout=READY_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise PostgresUnavailable(f"PostgreSQL's initdb failed: {done.stdout}{done.stderr}")
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def find_programs() -> Path | None:
    """The folder of the newest PostgreSQL server here, as Debian installs it or on PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def _unprivileged() -> str:
    """The user it runs as where this one is root, or an empty word."""
    if os.getuid() != 0:
        return ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return OWNER if OWNER in names else "nobody"
