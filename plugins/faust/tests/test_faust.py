"""Faust over a real broker: the example on what a real engine did, and what agents see of a log."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from compose.kafka_local import Cluster
from tests.documentation.pages import snippets
from tests.kafka_clients import create_topic, produce, read_until, transactional

from .conftest import Started

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "faust"
SHOP = """
from steplog import App, Context, NonRetriableError

app = App("shop")


@app.function("charge", trigger="shop/order")
async def charge(ctx: Context) -> str:
    return await ctx.step.run("card", card, ctx.event.data["id"])


async def card(order: str) -> str:
    return f"ch_{order}"


@app.function("pack", trigger="shop/order")
async def pack(ctx: Context) -> None:
    if ctx.event.data["id"] == "o2":
        raise NonRetriableError("sold out")
"""
READER = """
import os
import sys

import msgspec

import steplog_faust

app = steplog_faust.app("reader", os.environ["STEPLOG_LOG"], web_enabled=False)


def show(key, value):
    print(msgspec.json.encode([key, type(value).__name__, value]).decode(), file=sys.__stdout__, flush=True)


@app.agent(steplog_faust.events(app))
async def read_events(events):
    async for key, value in events.items():
        show(key, value)


@app.agent(steplog_faust.journal(app))
async def read_journal(records):
    async for key, value in records.items():
        show(key, value)
"""
KINDS = """
import msgspec

import steplog_faust
from steplog.engine import records


def fields(kind):
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def of(module, name):
    return getattr(module, name, None)


pairs = [(kind.__name__, kind) for kind in [*records.Record.__args__, records.LogRestored]]
for name, kind in [*pairs, ("Event", records.StoredEvent)]:
    ours = getattr(steplog_faust, name)
    assert fields(ours) == fields(kind), (name, fields(ours) ^ fields(kind))
    assert ours.__struct_config__.tag == kind.__struct_config__.tag, name
print(len(pairs))
"""
REFUSED = """
import steplog_faust

try:
    steplog_faust.app("x", "kafka://127.0.0.1:9092/shop?security.protocol=SSL")
except Exception as error:
    print(error.code, error)
