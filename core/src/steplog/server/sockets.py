"""The sockets that HTTP is served on; they listen from the moment they are bound, and connections wait in them.

On this machine alone they are on both loopback addresses, because clients disagree on what ``localhost`` is.
"""

import errno
import socket

from steplog.errors import ConfigInvalid, PortInUse

LOOPBACK = ("127.0.0.1", "::1")
BACKLOG = 2048  # connections that wait to be accepted; also over a reload
_TRIES = 20  # to find a port that is free on both addresses


def bind(port: int, host: str = LOOPBACK[0]) -> list[socket.socket]:
    """Listen on a port of ``host``; on 127.0.0.1 and ::1 where that is the loopback. Port 0 takes a free one.

    Connections wait in the sockets until ``serve`` takes them. Raises ``PortInUse``, or ``ConfigInvalid`` for an
    address that is not this machine's.
    """
    if host not in (*LOOPBACK, "localhost"):
        return [_listen(host, port)]
    for _ in range(_TRIES):
        first = _listen(LOOPBACK[0], port)
        try:
            return [first, _listen(LOOPBACK[1], first.getsockname()[1])]
        except PortInUse:  # on ::1 alone
            first.close()
            if port:
                raise
        except ConfigInvalid:  # no IPv6 here
            return [first]
    raise PortInUse(f"no port is free on both {' and '.join(LOOPBACK)}")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(host, port, error) from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # here: two can bind one port, but not listen on it
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from error
    sock.setblocking(False)
    return sock


def _refused(host: str, port: int, error: OSError) -> PortInUse | ConfigInvalid:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"port {port} is taken; take another: --port {port + 2}")
    return ConfigInvalid("the address to listen on", [f"{host} port {port}: {error.strerror or error}"])
