"""The event API over HTTP."""

import base64
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import pytest

from steplog.engine.records import StoredEvent
from steplog.errors import LogUnavailable, Overloaded
from steplog.log.memory import MemoryLog
from steplog.server.config import ServerConfig

from .serving import DEV, READY_S, Served, TurnsBackend, served

NAMED = {"name": "a"}
decode_stored = msgspec.json.Decoder(StoredEvent).decode


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Served, TurnsBackend, MemoryLog]]:
    log = MemoryLog()
    with served(log=lambda: log) as (server, backend):
        yield server, backend, log


@pytest.fixture
def server(node: tuple[Served, TurnsBackend, MemoryLog]) -> Served:
    return node[0]


@pytest.fixture
def backend(node: tuple[Served, TurnsBackend, MemoryLog]) -> Iterator[TurnsBackend]:
    backend = node[1]
    backend.groups.clear()
    yield backend
    backend.fail_with = None


@pytest.mark.spec("EVTW-01", "EVT-10", "ARCH-01")
def test_a_200_means_that_the_events_are_on_the_log(node: tuple[Served, TurnsBackend, MemoryLog]) -> None:
    server, _, log = node
    commits = len(log.events)
    reply = server.send([NAMED, {"name": "b", "id": "mine"}])
    assert (reply.status, list(reply.json), reply.json["status"]) == (200, ["ids", "status"], 200)
    assert len(log.events) == commits + 1
    _, records = log.events[-1]
    events = [decode_stored(record) for record in records]
    assert [event.internal_id for event in events] == reply.json["ids"]
    assert [(event.name, event.id) for event in events] == [("a", events[0].internal_id), ("b", "mine")]


