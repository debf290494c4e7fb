"""Kafka's jars, got once by Maven and kept: ``~/.cache/steplog/kafka-<version>``, which may be removed at any time.

Whatever is made here appears by a rename, under a lock: processes that start at once do no harm to each other, nor does
one that is killed.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compose.kafka_local.errors import KafkaUnavailable

VERSION = "4.1.1"
_JAVA_AT_LEAST = 17  # of Kafka 4's brokers
_MAVEN_S, _JAVA_S = 600, 60
_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>steplog</groupId><artifactId>kafka-local</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Distribution:
    """What runs Kafka here."""

    java: Path
    folder: Path

    @property
    def archive(self) -> Path:
        """The classes as this Java has them in memory: with it a broker starts in half the time."""
        state = self.java.stat()
        build = hashlib.sha256(f"{self.java} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
        return self.folder / f"classes-{build}.jsa"

    @property
    def checkpoint(self) -> Path:
        """What a formatted log folder holds besides its ids: the versions of Kafka's features."""
        return self.folder / "bootstrap.checkpoint"

    def command(self, main: str, *arguments: str, jvm: Sequence[str] = ()) -> list[str]:
        """Run a class of Kafka's."""
        # In a fixed order, named one by one: the archive holds for exactly this path.
        jars = ":".join(map(str, sorted((self.folder / "libs").glob("*.jar"))))
        archive = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive.exists() else []
        return [str(self.java), *_JVM, *archive, *jvm, "-cp", jars, main, *arguments]


def cache() -> Path:
    """The folder of everything that is got once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steplog"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process at a time, of all on this machine, do what has this name."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_java() -> Path:
    """The ``java`` of JAVA_HOME or PATH."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        where = f"JAVA_HOME ({home}) has no bin/java" if home else "there is no java on PATH"
        raise KafkaUnavailable(f"Java is missing: {where}; {how_to_get('default-jre-headless')}")
    return Path(found).resolve()


def how_to_get(package: str) -> str:
    """How a missing program is got."""
    return f"on Debian and Ubuntu: apt-get install {package}"


def check_java(java: Path) -> None:
    """Raise ``KafkaUnavailable`` where this Java is too old for Kafka."""
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_JAVA_S, check=False).stderr
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found[1]) < _JAVA_AT_LEAST:
        version = found[1] if found else f"of an unknown version ({told.strip()})"
        raise KafkaUnavailable(
            f"Java {_JAVA_AT_LEAST} or newer is missing: {java} is {version}; {how_to_get('default-jre-headless')}"
        )


def get_jars(into: Path, tell: Tell) -> None:
    """Have Maven put Kafka and what it needs into a folder."""
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailable(f"Maven is missing: there is no mvn on PATH; {how_to_get('maven')}")
    tell(f"getting Kafka {VERSION} by Maven (about 60 MB, once)")
    with _made(into) as folder:
        pom = folder / "pom.xml"
        pom.write_text(_POM)
        command = [
            maven, "-q", "-B", "-Dstyle.color=never", "-f", str(pom), "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}", "-DincludeScope=runtime",
        ]  # fmt: skip
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=_MAVEN_S, check=False,
        )  # fmt: skip
        if done.returncode:
            said = "\n".join(done.stdout.splitlines()[:8])
            raise KafkaUnavailable(
                f"Kafka {VERSION} is missing, and Maven could not get it; it needs the network, or a mirror in "
                f"~/.m2/settings.xml. It said:\n{said}"
            )


def format_once(distribution: Distribution) -> None:
    """Have Kafka format a folder, and keep what is the same in all of them; that spares each broker a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        properties = folder / "server.properties"
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
            "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={folder}/data\n"
        )
        command = distribution.command(
            "kafka.tools.StorageTool", "format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config", str(properties)
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=_JAVA_S, check=False)
        made = folder / "data" / distribution.checkpoint.name
        if done.returncode or not made.exists():
            raise KafkaUnavailable(f"Kafka {VERSION} could not format a folder:\n{done.stdout}{done.stderr}")
        replacement = distribution.checkpoint.with_suffix(".new")
        shutil.copyfile(made, replacement)
        replacement.replace(distribution.checkpoint)


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Fill a folder elsewhere; it is there whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        parts = Path(name) / folder.name
        parts.mkdir()
        yield parts
        parts.rename(folder)
