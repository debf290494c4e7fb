"""compose/kafka-local: brokers start, survive kill -9, elect, and leave nothing behind."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compose.kafka_local import Cluster, KafkaUnavailable, free_ports, install
from compose.kafka_local.distribution import VERSION, cache
from tests import servers
from tests.faults.server import until
from tests.kafka_clients import committed, create_topic, produce, transactional

ROOT = Path(__file__).parent.parent
COMMAND = ROOT / "compose" / "kafka-local"
READY_S = 90


@contextmanager
def command(*arguments: str) -> Iterator["tuple[subprocess.Popen[str], dict[str, Any]]"]:
    """Run the command until the block ends; what it said when it was ready."""
    reads, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, COMMAND, *arguments, "--ready-fd", str(writes)], pass_fds=(writes,), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    os.close(writes)
    with process, os.fdopen(reads) as ready:
        try:
            assert select.select([ready], [], [], READY_S)[0], "it is not ready in time"
            yield process, json.loads(ready.readline() or "null")
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_keeps_a_folder_over_a_kill_and_an_end(tmp_path: Path) -> None:
    """Ended by SIGKILL it takes the broker with it; the next one has the records; SIGTERM ends that in order."""
    arguments = ("--port", str(free_ports(1)[0]), "--data", str(tmp_path), "--set", "broker.session.timeout.ms=1000")
    with command(*arguments) as (process, ready):
        bootstrap = ready["bootstrap"]
        create_topic(bootstrap, "kept")
        produce(bootstrap, "kept", b"a", b"b")
        process.kill()
        until(lambda: not any(map(is_alive, ready["pids"])))
    with command(*arguments) as (process, ready):
        assert ready["bootstrap"] == bootstrap
        assert committed(bootstrap, "kept") == [b"a", b"b"]
        process.terminate()
        printed, _ = process.communicate(timeout=READY_S)
        assert process.returncode == 0
    assert printed == f"Kafka {VERSION} is ready at {bootstrap} · data in {tmp_path}, kept\n"
    assert "broker.session.timeout.ms=1000\n" in (tmp_path / "broker-1.properties").read_text()


def test_three_brokers_elect_when_one_is_killed() -> None:
    with servers.kafka_cluster(3, settings={"broker.session.timeout.ms": 2_000}) as cluster:
        create_topic(cluster.bootstrap, "kept", replicas=3, settings={"min.insync.replicas": "2"})
        produce(cluster.bootstrap, "kept", b"a")
        first, *others = cluster.brokers
        first.kill()
        left = ",".join(broker.address for broker in others)
        produce(left, "kept", b"b")
        producer = transactional(left, "after-the-kill")
        producer.begin_transaction()
        producer.produce("kept", b"c", partition=0)
        producer.commit_transaction(READY_S)
        assert committed(left, "kept") == [b"a", b"b", b"c"]
        data = cluster.data
    assert not data.exists()
    assert not any(broker.is_running for broker in cluster.brokers)


def test_a_broker_that_is_paused_answers_when_it_goes_on(kafka: Cluster, kafka_prefix: str) -> None:
    (broker,) = kafka.brokers
    create_topic(kafka.bootstrap, kafka_prefix)
    broker.pause()
    try:
        until(lambda: Path(f"/proc/{broker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
    finally:
        broker.resume()
    produce(kafka.bootstrap, kafka_prefix, b"a")
    assert committed(kafka.bootstrap, kafka_prefix) == [b"a"]


STARTED_AND_LEFT = """
import sys
from compose.kafka_local import Cluster, install
cluster = Cluster(install(), is_brief=True)
cluster.brokers[0].launch()
print(cluster.data, cluster.brokers[0].pid, flush=True)
sys.stdin.read()
"""


def test_a_temporary_broker_and_its_data_go_with_the_process_that_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTED_AND_LEFT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        data, pid = process.stdout.readline().split()
        assert is_alive(int(pid))
        assert Path(data).exists()
        process.kill()
    until(lambda: not is_alive(int(pid)))
    until(lambda: not Path(data).exists())


def test_a_broker_that_does_not_start_says_why() -> None:
    distribution = install()
    with pytest.raises(KafkaUnavailable, match=r"(?s)ended before it served.*num\.io\.threads"):
        Cluster(distribution, settings={"num.io.threads": "many"}, is_brief=True).start()


def test_a_port_that_is_taken_is_named(kafka: Cluster) -> None:
    port = kafka.brokers[0].ports.client
    done = subprocess.run(
        [sys.executable, COMMAND, "--port", str(port)], capture_output=True, text=True, timeout=READY_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use; choose another with --port")


def test_data_of_three_brokers_are_not_started_as_one(tmp_path: Path) -> None:
    for node in (1, 2, 3):
        (tmp_path / f"broker-{node}").mkdir()
    with pytest.raises(KafkaUnavailable, match="holds a cluster of 3: give --brokers 3"):
        Cluster(install(), 1, data=tmp_path)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r"Java is missing.*apt-get install default-jre-headless"):
        install()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    with pytest.raises(KafkaUnavailable, match=r"Java 17 or newer is missing: .* is 11; "):
        install()
    java.write_text(java.read_text().replace("11.0.2", "21.0.2"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r"Maven is missing.*apt-get install maven"):
        install()
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] Unknown host'\nexit 1\n")
    maven.chmod(0o755)
    with pytest.raises(KafkaUnavailable, match=r"(?s)needs the network.*\[ERROR\] Unknown host"):
        install()
    assert [path.name for path in cache().iterdir() if path.is_dir()] == [f"kafka-{VERSION}"]
    assert list((cache() / f"kafka-{VERSION}").iterdir()) == []
