"""A log on a cluster that asks who it is, and lets nobody do more than docs/operations.md says they need."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from compose.kafka_local import Cluster
from tests.kafka_clients import DEADLINE_S, QUICK, create_topic, produce
from tests.servers import kafka_cluster

from .nodes import KEYS, Node, nodes, until

PASSWORD = "hush-3fa9"
USER, PREFIX, TOPIC = "shopkeeper", "shop", "payments"
AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # who comes to the listeners that do not ask: the broker itself, and the test
}
FUNCTIONS = """
from typing import Any
from steplog import App, Context

app = App("shop")


async def note(value: Any) -> Any:
    return value


@app.function("book", trigger="shop/paid")
async def book(ctx: Context) -> Any:
    return await ctx.step.run("note", note, ctx.event.data["value"])
"""
CONFIGURATION = f"""
[kafka.client]
security.protocol = "SASL_PLAINTEXT"
sasl.mechanism = "PLAIN"
sasl.username = "{USER}"
sasl.password = "env:KAFKA_PASSWORD"
client.id = "till-7"

[connectors.payments]
type = "kafka"
topics = ["{TOPIC}"]
event = "shop/paid"
start = "earliest"
"""
OPTIONS = ("--set", "kafka.partitions=2")
# As the table of least ACLs has them: what, its name or the beginning of it, and what is done with it.
LOG_RIGHTS = (
    (ResourceType.TOPIC, f"{PREFIX}.", ("CREATE", "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS")),
    (ResourceType.TOPIC, f"{PREFIX}.inbox", ("DELETE",)),
    (ResourceType.TOPIC, f"{PREFIX}.redo", ("DELETE",)),
    (ResourceType.GROUP, f"{PREFIX}.", ("READ", "DESCRIBE")),
    (ResourceType.TRANSACTIONAL_ID, f"{PREFIX}.", ("WRITE", "DESCRIBE")),
)
CONNECTOR_RIGHTS = ((ResourceType.TOPIC, TOPIC, ("READ", "DESCRIBE")),)


class Guarded:
    """A cluster, as its operator sees it."""

    def __init__(self, cluster: Cluster) -> None:
        self.log = f"kafka://{cluster.secure_bootstrap}/{PREFIX}"
        self.bootstrap = cluster.bootstrap
        self._admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **QUICK})

    def allow(self, *rights: tuple[ResourceType, str, tuple[str, ...]]) -> None:
        bindings = [
            AclBinding(
                type_, name, ResourcePatternType.PREFIXED if name.endswith(".") else ResourcePatternType.LITERAL,
                f"User:{USER}", "*", AclOperation[operation], AclPermissionType.ALLOW,
            )
            for type_, name, operations in rights
            for operation in operations
        ]  # fmt: skip
        for made in self._admin.create_acls(bindings).values():
            made.result(DEADLINE_S)

    def clients(self, group: str) -> set[str]:
        """The clients in a group, by the names that the broker knows."""
        (asked,) = self._admin.describe_consumer_groups([f"{PREFIX}.{group}"]).values()
        return {member.client_id for member in asked.result(DEADLINE_S).members}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with kafka_cluster(1, settings=AUTHORIZED, users={USER: PASSWORD}) as cluster:
        yield Guarded(cluster)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a project that knows its password."""
    (tmp_path / "steplog.toml").write_text(CONFIGURATION)
    (tmp_path / "shop.py").write_text(FUNCTIONS)
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    return tmp_path


def steplog(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "steplog", *arguments], cwd=directory, env=os.environ | KEYS, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def command_lines(directory: Path) -> str:
    """Those of every process that works in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is another user's
            continue
    return "\n".join(found)


def test_who_has_a_wrong_password_is_told_and_not_what_it_is(
    guarded: Guarded, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-81c2")
    node = Node("one", guarded.log, directory, directory / "shop.py", OPTIONS)
    with pytest.raises(AssertionError, match="one did not start"):
        node.start()
    node.kill()
    assert re.search("SASL authentication error|Authentication failed", node.said), node.said
    assert "wrong-81c2" not in node.said


def test_the_rights_that_are_documented_are_enough_and_no_secret_is_told(guarded: Guarded, directory: Path) -> None:
    create_topic(guarded.bootstrap, TOPIC, partitions=2)
    guarded.allow(*LOG_RIGHTS)
    with nodes(["one"], guarded.log, directory, directory / "shop.py", OPTIONS) as (one,):
        assert one.run(one.send("shop/paid", {"value": 1}), "completed")["output"] == 1
        until(lambda: "Topic authorization failed" in one.said)  # of the connector, and of nothing else
        guarded.allow(*CONNECTOR_RIGHTS)
        produce(guarded.bootstrap, TOPIC, b"2", b"{")
        until(lambda: {run["output"] for run in one.ask("GET", "/v1/runs")[1]["data"]} == {1, 2})
        until(lambda: f"payments:{TOPIC}/" in steplog(directory, "dead", "list", "--log", guarded.log))
        for group in ("engine", "connector.payments"):
            assert guarded.clients(group) == {"till-7"}
        told = [
            steplog(directory, "topics", "lag", "--log", guarded.log),
            steplog(directory, "connectors", "lag", "--log", guarded.log),
            steplog(directory, "runs", "list", "--log", guarded.log),
            steplog(directory, "audit", "--log", guarded.log),
            steplog(directory, "dead", "drop", "--all", "--yes", "--log", guarded.log),
            steplog(directory, "config", "show", "--log", guarded.log),
            command_lines(directory),
        ]
        assert "steplog.history.projector" in told[-1]
        assert told[1].endswith("0 waiting in all\n"), told[1]
        assert not [text for text in [*told, one.said] if PASSWORD in text]
        refused = re.findall('"[^"]*authorization failed[^"]*"', one.said)
        assert refused
        assert all(TOPIC in each for each in refused), refused
