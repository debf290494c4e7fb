"""A process outside reads the log in one transaction while much is written (fault C5)."""

import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from .oracles import assert_adds_up
from .server import Server, until

READER = Path(__file__).with_name("reading.py")
EVENTS, BODY = 4, "x" * 200_000  # of a request
SHRINKS_S, WARNS_S = 10, 60
SMALL_BYTES = 16 << 20


class LongRead(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    warned_mib: int
    requests: int
    shrunk_after_s: float


def read_for_long(folder: Path, *, seconds: float = 0, pause_s: float = 0) -> LongRead:
    """Write for some seconds, at least until the warning; then let the reader end."""
    with Server(folder) as server:
        server.start()
        assert server.post({"name": "order.small"}).status == 200
        wal = server.log.with_name("log.db-wal")
        with subprocess.Popen(
            [sys.executable, READER, server.log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
            warning, requests, began_s = None, 0, time.monotonic()
            while warning is None or time.monotonic() < began_s + seconds:
                assert warning or time.monotonic() < began_s + seconds + WARNS_S, "no warning"
                answer = server.post([{"name": "nobody", "data": {"x": BODY}}] * EVENTS)
                assert answer.status == 200, "writes go on"
                requests += 1
                warning = warning or re.search(r"has grown to (\d+) MiB, because (.+?); end that", server.printed())
                time.sleep(pause_s)
            assert int(warning[1]) >= 64
            assert f"process {reader.pid} reads the log in one transaction" in warning[2]
            assert reader.stdin is not None
            reader.stdin.close()
        began_s = time.monotonic()
        until(lambda: wal.stat().st_size <= SMALL_BYTES, within_s=SHRINKS_S, why=f"{wal.stat().st_size} bytes remain")
        shrunk_s = time.monotonic() - began_s
        until(lambda: "has shrunk to" in server.printed())
        assert server.post({"name": "order.small"}).status == 200
        assert server.stop() == 0
    assert assert_adds_up(server.log).accepted == 2 + requests * EVENTS
    return LongRead(warned_mib=int(warning[1]), requests=requests, shrunk_after_s=shrunk_s)