@pytest.mark.spec("EVTW-01", "EVT-10", "TRP-20")
@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_one_event_or_several_whatever_the_content_type(server: Served, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    for body, count in ((NAMED, 1), ([NAMED], 1), ([NAMED] * 3, 3), ([], 0)):
        reply = server.send(body, headers=headers)
        assert (reply.status, len(reply.json["ids"])) == (200, count)


def test_an_empty_body_has_no_events(server: Served) -> None:
    assert server.send(b"").json == {"ids": [], "status": 200}


@pytest.mark.spec("EVTW-02")
def test_the_accepted_prefix_is_committed_and_answered(server: Served, backend: TurnsBackend) -> None:
    reply = server.send([{**NAMED, "id": "1"}, {"name": ""}, {"name": "c"}])
    assert reply.status == 400
    assert (reply.json["status"], reply.json["error"]) == (400, "events[1]: event name is empty")
    assert len(reply.json["ids"]) == 1
    assert [[event.id for event in group] for group in backend.groups] == [["1"]]
    assert server.send({"name": ""}).json == {"ids": [], "status": 400, "error": "event name is empty"}
    assert len(backend.groups) == 1


@pytest.mark.spec("EVTW-05")
def test_a_seed_gives_the_same_ids_again(server: Served) -> None:
    headers = {"x-inngest-event-id-seed": "1700000000000," + base64.b64encode(bytes(range(10))).decode()}
    replies = [server.send([NAMED, NAMED], headers=headers).json for _ in range(2)]
    assert (
        replies[0] == replies[1] == {"ids": ["01HF7YAT00000G40R40M30E20A", "01HF7YAT00000G40R40M30E20B"], "status": 200}
    )
    assert server.send(NAMED, headers={"x-inngest-event-id-seed": "nonsense"}).status == 200


# --- keys


@pytest.mark.spec("EVTW-03", "TEST-04")
def test_dev_takes_any_key(server: Served) -> None:
    for key in ("test", "123", "NO_EVENT_KEY_SET", "a%20b%2Fc", "%00"):
        assert server.request("POST", f"/e/{key}", NAMED).status == 200
    reply = server.request("POST", "/e/", NAMED)
    assert (reply.status, reply.json) == (401, {"ids": [], "status": 401, "error": "Event key is required"})


@pytest.mark.spec("EVTW-02")
def test_start_takes_its_own_keys() -> None:
    with served(ServerConfig(is_dev=False, event_keys=("one", "zwei-ü"))) as (server, backend):
        for key in ("one", "zwei-%C3%BC"):
            assert server.request("POST", f"/e/{key}", NAMED).status == 200
        for key in ("ONE", "on", "one1", "%ff", "one/"):
            reply = server.request("POST", f"/e/{key}", NAMED)
            assert (reply.status, reply.json["error"]) == (401, "Event key not found")
        assert server.request("POST", "/e/", NAMED).json["error"] == "Event key is required"
        assert len(backend.groups) == 2
        assert server.request("POST", "/e/one", {**NAMED, "data": {"x": "x" * (256 << 10)}}).status == 413
        assert server.request("POST", "/e/one", NAMED).headers["x-inngest-server-kind"] == "cloud"


def test_start_without_keys_takes_nothing() -> None:
    with served(ServerConfig(is_dev=False)) as (server, _):
        reply = server.request("POST", "/e/any", NAMED)
        assert (reply.status, reply.json["error"]) == (503, "Event keys are required to process events securely")


# --- limits


@pytest.mark.spec("LIM-06")
def test_the_size_of_one_event_and_of_a_body() -> None:
    config = ServerConfig(is_dev=True, event_size_bytes=1_000, request_size_bytes=10_000)
    large = {**NAMED, "data": {"x": "x" * 1_000}}
    with served(config) as (server, backend):
        reply = server.send([NAMED, large, NAMED])
        assert (reply.status, reply.json["status"], len(reply.json["ids"])) == (413, 413, 1)
        assert reply.json["error"].startswith(
            "events[1]: Event is over the max size: it is 1032 bytes, the limit is 1000"
        )
        backend.groups.clear()
        for body in (
            b" " * 10_001,
            iter([b" " * 5_000] * 3),
            iter([b"[" + json.dumps(NAMED).encode()] + [b" "] * 10_000),
        ):
            reply = server.send(body)
            assert (reply.status, reply.json["ids"]) == (413, [])
            assert "over the limit of 10000 bytes" in reply.json["error"]
        assert server.send(json.dumps(NAMED).encode().ljust(10_000)).status == 200
        assert len(backend.groups) == 1


@pytest.mark.spec("LIM-06")
def test_large_events_and_large_batches_pass_in_dev(server: Served) -> None:
    event = {**NAMED, "data": {"x": "x" * (1 << 20)}}
    assert len(server.send([event] * 8).json["ids"]) == 8
    assert server.send({**NAMED, "data": {"x": "x" * (3 << 20)}}).status == 413
    assert server.send(b" " * ((32 << 20) + 1)).status == 413


@pytest.mark.spec("LIM-07", "ATV-05")
def test_five_thousand_events_in_order(server: Served, backend: TurnsBackend) -> None:
    reply = server.send([{"name": f"n{n}"} for n in range(5_000)])
    assert (reply.status, len(set(reply.json["ids"]))) == (200, 5_000)
    assert reply.json["ids"] == sorted(reply.json["ids"])
    assert [event.name for event in backend.groups[-1]] == [f"n{n}" for n in range(5_000)]
    reply = server.send([NAMED] * 5_001)
    assert (reply.status, reply.json["ids"]) == (400, [])
    assert reply.json["error"] == "Cannot have more than 5000 events in a batch"
    assert len(backend.groups) == 1


def test_what_is_compressed_is_refused(server: Served) -> None:
    for encoding in ("gzip", "br", "GZIP", "identity, gzip"):
        reply = server.send(b"\x1f\x8b", headers={"content-encoding": encoding})
        assert (reply.status, reply.json["ids"]) == (415, [])
    assert server.send(NAMED, headers={"content-encoding": "Identity"}).status == 200


@pytest.mark.spec("FAULT-I2")
def test_the_server_lives_on_after_json_bombs(server: Served) -> None:
    for body in (
        b"[" * 10_000, b'{"name":"a","data":{"x":' + b"9" * 1_000_000 + b"}}", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
        b'{"name":"a","data":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, b"[" + b"1," * 5_000_000 + b"1]",
    ):  # fmt: skip
        began = time.monotonic()
        assert server.send(body).status == 400
        assert time.monotonic() - began < 1 + 0.05 * len(body) / 1e6
    assert server.send({**NAMED, "data": {"__proto__": {"x": 1}}}).status == 200


# --- trouble


@pytest.mark.parametrize("error", [Overloaded("60000 messages wait; send again later"), LogUnavailable("no disk")])
def test_an_overloaded_node_asks_to_come_again(server: Served, backend: TurnsBackend, error: Exception) -> None:
    backend.fail_with = error
    reply = server.send(NAMED)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.json == {"ids": [], "status": 503, "error": str(error)}


def test_a_bug_is_an_error_in_json(server: Served, backend: TurnsBackend, caplog: pytest.LogCaptureFixture) -> None:
    backend.fail_with = ZeroDivisionError("secret")
    reply = server.send(NAMED)
    assert (reply.status, reply.json["status"]) == (500, 500)
    assert b"secret" not in reply.body
    assert "request failed" in caplog.text
    assert server.send({"name": ""}).status == 400


@pytest.mark.spec("FAULT-I1")
def test_ids_arrive_exactly(server: Served, backend: TurnsBackend) -> None:
    ids = ["", " ", "x" * 10_240, "\x00", "../x", "\u202eabc", "😀", "Abc", "abc"]
    reply = server.send([{**NAMED, "id": id_} for id_ in ids])
    assert reply.status == 200
    assert [event.id for event in backend.groups[-1]] == [reply.json["ids"][0], *ids[1:]]
    wrong: Any
    for wrong in (5, 0, False, []):
        assert server.send({**NAMED, "id": wrong}).status == 400
    assert server.send({**NAMED, "id": None}).status == 200


def exchange(server: Served, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Write raw bytes and read until the server closes, or answers nothing more."""
    with closing(socket.create_connection(("127.0.0.1", server.port), READY_S)) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65_536):
            received += part
        return received


def test_a_client_that_goes_away_is_not_an_error(
    server: Served, backend: TurnsBackend, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /e/key HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    assert exchange(server, head, b'{"name": "a"}') == b""
    assert server.send(NAMED).status == 200
    assert len(backend.groups) == 1
    assert caplog.text == ""


def test_smuggled_and_malformed_requests_are_refused(server: Served, backend: TurnsBackend) -> None:
    start = b"POST /e/key HTTP/1.1\r\nhost: localhost\r\n"
    for head in (
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}   ",
        b"content-length: x\r\n\r\n{}",
        b"content-length: -1\r\n\r\n{}",
        b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"a b: c\r\n\r\n",
    ):
        assert exchange(server, start + head).startswith(b"HTTP/1.1 400"), head
    assert backend.groups == []


def test_a_body_in_many_pieces_is_one_body(server: Served, backend: TurnsBackend) -> None:
    body = json.dumps([NAMED] * 50).encode()
    assert len(server.send(iter([body[i : i + 7] for i in range(0, len(body), 7)])).json["ids"]) == 50
    assert len(backend.groups) == 1


def test_many_senders_at_once(server: Served) -> None:
    def send(_: int) -> tuple[int, str]:
        reply = server.send(NAMED)
        return reply.status, reply.json["ids"][0]

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(send, range(200)))
    assert {status for status, _ in replies} == {200}
    assert len({id_ for _, id_ in replies}) == 200


def test_a_connection_serves_many_requests(server: Served) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=READY_S)) as connection:
        bodies: list[Any] = [NAMED, {"name": ""}, NAMED, [], NAMED]
        statuses = [server.send(body, connection=connection).status for body in bodies]
    assert statuses == [200, 400, 200, 200, 200]


# --- every response


def test_headers_of_every_response(server: Served) -> None:
    for reply in (
        server.send(NAMED), server.send(b"nonsense"), server.get("/health"), server.get("/nowhere"),
        server.get("/e/key"), server.request("OPTIONS", "/e/key"), server.get("/health", headers={"host": "evil"}),
    ):  # fmt: skip
        assert reply.headers["x-inngest-server-kind"] == "dev"
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "server" not in reply.headers


def test_what_a_browser_asks_first(server: Served) -> None:
    reply = server.request(
        "OPTIONS", "/v1/runs/x",
        headers={"origin": "https://x", "access-control-request-method": "GET",
                 "access-control-request-headers": "authorization,x-any"},
    )  # fmt: skip
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-headers"] == "authorization,x-any"
    assert reply.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE, OPTIONS"
    assert reply.headers["access-control-max-age"] == "3600"


def test_wrong_methods_and_paths(server: Served) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        reply = server.request(method, "/e/key")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert reply.json == {"error": "Method Not Allowed", "status": 405}
    assert server.request("POST", "/health").status == 405
    for path in ("/e", "/nowhere", "/v1", "/v1/runs/", "/health/", "/E/key", "//health"):
        reply = server.get(path)
        assert (reply.status, reply.json) == (404, {"error": "Not Found", "status": 404})
    head = server.request("HEAD", "/health")
    assert (head.status, head.body) == (200, b"")


def test_health(server: Served) -> None:
    health = server.get("/health").json
    assert (health["status"], health["message"], health["mode"]) == (200, "OK", "dev")
    assert server.get("/").status == 200


@pytest.mark.parametrize(("is_dev", "apps"), [(True, ["shop"]), (False, [])])
def test_who_asks_for_its_health_is_told_who_it_is_and_in_start_not_what_it_runs(is_dev: bool, apps: list[str]) -> None:
    config = ServerConfig(is_dev=is_dev, event_keys=("k",), apps=("shop",), since_ms=1_000)
    with served(config) as (server, _):
        health = server.get("/health").json
    assert (health["apps"], health["since"]) == (apps, "1970-01-01T00:00:01.000Z")


def test_dev_answers_to_this_machines_names_alone() -> None:
    with served(msgspec.structs.replace(DEV, allow_hosts=("steplog.example",))) as (server, backend):
        for host in ("localhost", f"LOCALHOST:{server.port}", "127.0.0.1:1", "[::1]", f"[::1]:{server.port}",
                     "steplog.example:8288"):  # fmt: skip
            assert server.get("/health", headers={"host": host}).status == 200
            assert server.send(NAMED, headers={"host": host}).status == 200
        backend.groups.clear()
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "evil:8288", "", "[::2]", "\xff"):
            for reply in (server.send(NAMED, headers={"host": host}), server.get("/health", headers={"host": host})):
                assert reply.status == 403
                assert "--allow-host" in reply.json["error"]
        assert backend.groups == []
        assert exchange(server, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")


def test_start_answers_to_any_name() -> None:
    with served(ServerConfig(is_dev=False, event_keys=("k",))) as (server, _):
        assert server.get("/health", headers={"host": "any.example"}).status == 200
