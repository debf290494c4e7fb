"""Many clients at once (fault C1)."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .oracles import Follower, assert_adds_up
from .server import Server, until

WRITERS, POLLERS, REQUESTS = 50, 4, 20


@pytest.mark.spec("FAULT-C1")
def test_fifty_writers_and_some_who_poll_are_never_told_that_the_log_is_locked(tmp_path: Path) -> None:
    over = threading.Event()
    with Server(tmp_path) as server, ThreadPoolExecutor(WRITERS + POLLERS) as threads:
        server.start()

        def write(writer: int) -> None:
            with contextlib.closing(server.connection()) as connection:
                for n in range(REQUESTS):
                    answer = server.post({"name": "order.small", "id": f"{writer}-{n}"}, connection)
                    assert answer.status == 200, answer

        def poll() -> int:
            reads = 0
            with contextlib.closing(server.connection()) as connection:
                while not over.wait(0.02):
                    for run in server.get("/v1/runs?limit=20", connection):
                        server.get(f"/v1/runs/{run['run_id']}", connection)
                        reads += 1
            return reads

        writing = [threads.submit(write, n) for n in range(WRITERS)]
        polling = [threads.submit(poll) for _ in range(POLLERS)]
        try:
            for writer in writing:
                writer.result()
            follower = Follower(server.log)
            until(lambda: follower.count() >= WRITERS * REQUESTS)
        finally:
            over.set()
        assert min(poller.result() for poller in polling) > 0
        assert server.stop() == 0
    assert "locked" not in server.printed()
    assert assert_adds_up(server.log).completed == WRITERS * REQUESTS
