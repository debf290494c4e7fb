"""One broker's process: started, killed, paused, and started again on the same data and ports."""

import base64
import contextlib
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compose.kafka_local import wire
from compose.kafka_local.distribution import Distribution
from compose.kafka_local.errors import KafkaUnavailable, end_of
from compose.kafka_local.guarded import Guarded
from compose.kafka_local.ports import HOST, Ports

READY_S, STOP_S = 90.0, 30.0  # on a machine with much else to do


@dataclass(frozen=True)
class Plan:
    """What a broker is started with."""

    node: int  # its id, from 1
    cluster_id: str
    ports: Ports
    folder: Path  # its topics
    properties: Mapping[str, object]
    jvm: Sequence[str]
    removed: Path | None  # the folder that goes when the process that started the broker dies
    environment: Mapping[str, str]  # besides that of the process


class Broker:
    """A broker, not yet started. Brokers end with the process that started them."""

    def __init__(self, plan: Plan, distribution: Distribution) -> None:
        self._plan, self._distribution = plan, distribution
        self._process: Guarded | None = None
        self.node, self.ports, self.folder = plan.node, plan.ports, plan.folder
        self.log = plan.folder.with_name(f"{plan.folder.name}.log")

    @property
    def address(self) -> str:
        """Where clients reach it: host and port."""
        return f"{HOST}:{self.ports.client}"

    @property
    def secure_address(self) -> str:
        """Where clients reach it that say who they are."""
        assert self.ports.secure is not None, "the cluster was started without users"
        return f"{HOST}:{self.ports.secure}"

    @property
    def proxied_address(self) -> str:
        """Where clients reach it that come through a proxy, which has to stand there."""
        assert self.ports.proxy is not None, "the cluster was started without ports of proxies"
        return f"{HOST}:{self.ports.proxy}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    @property
    def pid(self) -> int:
        """Of the Java process."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it serves. Raises ``KafkaUnavailable`` with the end of its log."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start, and do not wait."""
        assert not self.is_running, f"broker {self.node} runs already"
        self.wait_until_stopped()  # where it has ended by itself
        plan = self._plan
        self._format()
        written = plan.folder.with_name(f"{plan.folder.name}.properties")
        written.write_text("".join(f"{name}={value}\n" for name, value in plan.properties.items()))
        self._process = Guarded(
            self._distribution.command("kafka.Kafka", str(written), jvm=plan.jvm),
            log=self.log, folder=plan.folder.parent, removed=plan.removed,
            environment=plan.environment,
        )  # fmt: skip

    def wait_until_ready(self, among: int = 1) -> None:
        """Wait until it answers clients and knows so many brokers, itself among them, to be alive."""

        def is_ready() -> bool:
            alive = wire.nodes((HOST, self.ports.client))
            return self.node in alive and len(alive) >= among

        self._wait_until(is_ready)

    def prepare(self) -> None:
        """Have Kafka make its own topics, so that the first group and the first transaction need not wait."""
        address = HOST, self.ports.client
        for of_transactions in (False, True):
            self._wait_until(partial(wire.has_coordinator, address, "kafka-local", of_transactions=of_transactions))

    def _wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError):
                if is_true():
                    return
            if not self.is_running:
                raise KafkaUnavailable(
                    f"broker {self.node} ended before it served; its log ends with\n{end_of(self.log)}"
                )
            if time.monotonic() > deadline_s:
                self.kill()
                raise KafkaUnavailable(
                    f"broker {self.node} does not serve after {READY_S:.0f} s; its log ends with\n{end_of(self.log)}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order, as an operator would; SIGKILL where it takes too long."""
        self.begin_to_stop()
        self.wait_until_stopped()

    def begin_to_stop(self) -> None:
        """Ask it to end; one that is paused goes on first."""
        if self._process is not None:
            self._process.send(signal.SIGTERM)
            self._process.send(signal.SIGCONT)

    def wait_until_stopped(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it is gone; a paused one too."""
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """Stop its clock, with its connections open (SIGSTOP), until ``resume``."""
        assert self._process is not None, "start() comes first"
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "start() comes first"
        self._process.send(signal.SIGCONT)

    def _format(self) -> None:
        """Do what ``kafka-storage format`` does, without a second of Java."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "meta.properties"
        if meta.exists():
            return
        checkpoint = self._distribution.checkpoint
        shutil.copyfile(checkpoint, folder / checkpoint.name)
        made = folder / "meta.properties.new"
        made.write_text(
            f"version=1\ncluster.id={self._plan.cluster_id}\nnode.id={self.node}\ndirectory.id={new_id()}\n"
        )
        made.replace(meta)


def new_id() -> str:
    """An id as Kafka writes them: 16 bytes in base64, none that begins with a dash."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made
