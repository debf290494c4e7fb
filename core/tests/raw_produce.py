"""A record that no client would write: Kafka's protocol by hand (Produce v3, a record batch of format 2)."""

import socket
import struct
import time
from collections.abc import Iterator

PRODUCE, VERSION, CORRELATION = 0, 3, 7
ANSWER_S = 10.0
_CRC = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    _CRC[_byte] = _value


def put_raw(brokers: str, topic: str, value: bytes, key: bytes, headers: dict[bytes, bytes]) -> None:
    """Write a record to partition 0; names of headers may be any bytes."""
    batch = _batch(value, key, headers)
    body = struct.pack(">hhi", -1, -1, 10_000) + _array(
        _text(topic) + _array(struct.pack(">i", 0) + struct.pack(">i", len(batch)) + batch)
    )
    request = struct.pack(">hhi", PRODUCE, VERSION, CORRELATION) + _text("test") + body
    host, _, port = brokers.partition(":")
    with socket.create_connection((host, int(port)), ANSWER_S) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", _read(connection, 4))
        answer = _read(connection, length)
    (error,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, f"the broker answers with error {error}"


def _batch(value: bytes, key: bytes, headers: dict[bytes, bytes]) -> bytes:
    record = b"\0" + _varint(0) + _varint(0) + _sized(key) + _sized(value) + _varint(len(headers))
    record += b"".join(_sized(name) + _sized(text) for name, text in headers.items())
    now_ms = time.time_ns() // 1_000_000
    after = struct.pack(">hiqqqhii", 0, 0, now_ms, now_ms, -1, -1, -1, 1) + _sized(record)
    behind_length = struct.pack(">ibI", -1, 2, _crc32c(after)) + after
    return struct.pack(">qi", 0, len(behind_length)) + behind_length


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _varint(number: int) -> bytes:
    """Zigzag, seven bits a byte."""
    return bytes(_sevens(number << 1))


def _sevens(number: int) -> Iterator[int]:
    while number > 127:
        yield number & 127 | 128
        number >>= 7
    yield number


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _array(only: bytes) -> bytes:
    return struct.pack(">i", 1) + only


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, "the broker has closed the connection"
        data += more
    return data
