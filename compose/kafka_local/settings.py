"""A broker's ``server.properties``, fit for a small machine and for tests; all can be set otherwise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compose.kafka_local.ports import HOST, Ports


def properties(
    node: int, ports: Sequence[Ports], folder: Path, settings: Mapping[str, object] | None = None, *,
    users: Mapping[str, str] | None = None,
) -> dict[str, object]:  # fmt: skip
    """The properties of broker ``node`` (1 …) among those that listen on these ports. ``settings`` win.

    ``users``: names and passwords at the listener that asks for them.
    """
    own, replicas = ports[node - 1], min(len(ports), 3)
    listeners = {"CLIENT": own.client, "INTERNAL": own.internal}
    advertised = dict(listeners)
    if own.proxied is not None and own.proxy is not None:
        listeners["PROXIED"], advertised["PROXIED"] = own.proxied, own.proxy
    if own.secure is not None:
        listeners["SECURE"] = advertised["SECURE"] = own.secure
    listeners["CONTROLLER"] = own.controller
    return {
        "process.roles": "broker,controller",
        "node.id": node,
        "controller.quorum.voters": ",".join(f"{n}@{HOST}:{each.controller}" for n, each in enumerate(ports, 1)),
        "listeners": _addresses(listeners),
        "advertised.listeners": _addresses(advertised),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'SASL_PLAINTEXT' if name == 'SECURE' else 'PLAINTEXT'}" for name in listeners
        ),
        **({} if own.secure is None else _sasl(users or {})),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTERNAL",
        "log.dirs": folder,
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": min(replicas, 2),
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": min(replicas, 2),
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,  # 3 s, which each new group would wait for further members
        "group.min.session.timeout.ms": 500,
        # Then the partitions of a killed broker get other leaders; and until then it is not let in again.
        "broker.session.timeout.ms": 2_000 if replicas == 1 else 4_000,
        "broker.heartbeat.interval.ms": 250,
        "log.cleaner.backoff.ms": 1_000,
        "log.cleaner.dedupe.buffer.size": 16 << 20,  # on the heap, 128 MiB otherwise
        "num.network.threads": 2,
        "num.io.threads": 4,
        **(settings or {}),
    }


def _sasl(users: Mapping[str, str]) -> dict[str, str]:
    """Who may come to the listener that asks, by SASL/PLAIN."""
    known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": f"{module} required {known};",
    }


def _addresses(listeners: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())
