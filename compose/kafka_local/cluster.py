"""One broker or three, on 127.0.0.1, over a folder that is kept or over one that goes with them."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from compose.kafka_local.broker import Broker, Plan, new_id
from compose.kafka_local.distribution import Distribution
from compose.kafka_local.errors import KafkaUnavailable
from compose.kafka_local.ports import Ports, check_free, free_ports
from compose.kafka_local.settings import properties

HEAP_MB = 384


class Cluster:
    """Apache Kafka in KRaft mode; each broker is a controller too. Started and ended as a context.

    ``port`` is the first broker's, the others' follow; 0 takes free ones. ``data`` is kept, and may be that of an
    earlier cluster with as many brokers; without it there is a temporary one, which goes. ``settings`` are further
    broker properties. ``proxies`` are ports where proxies will stand, one a broker: clients that come there are told
    to stay there, and ``Broker.ports.proxied`` is what a proxy passes them on to. ``users``: names and passwords at a
    further listener, which asks for them (SASL/PLAIN). ``is_brief`` compiles less: readier sooner, slower for long.
    ``environment`` is added to that of each process. Raises ``KafkaUnavailable``.
    """

    def __init__(
        self, distribution: Distribution, brokers: int = 1, *, port: int = 0, data: Path | None = None,
        settings: Mapping[str, object] | None = None, proxies: Sequence[int] = (), is_brief: bool = False,
        jvm: Sequence[str] = (), users: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        assert len(proxies) in (0, brokers), "each broker has a proxy, or none has"
        cluster_id = new_id() if data is None else _cluster_of(data, brokers)
        ports = [_ports(port and port + n, proxies[n] if proxies else None, bool(users)) for n in range(brokers)]
        self.is_temporary = data is None
        self.data = Path(tempfile.mkdtemp(prefix="steplog-kafka-")) if data is None else data.absolute()
        compiler = ("-XX:TieredStopAtLevel=1",) if is_brief else ()
        self.brokers = [
            Broker(
                Plan(
                    node=node, cluster_id=cluster_id, ports=ports[node - 1], folder=_folder(self.data, node),
                    properties=properties(node, ports, _folder(self.data, node), settings, users=users),
                    jvm=(f"-Xmx{HEAP_MB}m", *_LOGGING, *compiler, *jvm),
                    removed=self.data if self.is_temporary else None, environment=environment or {},
                ),
                distribution,
            )
            for node in range(1, brokers + 1)
        ]  # fmt: skip

    @property
    def bootstrap(self) -> str:
        """The addresses that a client is given: ``host:port`` of each broker, with commas."""
        return ",".join(broker.address for broker in self.brokers)

    @property
    def proxied_bootstrap(self) -> str:
        """The same, of the brokers' proxies."""
        return ",".join(broker.proxied_address for broker in self.brokers)

    @property
    def secure_bootstrap(self) -> str:
        """The same, of the listeners that ask who it is."""
        return ",".join(broker.secure_address for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers, and wait until each knows all."""
        try:
            for broker in self.brokers:
                broker.launch()
            for broker in self.brokers:
                broker.wait_until_ready(len(self.brokers))
            self.brokers[0].prepare()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End all brokers in order."""
        for broker in self.brokers:
            broker.begin_to_stop()
        for broker in self.brokers:
            broker.wait_until_stopped()

    def kill(self) -> None:
        """End all brokers by SIGKILL; a temporary folder goes."""
        for broker in self.brokers:
            broker.kill()
        if self.is_temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self.is_temporary:
            self.stop()
        self.kill()


_LOGGING = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)


def _folder(data: Path, node: int) -> Path:
    return data / f"broker-{node}"


def _ports(client: int, proxy: int | None, is_secure: bool) -> Ports:
    own, internal, controller, proxied, secure = free_ports(5)
    if client:
        own = check_free(client)
    return Ports(
        own, internal, controller, proxied=None if proxy is None else proxied, proxy=proxy,
        secure=secure if is_secure else None,
    )  # fmt: skip


def _cluster_of(data: Path, brokers: int) -> str:
    """The id of the cluster that a folder holds, or a new one."""
    if size := sum(folder.is_dir() for folder in data.glob("broker-*")):
        if size != brokers:
            raise KafkaUnavailable(f"{data} holds a cluster of {size}: give --brokers {size}, or another folder")
        for meta in data.glob("broker-*/meta.properties"):
            if found := re.search(r"^cluster\.id=(.+)$", meta.read_text(), re.MULTILINE):
                return found[1].strip()
    return new_id()
