"""A broker that dies and comes back: the same node goes on, and nothing is done twice."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from compose.kafka_local import Cluster
from tests import servers

from .nodes import Node, nodes, until
from .test_nodes import SOURCE


@pytest.fixture
def own_kafka() -> Iterator[Cluster]:
    """One broker, which may be killed."""
    with servers.kafka_cluster(1) as cluster:
        yield cluster


@pytest.mark.spec("FAULT-B8")
def test_a_node_goes_on_when_its_broker_is_back(own_kafka: Cluster, tmp_path: Path) -> None:
    source = tmp_path / "shop.py"
    source.write_text(SOURCE)
    log = f"kafka://{own_kafka.bootstrap}/shop"
    options = ("--set", "kafka.partitions=4")
    api = Node("api", log, tmp_path, None, (*options, "--role", "api"))
    with ExitStack() as ends:
        (one,) = ends.enter_context(nodes(["one"], log, tmp_path, source, options))
        ends.callback(api.kill)
        api.start()
        open_run = one.send("shop/order", {"n": 1})
        one.run(open_run, "waiting")
        (broker,) = own_kafka.brokers
        broker.kill()
        until(lambda: _health(one) == _health(api) == 503)  # though nothing happens
        until(lambda: _sent(one, 2) == 503)
        for _ in range(20):
            assert _sent(one, 2) == 503
        broker.start()
        until(lambda: _health(one) == _health(api) == 200)
        until(lambda: _sent(one, 3) == 200)
        until(lambda: one.ask("POST", "/v1/signals", {"signal": "approve/1", "data": "yes"})[0] == 200)
        assert one.run(open_run, "completed")["output"] == "order 1: yes"
        assert one.run(one.send("shop/quick", {"n": 4}), "completed")["output"] == "4"
        until(lambda: _health(one) == 200)


def _health(node: Node) -> int:
    return node.ask("GET", "/health")[0]


def _sent(node: Node, number: int) -> int:
    """Send an event, the same whenever it is sent again; returns the status."""
    event = {"name": "shop/quick", "id": f"quick-{number}", "data": {"n": number}}
    return node.ask("POST", "/e/sent", event)[0]
