"""What tests need beside Python: Kafka, PostgreSQL. Got where it is missing, started, ended with the tests.

``python -m tests.servers [kafka] [postgres]`` gets everything beforehand and says what it does. Whatever cannot be had
fails, and says what is missing and how to get it; no test is skipped for that.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from compose.kafka_local import Cluster, KafkaUnavailable, free_ports, install
from compose.kafka_local.distribution import Tell, alone, find_java, how_to_get
from tests.postgres import Postgres, PostgresUnavailable, find_programs

APT_S = 600


def _say_nothing(line: str) -> None:
    pass


# --- Kafka


@contextmanager
def kafka(tell: Tell = _say_nothing) -> Iterator[Cluster]:
    """One broker for many tests, each with topics of its own prefix. At its proxy's port a test may put a proxy."""
    with kafka_cluster(1, tell=tell) as cluster:
        yield cluster


@contextmanager
def kafka_cluster(
    brokers: int = 3, *, settings: Mapping[str, object] | None = None, users: Mapping[str, str] | None = None,
    tell: Tell = _say_nothing,
) -> Iterator[Cluster]:  # fmt: skip
    """Brokers of a test's own, which it may kill. Their data go at the end."""
    get_kafka(tell)
    proxies = free_ports(brokers)
    with Cluster(install(tell), brokers, settings=settings, proxies=proxies, is_brief=True, users=users) as cluster:
        yield cluster


def get_kafka(tell: Tell = _say_nothing) -> None:
    """Have what Kafka needs. Raises ``KafkaUnavailable``."""
    try:
        find_java()
    except KafkaUnavailable:
        if not _can_install():
            raise
        _apt_install(["default-jre-headless"], tell)
    try:
        install(tell)
    except KafkaUnavailable:
        if shutil.which("mvn") or not _can_install():
            raise
        _apt_install(["maven"], tell)
        install(tell)


# --- PostgreSQL


@contextmanager
def postgres(tell: Tell = _say_nothing) -> Iterator[Postgres]:
    """A server for many tests, each with a database of its own."""
    get_postgres(tell)
    programs = find_programs()
    assert programs is not None, "it was got"
    with Postgres(programs) as server:
        yield server


def get_postgres(tell: Tell = _say_nothing) -> None:
    """Have PostgreSQL's programs. Raises ``PostgresUnavailable``."""
    if find_programs() is not None:
        return
    if not _can_install():
        raise PostgresUnavailable(
            f"PostgreSQL is missing: neither /usr/lib/postgresql/*/bin nor PATH has it; {how_to_get('postgresql')}"
        )
    _apt_install(["postgresql"], tell)
    if find_programs() is None:
        raise PostgresUnavailable("PostgreSQL was installed, but /usr/lib/postgresql/*/bin is not there")


# --- Debian's packages


def _can_install() -> bool:
    return os.getuid() == 0 and shutil.which("apt-get") is not None


def _apt_install(packages: Sequence[str], tell: Tell) -> None:
    """Install packages, with a fresh list of them where the present one does not do."""
    tell(f"installing {' '.join(packages)} by apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", "-qq", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=APT_S, check=False,
        )  # fmt: skip

    command = ["install", "-y", "--no-install-recommends", *packages]
    with alone("apt"):
        done = run(*command)
        if done.returncode:
            run("update")
            done = run(*command)
    if done.returncode:
        raise SystemExit(f"apt-get could not install {' '.join(packages)}; it said:\n{done.stderr.strip()}")


def _print(name: str, line: str) -> None:
    print(f"{name}: {line}", flush=True)


GET: dict[str, Callable[[Tell], None]] = {"kafka": get_kafka, "postgres": get_postgres}


def main(names: Sequence[str]) -> int:
    """Get these, or all. Returns 1 where something could not be had."""
    if unknown := [name for name in names if name not in GET]:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(GET)}", file=sys.stderr)
        return 2
    failed = False
    for name in names or GET:
        began_s = time.monotonic()
        try:
            GET[name](partial(_print, name))
        except (KafkaUnavailable, PostgresUnavailable) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = True
        else:
            _print(name, f"ready to start ({time.monotonic() - began_s:.1f} s)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
