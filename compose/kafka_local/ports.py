"""Free ports on 127.0.0.1."""

import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from compose.kafka_local.errors import KafkaUnavailable

HOST = "127.0.0.1"
# Below the ports that systems give to outgoing connections, so that none of these takes the port of a broker that is
# down for a while.
_RANGE = (20_000, 32_000)
_random = random.SystemRandom()


@dataclass(frozen=True)
class Ports:
    """Where one broker listens."""

    client: int
    internal: int  # for the other brokers
    controller: int
    proxied: int | None = None  # for clients that come through a proxy
    proxy: int | None = None  # where these clients are told to come: the proxy's own
    secure: int | None = None  # for clients that say who they are


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another. Nothing keeps them free."""
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = _random.randrange(*_RANGE)
            if probe := _bound(port):
                held.enter_context(probe)
                ports.append(port)
        return ports


def check_free(port: int) -> int:
    """Return the port. Raises ``KafkaUnavailable`` where somebody listens on it."""
    if probe := _bound(port):
        probe.close()
        return port
    raise KafkaUnavailable(f"port {port} of {HOST} is in use; choose another with --port, or a free one with --port 0")


def _bound(port: int) -> socket.socket | None:
    """Listen on the port, as a broker would: connections that it had a while ago do not matter."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
        probe.listen()
    except OSError:
        probe.close()
        return None
    return probe