"""
RUN = {"v": 1, "env": "default", "function": "shop-charge", "app": "shop", "events": []}


def rows(out: str) -> dict[str, list[int]]:
    """What the example has printed: by function its runs of all minutes, completed and failed."""
    newest = {
        (minute, function): (int(completed), int(failed))
        for minute, function, completed, failed in re.findall(
            r"^(\d\d:\d\d) (\S+): (\d+) completed, (\d+) failed, [\d.]+%, \d+ ms$", out, re.MULTILINE
        )
    }
    sums: dict[str, list[int]] = {}
    for (_, function), counts in newest.items():
        before = sums.get(function, [0, 0])
        sums[function] = [before[0] + counts[0], before[1] + counts[1]]
    return sums


def a_run(run: str, at_ms: int) -> list[bytes]:
    """The journal of a run that took a quarter of a second."""
    scheduled = {"kind": "run.scheduled", "at": at_ms, "run": run, "seq": 1, "started": True, **RUN}
    ended = {"kind": "run.completed", "v": 1, "at": at_ms + 250, "env": "default", "run": run, "seq": 2, "output": None}
    return [json.dumps(each).encode() for each in (scheduled, ended)]


def test_the_example_shows_what_became_of_the_runs_of_a_real_engine(
    start: Started, kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:
    log = f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "steplog.toml").write_text("[kafka]\npartitions = 3\n")
    worker = start(
        ["faust", "-A", "success_rate", "worker", "--without-web"], STEPLOG_LOG=log, PYTHONPATH=str(EXAMPLES)
    )
    worker.until(lambda _, err: f"waiting for {kafka_prefix}.journal" in err)
    keys = ("--event-key", "e", "--signing-key", "s")
    engine = start(["steplog", "start", "shop.py", "--log", log, "--port", "0", *keys])
    engine.until(lambda _, err: '"ready"' in err)
    ready = json.loads(re.findall(r'^.*"ready".*$', engine.err.read_text(), re.MULTILINE)[0])
    events = [{"name": "shop/order", "data": {"id": f"o{number}"}} for number in range(6)]
    request = urllib.request.Request(f"{ready['url']}/e/e", json.dumps(events).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    worker.until(lambda out, _: rows(out) == {"shop-charge": [6, 0], "shop-pack": [5, 1]})
    assert worker.stop() == 0


def test_a_worker_goes_on_where_the_one_before_was(start: Started, kafka: Cluster, kafka_prefix: str) -> None:
    create_topic(kafka.bootstrap, f"{kafka_prefix}.journal", partitions=2)
    at_ms = int(time.time()) // 60 * 60_000
    for number in (1, 2):
        produce(kafka.bootstrap, f"{kafka_prefix}.journal", *a_run(f"run-{number}", at_ms))
        worker = start(
            ["faust", "-A", "success_rate", "worker", "--without-web"],
            STEPLOG_LOG=f"kafka://{kafka.bootstrap}/{kafka_prefix}", PYTHONPATH=str(EXAMPLES),
        )  # fmt: skip
        out = worker.until(lambda out, _: rows(out))
        assert "100.0%, 250 ms" in out
        group = f"{kafka_prefix}.success-rate"  # its positions
        read_until(kafka.bootstrap, group, f"{kafka_prefix}.journal", 2 * number)
        read_until(kafka.bootstrap, group, f"{group}-success_rate.count", number)
        assert worker.stop() == 0


def test_agents_see_what_was_committed_typed_and_are_warned_of_what_makes_no_sense(
    start: Started, kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "reader.py").write_text(READER)
    topics = [f"{kafka_prefix}.events", f"{kafka_prefix}.journal"]
    for topic in topics:
        create_topic(kafka.bootstrap, topic)
    event: dict[str, Any] = {
        "internal_id": "01JD4QZ3M4T5C8PGA1X2N8F2KQ", "id": "o1", "name": "shop/order", "data": {"amount": 5}, "ts": 7,
        "received_at": 8, "env": "default", "source": "key", "slot": 3,
    }  # fmt: skip
    ended = {"kind": "run.completed", "v": 1, "at": 9, "env": "default", "run": "r1", "seq": 2, "output": [1]}
    producer = transactional(kafka.bootstrap, kafka_prefix)
    for is_meant in (False, True):
        producer.begin_transaction()
        taken = event | {"id": "o1" if is_meant else "taken back"}
        producer.produce(topics[0], json.dumps(taken | {"new_field": 1}), key=taken["id"])
        producer.produce(topics[0], b"\xff no JSON", key="bad")
        producer.produce(topics[1], json.dumps({"kind": "run.completed", "at": 9}), key="bad")
        producer.produce(topics[1], json.dumps(ended | {"run": "r1" if is_meant else "r0"}), key="r1")
        producer.produce(topics[1], json.dumps({"kind": "run.paused", "at": 10, "run": "r2"}), key="r2")
        assert producer.flush(30) == 0, "what is not on the log yet would not need to be taken back"
        producer.commit_transaction(30) if is_meant else producer.abort_transaction(30)
    reader = start(["faust", "-A", "reader", "worker"], STEPLOG_LOG=f"kafka://{kafka.bootstrap}/{kafka_prefix}")
    out = reader.until(lambda out, err: out.count('["') == 3 and err.count("passed over") == 2)
    seen = sorted(json.loads(line[line.index("[") :]) for line in out.splitlines() if '["' in line)
    assert seen == [
        ["o1", "Event", event | {"user": None, "v": None}],
        ["r1", "RunCompleted", ended],
        ["r2", "Other", {"kind": "run.paused", "at": 10, "env": None, "run": "r2", "seq": None}],
    ]
    warned = re.findall(r"passed over (\S+): (.*)", reader.err.read_text())
    assert sorted(place for place, _ in warned) == [f"{topics[0]}/0/4", f"{topics[1]}/0/4"]
    assert "missing required field `env`" in reader.err.read_text()


@pytest.mark.parametrize(
    ("code", "said"),
    [(KINDS, r"12$"), (REFUSED, r"config_invalid .*security\.protocol")],
    ids=["every kind of the journal is there with all its fields", "settings of librdkafka are refused"],
)
def test_in_its_environment(start: Started, code: str, said: str) -> None:
    start(["python", "-c", code]).until(lambda out, _: re.match(said, out, re.DOTALL))


def test_the_agent_of_the_page_tells_of_a_run_that_failed(
    start: Started, kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:
    (code,) = [each.text for each in snippets(ROOT / "docs" / "faust.md") if each.language == "python"]
    log = f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    (tmp_path / "alarms.py").write_text(code.replace("kafka://127.0.0.1:9092/steplog", log))
    create_topic(kafka.bootstrap, f"{kafka_prefix}.journal")
    error = {"name": "ValueError", "message": "sold out"}
    failed = {"kind": "run.failed", "v": 1, "at": 9, "env": "default", "run": "r1", "seq": 2, "error": error}
    produce(kafka.bootstrap, f"{kafka_prefix}.journal", json.dumps(failed).encode())
    worker = start(["faust", "-A", "alarms", "worker", "--without-web"])
    worker.until(lambda _, err: "run r1 failed: sold out" in err)
