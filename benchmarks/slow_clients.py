"""What other clients notice of hostile ones: a thousand that send slowly, and bodies that are hard to read."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from benchmarks.harness import percentile

SLOW, REQUESTS, ROUNDS = 1_000, 2_000, 3
HEAD = b"POST /e/bench HTTP/1.1\r\nhost: localhost\r\n"
BEGINNINGS = (
    b"",
    HEAD[:30],
    HEAD + b"content-length: 9999\r\n\r\n{",
    HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n",
)
CUT_S = 35.0  # by then the last of them has been cut off
BODIES = {
    "depth": b"[" * 1_000_000,
    "a number": b'{"name":"a","data":{"x":' + b"9" * 1_000_000 + b"}}",
    "empty events": b"[" + b"{}," * 1_000_000 + b"{}]",
    "many doubles": b'{"name":"a","data":{"x":[' + b"1.797693134e308," * 180_000 + b"1e999]}}",
    "no UTF-8": b'{"name":"a","data":{"x":"' + b"\xc3\xa4" * 1_000_000 + b'\xff"}}',
}


async def _p99_ms(session: aiohttp.ClientSession, url: str) -> float:
    taken = []
    for number in range(REQUESTS):
        began = time.perf_counter()
        async with session.post(f"{url}/e/bench", json={"name": "bench/none", "data": {"n": number}}) as response:
            assert (await response.json())["status"] == 200
        taken.append((time.perf_counter() - began) * 1000)
    return percentile(taken, 99)


async def _slow(port: int) -> list[asyncio.StreamWriter]:
    found = []
    for number in range(SLOW):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(BEGINNINGS[number % len(BEGINNINGS)])
        found.append(writer)
    return found


async def _drip(slow: list[asyncio.StreamWriter]) -> None:
    """A byte a second from each that is not cut off."""
    while True:
        for writer in slow:
            if not writer.is_closing():
                writer.write(b" ")
        await asyncio.sleep(1)


async def benchmark(url: str, pid: int) -> None:
    port = int(url.rpartition(":")[2])
    async with aiohttp.ClientSession() as session:
        alone = min([await _p99_ms(session, url) for _ in range(ROUNDS)])
        before_bytes, slow = _rss_bytes(pid), await _slow(port)
        began = time.perf_counter()
        dripping = asyncio.ensure_future(_drip(slow))
        beside = min([await _p99_ms(session, url) for _ in range(ROUNDS)])
        grown_mib = (_rss_bytes(pid) - before_bytes) / (1 << 20)
        print(
            f"p99 of an event alone {alone:.1f} ms, beside {SLOW:,} slow clients {beside:.1f} ms: {beside / alone:.2f}x"
        )
        while _connections(pid) > 10 and time.perf_counter() - began < CUT_S:
            await asyncio.sleep(0.5)
        left = max(_connections(pid) - 1, 0)
        print(f"they cost {grown_mib:.0f} MiB; after {time.perf_counter() - began:.0f} s {left} are left")
        dripping.cancel()
        for writer in slow:
            writer.close()
        for name, body in BODIES.items():
            began = time.perf_counter()
            async with session.post(f"{url}/e/bench", data=body) as response:
                assert response.status == 400, (name, await response.text())
            took_ms = (time.perf_counter() - began) * 1000
            print(
                f"{name:14} {len(body) / 1e6:.1f} MB refused in {took_ms:.0f} ms: {took_ms * 1e6 / len(body):.0f} ms/MB"
            )


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _connections(pid: int) -> int:
    """Sockets that the engine's process has open, besides the two that it listens on and the one to its parent."""
    return sum(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir()) - 3


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="steplog-bench-") as directory:
        reads, writes = os.pipe()
        server = subprocess.Popen(
            [sys.executable, "-m", "steplog", "start", _functions(Path(directory)), "--log",
             f"sqlite:{directory}/log.db", "--port", "0", "--ready-fd", str(writes), "--set", "limits.event_size=3MiB"],
            pass_fds=(writes,), env=os.environ | {"STEPLOG_EVENT_KEY": "bench", "STEPLOG_SIGNING_KEY": "signkey-b-00"},
        )  # fmt: skip
        try:
            os.close(writes)
            with os.fdopen(reads) as pipe:
                url = json.loads(pipe.readline())["url"]
            asyncio.run(benchmark(url, _engine(server.pid)))
        finally:
            server.terminate()
            server.wait(30)


def _functions(directory: Path) -> str:
    path = directory / "functions.py"
    path.write_text('from steplog import App\napp = App("bench")\n')
    return str(path)


def _engine(pid: int) -> int:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if "shells.child" in Path(f"/proc/{child}/cmdline").read_text():
            return child
    raise AssertionError("the server has no engine")
