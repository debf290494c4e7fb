"""A broker, and nodes on it in this process, as ``start`` runs them without HTTP."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster, install
from steplog import App
from steplog.engine.functions import EngineConfig
from steplog.log.topics import Layout, offsets
from steplog.member import ClusterConfig
from steplog.node import Node, NodeConfig
from steplog.shells.process import ProcessEngine

PARTITIONS = 16
_numbers = itertools.count(1)


@contextmanager
def broker() -> Iterator[Cluster]:
    """One broker, ended with the context."""
    with Cluster(install(print)) as cluster:
        yield cluster


def new_log(cluster: Cluster, directory: Path, name: str = "one") -> ClusterConfig:
    """A log that nobody has used yet."""
    prefix = f"bench-{next(_numbers)}"
    return ClusterConfig(
        brokers=cluster.bootstrap, prefix=prefix, partitions=PARTITIONS, node=name, data=str(directory / prefix / name)
    )


@asynccontextmanager
async def node(app: App, config: ClusterConfig) -> AsyncIterator[Node]:
    """Run a node, the engine in a process of its own."""
    specs = [function.spec for function in app.functions.values()]
    async with Node([app], ProcessEngine(specs, EngineConfig(), cluster=config), NodeConfig()) as running:
        yield running


def end_of(config: ClusterConfig, topic: str) -> int:
    """How many records a topic has had, the marks of transactions among them."""
    from confluent_kafka import TopicPartition

    layout = Layout(config.prefix, config.partitions)
    places = [TopicPartition(layout.name(topic), number) for number in range(layout.count(topic))]
    admin = AdminClient({"bootstrap.servers": config.brokers})  # kept: without it no answer would come
    answers = offsets(admin, places)
    return sum(answer.result().offset for answer in answers.values())
