"""Events a second by HTTP, in batches of 100 from four senders: matching nothing, and starting a run each.

Then how long 50 senders wait for the answer to one event each, while four others ask for runs (C1: p99 below 100 ms).
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

BATCH, SENDERS, EVENTS = 100, 4, 60_000
SINGLE_SENDERS, SINGLE_EVENTS, READERS = 50, 10_000, 4
FUNCTIONS = """
from steplog import App, Context
app = App("bench")
@app.function("one", trigger="bench/matched")
async def one(ctx: Context) -> None: ...
"""


async def send_batches(url: str, name: str) -> tuple[float, list[float]]:
    """Send all events; returns how many a second, and the ms of each batch."""
    body = json.dumps([{"name": name, "data": {"order": f"ord-{n}", "note": "y" * 250}} for n in range(BATCH)]).encode()
    taken: list[float] = []

    async def sender(session: aiohttp.ClientSession) -> None:
        for _ in range(EVENTS // BATCH // SENDERS):
            began = time.perf_counter()
            async with session.post(url, data=body) as response:
                answer = await response.json()
                assert answer["status"] == 200, answer
                assert len(answer["ids"]) == BATCH, answer
            taken.append((time.perf_counter() - began) * 1000)

    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*[sender(session) for _ in range(SENDERS)])
        return EVENTS / (time.perf_counter() - began), sorted(taken)


async def _send_singly(url: str) -> list[float]:
    taken: list[float] = []
    body = json.dumps({"name": "bench/matched", "data": {"note": "y" * 250}}).encode()

    async def sender(session: aiohttp.ClientSession) -> None:
        for _ in range(SINGLE_EVENTS // SINGLE_SENDERS):
            began = time.perf_counter()
            async with session.post(f"{url}/e/bench", data=body) as response:
                assert response.status == 200
                await response.read()
            taken.append((time.perf_counter() - began) * 1000)

    async def reader(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(f"{url}/v1/runs?limit=20") as response:
                assert response.status == 200
                await response.read()
            await asyncio.sleep(0.02)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        readers = [asyncio.ensure_future(reader(session)) for _ in range(READERS)]
        await asyncio.gather(*[sender(session) for _ in range(SINGLE_SENDERS)])
        for each in readers:
            each.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return sorted(taken)


def measure_batches(url: str) -> None:
    """Send to the event API at this address, key and all."""
    for name in ("bench/unmatched", "bench/matched"):
        per_s, taken = asyncio.run(send_batches(url, name))
        p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
        print(f"{name:16} {per_s:8,.0f} events/s, a batch of {BATCH}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="steplog-bench-") as directory:
        functions = Path(directory) / "functions.py"
        functions.write_text(FUNCTIONS)
        reads, writes = os.pipe()
        server = subprocess.Popen(
            [sys.executable, "-m", "steplog", "dev", str(functions), "--log", f"sqlite:{directory}/log.db",
             "--port", "0", "--ready-fd", str(writes)],
            pass_fds=(writes,),
        )  # fmt: skip
        try:
            os.close(writes)
            with os.fdopen(reads) as pipe:
                url = json.loads(pipe.readline())["url"]
            measure_batches(f"{url}/e/bench")
            taken = asyncio.run(_send_singly(url))
            p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
            print(f"{SINGLE_SENDERS} senders of single events, {READERS} readers: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        finally:
            server.terminate()
            server.wait(30)
