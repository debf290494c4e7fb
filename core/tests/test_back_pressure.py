"""What the edge does when more comes than the log takes: it answers 503 with Retry-After, and loses nothing."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import pytest

from steplog.engine.processor import LoadedState, Turn
from steplog.errors import LogUnavailable, Overloaded
from steplog.log.memory import MemoryLog
from steplog.server.config import ServerConfig
from steplog.server.http import Held, Intake
from steplog.turns import MOST_WAITING

from .serving import DEV, READY_S, Reply, served


class StuckLog(MemoryLog):
    """A log whose disk stands still while it is told to; ``is_away``: it fails instead."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_away = False
        self.is_stuck = threading.Event()

    async def load(self) -> LoadedState:
        self._check()
        return await super().load()

    async def commit(self, turn: Turn) -> None:
        self._check()
        while not self.may_go_on.is_set():
            self.is_stuck.set()
            await asyncio.sleep(0.002)
        await super().commit(turn)

    def _check(self) -> None:
        if self.is_away:
            raise LogUnavailable("no space left on the disk")

    @property
    def stored(self) -> list[str]:
        """The internal ids of the events that are on the log."""
        return [msgspec.json.decode(event)["internal_id"] for _, turn in self.events for event in turn]


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + READY_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.002)


@pytest.fixture
def log() -> StuckLog:
    return StuckLog()


def start(config: ServerConfig, log: StuckLog) -> Any:
    return served(config, log=lambda: log)


def assert_come_again(reply: Reply, says: str) -> None:
    assert (reply.status, reply.headers["retry-after"], reply.json["status"]) == (503, "1", 503)
    assert says in reply.json["error"], reply.json
    assert reply.json.get("ids", []) == []


@pytest.mark.spec("FAULT-A8")
def test_more_messages_than_the_node_holds_are_refused_and_none_is_lost(log: StuckLog) -> None:
    """The bound is the real one: 50,000 messages behind a commit that does not end."""
    body = json.dumps([{"name": "a"}] * 5_000).encode()
    with start(DEV, log) as (server, backend), ThreadPoolExecutor(12) as pool:
        log.may_go_on.clear()
        first = pool.submit(server.send, {"name": "first"})
        assert log.is_stuck.wait(READY_S)
        waiting = [pool.submit(server.send, body) for _ in range(MOST_WAITING // 5_000)]
        until(lambda: backend.turns._processor.waiting == MOST_WAITING)
        for refused in (server.send({"name": "more"}), server.send(body)):
            assert_come_again(refused, f"{MOST_WAITING} messages wait, the limit is {MOST_WAITING}")
        signal = server.request("POST", "/v1/signals", {"signal": "s", "data": 1})
        assert_come_again(signal, "messages wait")
        assert server.get("/health").status == 200
        log.may_go_on.set()
        answered = [id_ for reply in [first, *waiting] for id_ in accepted(reply)]
        assert sorted(log.stored) == sorted(answered)
        assert len(answered) == MOST_WAITING + 1
        assert server.send({"name": "later"}).status == 200


def accepted(reply: "Future[Reply]") -> list[str]:
    found = reply.result(READY_S)
    assert found.status == 200
    ids: list[str] = found.json["ids"]
    return ids


def chunks(size: int) -> Iterator[bytes]:
    yield from [b" " * 500] * (size // 500)


@pytest.mark.spec("FAULT-A8")
def test_more_bytes_than_the_server_takes_in_at_once_are_refused(log: StuckLog) -> None:
    config = msgspec.structs.replace(DEV, intake_bytes=10_000)
    large = {"name": "large", "data": {"x": "x" * 8_000}}
    with start(config, log) as (server, _), ThreadPoolExecutor(2) as pool:
        log.may_go_on.clear()
        first = pool.submit(server.send, large)
        assert log.is_stuck.wait(READY_S)
        for body in (large, b" " * 3_000, chunks(3_000)):
            assert_come_again(server.send(body), "bytes are being taken in, the limit is 10000")
        signal = server.request("POST", "/v1/signals", b" " * 3_000)
        assert_come_again(signal, "bytes are being taken in, the limit is 10000")
        small = pool.submit(server.send, {"name": "small"})
        log.may_go_on.set()
        assert [len(accepted(each)) for each in (first, small)] == [1, 1]
        for _ in range(3):  # what was held is free again, that of refusals too
            assert server.send(large).status == 200
            assert server.send(b" " * 9_000).status == 200
            assert server.send(b"?" * 9_000).status == 400
        assert len(log.stored) == 5


@pytest.mark.spec("FAULT-I3")
def test_what_slow_senders_have_sent_is_held_until_they_go(log: StuckLog) -> None:
    config = msgspec.structs.replace(DEV, intake_bytes=10_000)
    head = b"POST /e/key HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n"
    with start(config, log) as (server, _):
        with closing(socket.create_connection(("127.0.0.1", server.port), READY_S)) as slow:
            slow.sendall(head + b" " * 6_000)
            until(lambda: server.send(b" " * 5_000).status == 503)
            assert server.send(b" " * 3_000).status == 200
        until(lambda: server.send(b" " * 5_000).status == 200)


def test_an_intake_counts_exactly() -> None:
    intake = Intake(100)
    one, other = Held(intake), Held(intake)
    one.take(60)
    other.take(40)
    with pytest.raises(Overloaded, match="requests of 100 bytes are being taken in, the limit is 100"):
        other.take(1)
    one.release()
    one.release()
    assert intake.free_bytes == 60
    other.check(60)
    other.release()
    assert intake.free_bytes == 100


@pytest.mark.spec("FAULT-A8", "FAULT-C3")
def test_while_the_log_is_away_nothing_is_accepted_and_afterwards_everything_is(log: StuckLog) -> None:
    seed = {"x-inngest-event-id-seed": "1700000000000,AAECAwQFBgcICQ=="}
    with start(DEV, log) as (server, backend):
        before = server.send({"name": "before"}).json["ids"]
        log.is_away = True
        assert_come_again(server.send({"name": "a"}, headers=seed), "no space left on the disk")
        until(lambda: not backend.turns.is_available)
        assert_come_again(server.send({"name": "a"}, headers=seed), "the log cannot be written at the moment")
        assert_come_again(server.request("POST", "/v1/signals", {"signal": "s"}), "the signal was not sent")
        assert server.get("/health").status == 503
        assert log.stored == before
        log.is_away = False
        until(lambda: server.send({"name": "a"}, headers=seed).status == 200)
        assert log.stored == [*before, "01HF7YAT00000G40R40M30E20A"]


def test_a_client_that_was_sent_away_may_use_its_connection_again(log: StuckLog) -> None:
    with (
        start(DEV, log) as (server, backend),
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=READY_S)) as connection,
    ):
        backend.fail_with = Overloaded("busy")
        assert server.send({"name": "a"}, connection=connection).status == 503
        backend.fail_with = None
        assert server.send({"name": "a"}, connection=connection).status == 200
