"""The few requests of Kafka's protocol that show whether a broker serves.

A frame is its size in four bytes, api key and version in two each, a correlation id in four, the client's id as a
string; the answer repeats the correlation id. Numbers are big-endian.
"""

import socket
import struct
from dataclasses import dataclass

METADATA, FIND_COORDINATOR = 3, 10
_CLIENT = b"kafka-local"


@dataclass
class Answer:
    """An answer's body, read from its beginning."""

    data: bytes
    position: int = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self.data, self.position)
        self.position += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        """A string, or an empty one for null."""
        start = self.position + 2
        self.position = start + max(0, self.number("h"))
        return self.data[start : self.position].decode()


def ask(address: tuple[str, int], api: int, version: int, body: bytes, *, timeout_s: float = 5) -> Answer:
    """Send one request on a connection of its own. Raises ``OSError`` where no answer comes."""
    with socket.create_connection(address, timeout_s) as connection:
        connection.settimeout(timeout_s)
        request = struct.pack(f">hhih{len(_CLIENT)}s", api, version, 1, len(_CLIENT), _CLIENT) + body
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _read(connection, 4))
        return Answer(_read(connection, size), position=4)


def nodes(address: tuple[str, int]) -> set[int]:
    """The ids of the brokers that this broker knows to be alive (Metadata v1, of no topic)."""
    answer = ask(address, METADATA, 1, struct.pack(">i", 0))
    found = set()
    for _ in range(answer.number("i")):
        found.add(answer.number("i"))
        answer.text()  # its host
        answer.number("i")  # its port
        answer.text()  # its rack
    return found


def has_coordinator(address: tuple[str, int], name: str, *, of_transactions: bool) -> bool:
    """Whether somebody coordinates this group or transactional id (FindCoordinator v1).

    The first to ask has Kafka make the topic that this is kept in.
    """
    key = name.encode()
    body = struct.pack(f">h{len(key)}sb", len(key), key, of_transactions)
    answer = ask(address, FIND_COORDINATOR, 1, body)
    answer.number("i")  # for how long the client is held back
    return answer.number("h") == 0


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (part := connection.recv(size - len(data))):
            raise ConnectionError("the broker hung up")
        data += part
    return bytes(data)
