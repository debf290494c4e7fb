"""Who has a port that is taken, and which one is free instead."""

import http.client
from contextlib import closing
from typing import NamedTuple

import msgspec

from steplog.cli.output import clock
from steplog.errors import PortInUse
from steplog.server.answers import Health
from steplog.server.sockets import bind

PROBE_S = 1.0  # how long who has the port may take to say who it is
_TRIES = 20


class Holder(NamedTuple):
    """Who has a port, in words."""

    name: str
    is_steplog: bool


def holder_of(host: str, port: int) -> Holder:
    """Ask who listens on a port of this machine."""
    with closing(http.client.HTTPConnection(host, port, timeout=PROBE_S)) as connection:
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            body = answer.read(10_000)
        except TimeoutError:
            return Holder("another program, which does not answer", is_steplog=False)
        except (OSError, http.client.HTTPException):
            return Holder("another program, which speaks no HTTP", is_steplog=False)
    try:
        return Holder(_described(msgspec.json.decode(body, type=Health)), is_steplog=True)
    except msgspec.MsgspecError:
        server = answer.headers.get("server", "")
        return Holder(f"another program{f', which says that it is {server[:60]}' if server else ''}", is_steplog=False)


def _described(health: Health) -> str:
    """``another steplog dev (app shop, since 14:02)``."""
    apps = f"app{'s' if len(health.apps) > 1 else ''} {', '.join(health.apps)}, " if health.apps else ""
    return f"another steplog {health.mode} ({apps}since {clock(health.since)[:5]})"


def free_port(taken: int, host: str) -> int:
    """The next port that is free, and the one after it as well; 0, which takes any, where none is found."""
    for port in range(taken + 2, min(taken + 2 + 2 * _TRIES, 65_535), 2):
        if _is_free(port, host) and _is_free(port + 1, host):
            return port
    return 0


def _is_free(port: int, host: str) -> bool:
    try:
        sockets = bind(port, host)
    except PortInUse:
        return False
    for sock in sockets:
        sock.close()
    return True
