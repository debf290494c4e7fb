"""Connectors of several nodes of one log: they share a topic's partitions, and know what each has put aside."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from compose.kafka_local import Cluster
from steplog.history.audit import AuditReport, audit_source
from steplog.history.source import open_source
from tests.kafka_clients import DEADLINE_S, QUICK, create_topic

from .nodes import KEYS, SOON_S, Node, nodes, until

PARTITIONS = 4
FUNCTIONS = """
from typing import Any
from steplog import App, Context

app = App("shop")


async def note(value: Any) -> Any:
    return value


@app.function("book", trigger="shop/ordered")
async def book(ctx: Context) -> Any:
    return await ctx.step.run("note", note, ctx.event.data["value"])
"""
CONFIGURATION = """
[connectors.orders]
type = "kafka"
topics = ["{topic}"]
event = "shop/ordered"
start = "earliest"
format = "{format}"

[connectors.orders.options]
session.timeout.ms = 6000
topic.metadata.refresh.interval.ms = 500
"""
OPTIONS = ("--set", "kafka.partitions=4")


class Shop:
    """A log on Kafka, a topic that feeds it, and what is to be known of both."""

    def __init__(self, brokers: str, prefix: str, directory: Path) -> None:
        self.log, self.directory = f"kafka://{brokers}/{prefix}", directory
        self.topic, self.group = f"{prefix}-orders", f"{prefix}.connector.orders"
        self.source = directory / "shop.py"
        self.source.write_text(FUNCTIONS)
        self.configure("json")
        self._settings: dict[str, Any] = {"bootstrap.servers": brokers, **QUICK}
        create_topic(brokers, self.topic, partitions=PARTITIONS)
        self._admin, self._producer = AdminClient(self._settings), Producer(self._settings)

    def configure(self, form: str) -> None:
        (self.directory / "steplog.toml").write_text(CONFIGURATION.format(topic=self.topic, format=form))

    def put(self, value: bytes, partition: int, key: str) -> None:
        self._producer.produce(self.topic, value, key, partition)

    def flush(self) -> None:
        """Wait until what was put is there."""
        assert self._producer.flush(SOON_S) == 0

    def owners(self) -> dict[str, set[int]]:
        """The partitions of each client of the connector's group."""
        (asked,) = self._admin.describe_consumer_groups([self.group]).values()
        return {
            member.client_id: {each.partition for each in member.assignment.topic_partitions}
            for member in asked.result(DEADLINE_S).members
        }

    def committed(self) -> dict[int, int]:
        reader = Consumer({**self._settings, "group.id": self.group})
        try:
            found = reader.committed([TopicPartition(self.topic, p) for p in range(PARTITIONS)], DEADLINE_S)
        finally:
            reader.close()
        return {each.partition: max(each.offset, 0) for each in found}

    def ends(self) -> dict[int, int]:
        self.flush()
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client's
        asked = self._admin.list_offsets({TopicPartition(self.topic, p): latest for p in range(PARTITIONS)})
        return {place.partition: found.result(DEADLINE_S).offset for place, found in asked.items()}

    def has_read_all(self) -> bool:
        return self.committed() == self.ends()

    def rewind(self) -> None:
        """Have the group read everything again; nobody is in it."""
        places = [TopicPartition(self.topic, p, 0) for p in range(PARTITIONS)]
        (done,) = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(self.group, places)]).values()
        done.result(DEADLINE_S)

    def audit(self) -> AuditReport:
        with closing(open_source(self.log)) as source:
            return audit_source(source)

    def dead(self, *arguments: str) -> Any:
        """What ``steplog dead`` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "steplog", "dead", *arguments, "--log", self.log, "--json"],
            cwd=self.directory, env=os.environ | KEYS, capture_output=True, text=True, timeout=SOON_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.dead("list")["letters"]
        return found


def outputs(node: Node) -> list[Any]:
    """What the completed runs have returned, as a node's history has it."""
    found, cursor = [], ""
    while True:
        status, answer = node.ask("GET", f"/v1/runs?limit=100&cursor={cursor}" if cursor else "/v1/runs?limit=100")
        assert status == 200, answer
        found += [run["output"] for run in answer["data"] if run["state"] == "completed"]
        cursor = answer["page"]["cursor"]
        if not cursor:
            return found


