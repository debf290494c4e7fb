"""Runs the connectors of a configuration, each until it is cancelled. A type is one module, and one line here."""

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NamedTuple

import msgspec

from steplog.config.connectors import Connector
from steplog.connectors.entrance import Accept
from steplog.dead.letters import DeadLetters

MODULES = {"kafka": "steplog.connectors.kafka"}
"""Type of a connector: the module whose ``run(name, table, surroundings)`` carries it out. It is imported when it is
used: who has no connector of a type needs none of its libraries."""


class Cluster(NamedTuple):
    """The Kafka that the log is on."""

    brokers: str
    settings: Mapping[str, str]  # of its clients


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What connectors need of the node that they run beside."""

    entrance: Callable[[str], Accept]  # by the source that events are to name
    open_dead: Callable[[], DeadLetters]  # for the thread that calls it
    event_bytes: int  # of the largest event that is accepted
    node: str = ""  # its name among those of one log
    prefix: str = "steplog"  # of what a connector has a name for elsewhere
    cluster: Cluster | None = None  # of a log on Kafka, for a connector without brokers of its own


async def run_connectors(connectors: Mapping[str, Connector], surroundings: Surroundings) -> None:
    """Run all of them until cancelled. What fails outside is tried again, and keeps no other from its work."""
    async with asyncio.TaskGroup() as tasks:
        for name, table in connectors.items():
            module = import_module(MODULES[str(table.__struct_config__.tag)])
            tasks.create_task(module.run(name, table, surroundings))
