"""What a configuration makes of a node: the engine that serves its log, and how its functions run."""

import platform
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from steplog.app import App
from steplog.config.load import secret_values
from steplog.config.schema import Config
from steplog.drivers.config import LocalConfig
from steplog.engine.functions import EngineConfig
from steplog.engine.retry import RetryPolicy
from steplog.event_types import EventTypes
from steplog.member import ClusterConfig
from steplog.node import NodeConfig, functions_of
from steplog.paths import KafkaAddress, is_kafka
from steplog.server.config import INTAKE_BYTES, ServerConfig
from steplog.server.sockets import LOOPBACK
from steplog.shells.process import ProcessEngine


def engine_of(
    config: Config, apps: Sequence[App], path: Path, *, is_dev: bool,
    sockets: "Sequence[socket.socket] | Sequence[int]", on_serving: Callable[[], None],
    connection: socket.socket | None = None, since_ms: int,
) -> ProcessEngine:  # fmt: skip
    """Make the engine of a log, with HTTP and history. ``connection``: to its process, where that runs already.

    ``since_ms``: when its port was taken.
    """
    limits, types = config.limits, EventTypes(apps)
    return ProcessEngine(
        [function.spec for function in functions_of(apps).values()],
        EngineConfig(
            live_runs=config.engine.live_runs, steps_per_run=limits.steps, run_state_bytes=limits.run_size_bytes,
            retry=RetryPolicy(interval_ms=config.engine.retry_interval_ms), can_produce=is_kafka(config.log.url),
        ),
        log_path=path, history=config.history.address(path), cluster=cluster_of(config, path),
        sockets=sockets,
        on_serving=on_serving, connection=connection, check=types.misfit, connectors=config.connectors,
        server=ServerConfig(
            is_dev=is_dev, event_keys=secret_values(config.auth.event_keys),
            signing_keys=secret_values(config.auth.signing_keys), allow_hosts=config.server.allow_hosts,
            event_size_bytes=limits.event_size_bytes, request_size_bytes=limits.request_size_bytes,
            typed=types.typed() if config.events.validate == "refuse" else None,
            apps=tuple([app.id for app in apps]), since_ms=since_ms,
            intake_bytes=max(INTAKE_BYTES, 4 * limits.request_size_bytes),
        ),
    )  # fmt: skip


def cluster_of(config: Config, path: Path) -> ClusterConfig | None:
    """What this process is to a log on Kafka; None for another log. ``path`` is that of its copies."""
    if config.kafka_log is None:
        return None
    address, kafka, server = KafkaAddress.parse(config.kafka_log), config.kafka, config.server
    return ClusterConfig(
        brokers=address.servers, prefix=address.prefix, partitions=kafka.partitions, node=node_name(config),
        data=str(path.parent), replication=kafka.replication or None, client=dict(address.settings),
        is_engine="engine" in server.roles, address=server.address or "", host=_host(server.host),
    )  # fmt: skip


def _host(host: str) -> str:
    """Where others reach this machine: one that listens to itself alone has no others."""
    return "127.0.0.1" if host in (*LOOPBACK, "localhost") else platform.node()


def node_name(config: Config) -> str:
    """This process's name in the cluster."""
    return config.kafka.node or f"{platform.node()}-{config.server.port}"


def node_config(config: Config) -> NodeConfig:
    """How the functions run."""
    local = LocalConfig(
        evict_after_ms=config.engine.evict_after_ms, output_bytes=config.limits.step_output_bytes,
        event_bytes=config.limits.event_size_bytes, steps=config.limits.steps, run_bytes=config.limits.run_size_bytes,
    )  # fmt: skip
    return NodeConfig(local=local, refuses_misfits=config.events.validate == "refuse")