def client(node: Node) -> str:
    return f"steplog-{node.name}-orders"


@pytest.fixture
def shop(kafka: Cluster, kafka_prefix: str, tmp_path: Path) -> Shop:
    return Shop(kafka.bootstrap, kafka_prefix[-40:], tmp_path)


@pytest.mark.spec("ARCH-02")
def test_nodes_share_a_topic_and_each_record_starts_one_run_whoever_is_killed(shop: Shop, tmp_path: Path) -> None:
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            shop.put(b"%d" % sent, sent % PARTITIONS, f"k{sent % 7}")
            sent += 1
        shop.flush()

    with nodes(["one", "two"], shop.log, tmp_path, shop.source, OPTIONS) as (one, two):
        shared = until(lambda: owners if all((owners := shop.owners()).values()) and len(owners) == 2 else None)
        assert set(shared) == {client(one), client(two)}
        send(100)
        until(lambda: all(shop.committed()[partition] for partition in shared[client(one)]))
        send(50)
        one.kill()
        send(50)
        read, ends = shop.committed(), shop.ends()
        assert any(read[partition] < ends[partition] for partition in shared[client(one)]), "it had nothing to do"
        until(lambda: shop.owners() == {client(two): set(range(PARTITIONS))})
        until(shop.has_read_all)
        until(lambda: len(outputs(two)) >= sent)
        assert sorted(outputs(two)) == list(range(sent))
        assert two.ask("GET", "/health")[0] == 200

        two.stop()  # as if none of it had been committed: a takeover may read any record again
        shop.rewind()
        two.start()
        until(shop.has_read_all)
        report = until(lambda: found if not (found := shop.audit()).unaccounted and not found.open else None)
        assert report.accepted >= 2 * sent, "they were not read again"
        assert (report.scheduled, report.completed) == (sent, sent)


@pytest.mark.spec("FAULT-B17")
def test_what_a_killed_node_has_parked_waits_at_the_others_and_is_replayed_there(shop: Shop, tmp_path: Path) -> None:
    with nodes(["one", "two"], shop.log, tmp_path, shop.source, OPTIONS) as both:
        shared = until(lambda: owners if all((owners := shop.owners()).values()) and len(owners) == 2 else None)
        owner, other = sorted(both, key=lambda node: 0 not in shared[client(node)])
        shop.put(b"{", 0, "k")
        shop.put(b"5", 0, "k")
        shop.put(b"6", 0, "other")
        until(shop.has_read_all)
        until(lambda: outputs(other) == [6])
        poison, follower = shop.letters()
        assert (poison["key"], poison["behind"], follower["behind"]) == ("k", None, poison["id"])

        owner.kill()
        until(lambda: shop.owners() == {client(other): set(range(PARTITIONS))})
        shop.put(b"7", 0, "k")
        shop.put(b"8", 0, "other")
        until(shop.has_read_all)
        until(lambda: sorted(outputs(other)) == [6, 8])
        assert [letter["offset"] for letter in shop.letters()] == [0, 1, 3]

        other.stop()
        shop.configure("text")
        other.start()
        assert shop.dead("retry", poison["id"]) == {"retried": [poison["id"]]}
        until(lambda: not shop.letters())
        until(lambda: sorted(map(str, outputs(other))) == ["5", "6", "7", "8", "{"])


def test_a_node_without_the_engine_runs_no_connector(shop: Shop, tmp_path: Path) -> None:
    api = Node("api", shop.log, tmp_path, None, (*OPTIONS, "--role", "api"))
    try:
        api.start()
        with nodes(["engine"], shop.log, tmp_path, shop.source, (*OPTIONS, "--role", "engine")) as (engine,):
            shop.put(b"1", 0, "k")
            shop.flush()
            until(lambda: outputs(api) == [1])
            assert set(shop.owners()) == {client(engine)}
    finally:
        api.kill()
