"""``steplog demo``: the whole product at once, killed in the middle of its work."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.demo.outside import SERVICES
from steplog.demo.webhooks import bodies, to_event

ROOT = Path(__file__).parents[1]


def demo(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "steplog", "demo", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.spec("DUR-01", "STEP-03")
def test_nothing_is_lost_or_recorded_twice_when_the_engine_is_killed(tmp_path: Path) -> None:
    played = demo(tmp_path, "--orders", "30", "--kills", "2", "--json")
    assert played.returncode == 0, played.stderr
    result = json.loads(played.stdout)
    assert result["ok"]
    assert (result["accepted"], result["completed"], result["unaccounted"]) == (30, 30, 0)
    assert result["steps_planned"] == result["steps_recorded"] == result["effects"] == 30 * len(SERVICES)
    in_flight = [kill["in_flight"] for kill in result["kills"]]
    assert [kill["finished"] < 30 for kill in result["kills"]] == [True, True]
    assert in_flight[0] > 0
    assert result["bodies_started"] == 90 + sum(in_flight)
    audit = subprocess.run(
        [sys.executable, "-m", "steplog", "audit", "--log", "sqlite:steplog-demo/log.db"], cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "30 runs completed, 0 unaccounted" in audit.stdout


@pytest.mark.spec("DUR-01", "STEP-03", "ARCH-02")
def test_the_same_holds_on_kafka_and_the_topics_go_afterwards(
    kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:
    log = f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    played = demo(tmp_path, "--orders", "40", "--kills", "2", "--json", "--log", log)
    assert played.returncode == 0, played.stderr
    result = json.loads(played.stdout)
    assert result["ok"]
    assert result["log"].startswith(f"{log}-")
    assert (result["accepted"], result["completed"], result["unaccounted"]) == (40, 40, 0)
    assert result["steps_planned"] == result["steps_recorded"] == result["effects"] == 40 * len(SERVICES)
    in_flight = [kill["in_flight"] for kill in result["kills"]]
    assert [kill["finished"] < 40 for kill in result["kills"]] == [True, True]
    assert in_flight[0] > 0
    assert result["bodies_started"] == 120 + sum(in_flight)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert not [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(kafka_prefix)]


def test_kept_topics_can_be_looked_into(kafka: Cluster, kafka_prefix: str, tmp_path: Path) -> None:
    played = demo(
        tmp_path, "--orders", "10", "--kills", "0", "--keep", "--log", f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    )
    assert played.returncode == 0, played.stderr
    head = played.stdout.splitlines()[0]
    found = re.search(r"log (kafka://\S+) \(Kafka, 4 partitions, transactions\)", head)
    assert found is not None, head
    assert f"steplog topics tail journal --log {found[1]}" in played.stderr
    topics = subprocess.run(
        [sys.executable, "-m", "steplog", "topics", "lag", "--log", found[1], "--json"], cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lags = json.loads(topics.stdout)["partitions"]
    assert sum(lag["events"]["position"] for lag in lags) >= 10
    assert [lag["events"]["waiting"] for lag in lags] == [0] * 4


def test_without_a_broker_the_demo_says_how_to_start_one(tmp_path: Path) -> None:
    refused = demo(tmp_path, "--log", "kafka://127.0.0.1:1")
    assert refused.returncode == 3
    assert "no Kafka broker answers at 127.0.0.1:1" in refused.stderr
    assert "compose/kafka-local" in refused.stderr


def test_the_transcript_names_what_began_again(tmp_path: Path) -> None:
    played = demo(tmp_path, "--orders", "20")
    assert played.returncode == 0, played.stderr
    lines = [line.strip() for line in played.stdout.splitlines()]
    assert lines[1].startswith("Sent       20 orders from webhook bodies, all accepted")
    assert re.match(r"kill -9    engine \d+ is gone: \d+ runs finished, \d+ open", lines[3])
    assert re.match(r"restarted  as \d+; \d+ runs read back in [\d.]+ s, no event sent again$", lines[4])
    assert lines[5].startswith("ship-order █████████████████████████   20/20 runs ·  60 of 60 steps")
    assert re.match(r"accepted 20 events   → 20 runs completed, 0 unaccounted +✓ steplog audit$", lines[6])
    assert re.match(r"planned  60 steps    → 60 results, each recorded once +✓$", lines[7])
    assert re.match(r"started  \d+ bodies   → \d+ were in flight at the kill and began again, .* ✓$", lines[8])
    assert re.match(r"(charge|notify|pack) ord-\d{4}", lines[9])
    assert "\x1b" not in played.stdout
    assert "\r" not in played.stdout


def test_an_interrupt_ends_the_engine_too(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "steplog", "demo"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as playing:
        lock = tmp_path / "steplog-demo" / "log.db.lock"
        deadline_s = time.monotonic() + 20
        while not (lock.exists() and lock.read_text()) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        engine = json.loads(lock.read_text())["pid"]
        playing.send_signal(signal.SIGINT)
        assert playing.wait(20) == 130
        assert playing.stderr is not None
        assert playing.stderr.read().strip() == ""
    deadline_s = time.monotonic() + 5  # its connection has ended, so it does
    while _is_running(engine) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not _is_running(engine)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended; its new parent has not asked for it yet


def test_a_directory_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "steplog-demo").mkdir()
    precious = tmp_path / "steplog-demo" / "log.db"
    precious.write_text("mine")
    refused = demo(tmp_path)
    assert refused.returncode == 5
    assert "error[refused]: steplog-demo holds files that are not a demo's" in refused.stderr
    assert refused.stdout == ""
    assert precious.read_text() == "mine"


def test_the_orders_are_complete() -> None:
    events = [to_event(body) for body in bodies()]
    assert [event["data"]["id"] for event in events] == [f"ord-{n:04d}" for n in range(1, 201)]
    assert len({event["id"] for event in events}) == 200
    assert all(event["data"]["total"] > 0 and "@" in event["data"]["email"] for event in events)


def test_the_example_is_the_demos_file() -> None:
    example = ROOT / "examples" / "orders.py"
    assert example.resolve() == ROOT / "core" / "src" / "steplog" / "demo" / "orders.py"
