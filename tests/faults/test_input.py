"""Hostile input to a real ``steplog start``: ids, JSON, HTTP and clients that do not come to an end (I1, I2, I3)."""

import contextlib
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .hostile import EVENT_KEY, SIGNING_KEY, Target, until

MIB = 1 << 20
MOST_GROWTH_BYTES = 200 * MIB  # of the engine's process, over all of this module; most of it the allocator's


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Target(tmp_path_factory.mktemp("target"), "limits.event_size=3MiB") as target:
        target.send({"name": "shop/warm"})
        yield target
        target.assert_lives()
        assert target.stop() == 0


@pytest.fixture
def unchanged(target: Target) -> Iterator[None]:
    """The test leaves no event behind, the processes as they are, and the memory bounded."""
    before_bytes, events = target.rss_bytes(), len(target.routed())
    yield
    target.assert_lives()
    assert len(target.routed()) == events + 1
    assert target.rss_bytes() - before_bytes < MOST_GROWTH_BYTES


# --- I1

IDS = [
    " ", "  ", "x" * 10_240, "\0", "a\0b", "../", "../../etc/passwd", "\u202eabc", "😀", "Abc", "abc", "ABC", "é",
    "e\u0301", "null", "0", "\r\n", "'; DROP TABLE event", "_inngest", "%00", "/", "\ufeff",
]  # fmt: skip


@pytest.mark.spec("FAULT-I1", "EVT-14")
def test_ids_are_stored_exactly_and_each_starts_one_run(target: Target) -> None:
    events = [{"name": "shop/counted", "id": id_, "data": {"n": 1}} for id_ in IDS]
    first, again = target.send(events).ids, target.send(events).ids
    assert [target.get(f"/v1/events/{internal}")["id"] for internal in first] == IDS
    assert [len(target.get(f"/v1/events/{internal}/runs")) for internal in first] == [1] * len(IDS)
    assert [target.get(f"/v1/events/{internal}")["duplicate"] for internal in again] == [True] * len(IDS)


@pytest.mark.spec("FAULT-I1")
def test_an_empty_id_is_none_and_what_is_no_text_is_refused(target: Target, unchanged: None) -> None:
    for wrong in ("5", "0", "1.5", "true", "[]", "{}", '"\\ud800"', '"\\ud800\\u0041"'):
        reply = target.send(b'{"name": "shop/counted", "id": ' + wrong.encode() + b"}")
        assert (reply.status, reply.ids) == (400, []), wrong


@pytest.mark.spec("FAULT-I1")
def test_events_with_an_empty_id_or_null_have_one_of_their_own(target: Target) -> None:
    sent = target.send(b'[{"name":"shop/counted","id":""},{"name":"shop/counted","id":null},{"name":"shop/counted"}]')
    found = [target.get(f"/v1/events/{internal}") for internal in sent.ids]
    assert [event["id"] for event in found] == sent.ids
    assert [len(event["runs"]) for event in found] == [1, 1, 1]


@pytest.mark.spec("FAULT-I1")
def test_signals_and_functions_are_asked_for_by_their_exact_names(target: Target, unchanged: None) -> None:
    for name in ("s", " ", "\0", "../x", "\u202es", "x" * 256):
        reply = target.request("POST", "/v1/signals", json.dumps({"signal": name}).encode())
        assert reply.status == 404, name
    for name in ('""', '"' + "x" * 257 + '"', "5", "null", '"\\ud800"'):
        reply = target.request("POST", "/v1/signals", b'{"signal": ' + name.encode() + b"}")
        assert reply.status == 400, name
    for path in ("shop-COUNT", "shop-count%00", "../shop-count", "shop-count/", "", "%ff", "x" * 10_240):
        assert target.request("POST", f"/invoke/{path}", b"{}").status == 404, path
    for path in ("events/../../etc", "runs/%00", "runs/" + "0" * 10_240, "events/5"):
        assert target.request("GET", f"/v1/{path}").status in (400, 404), path


# --- I2

DEEP = 10_000
BOMBS = {
    "depth": b'{"name":"a","data":{"x":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "depth of objects": b'{"name":"a","data":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "depth of the body": b"[" * DEEP + b"]" * DEEP,
    "depth without an end": b"[" * MIB,
    "depth 201": b'{"name":"a","data":{"x":' + b"[" * 199 + b"]" * 199 + b"}}",
    "a number of a million digits": b'{"name":"a","data":{"x":' + b"9" * 1_000_000 + b"}}",
    "a million digits in ts": b'{"name":"a","ts":' + b"9" * 1_000_000 + b"}",
    "an exponent": b'{"name":"a","data":{"x":1e999999999}}',
    "NaN": b'{"name":"a","data":{"x":NaN}}',
    "BOM": b'\xef\xbb\xbf{"name":"a"}',
    "UTF-16": '{"name":"a"}'.encode("utf-16"),
    "UTF-16 without BOM": '{"name":"a"}'.encode("utf-16-be"),
    "half a surrogate pair": b'{"name":"a","data":{"x":"\\ud800"}}',
    "no UTF-8": b'{"name":"a","data":{"x":"\xff"}}',
    "many empty events": b"[" + b"{}," * 2_000_000 + b"{}]",
}
A_MILLION_KEYS = b",".join(b'"%x":1' % n for n in range(1_000_000))


@pytest.mark.spec("FAULT-I2")
def test_json_bombs_are_refused_by_a_server_that_lives_on(target: Target, unchanged: None) -> None:
    for name, body in BOMBS.items():
        reply = target.send(body)
        assert (reply.status, reply.ids) == (400, []), name
        assert len(reply.error) < 500, name
    assert target.send(b'{"name":"a","data":{' + A_MILLION_KEYS + b"}}").status == 413


@pytest.mark.spec("FAULT-I2")
@pytest.mark.parametrize("path", ["/v1/signals", "/invoke/shop-count"])
def test_json_bombs_for_what_else_takes_json(target: Target, unchanged: None, path: str) -> None:
    head = b'{"signal":"s","data":'
    for data in (
        b"[" * DEEP + b"]" * DEEP, b'{"x":' + b"[" * 199 + b"]" * 199 + b"}" if "invoke" in path else b"[" * 200,
        b'{"x":' + b"9" * 1_000_000 + b"}", b'{"x":"\xff"}', b'{"x":"\\udc00"}', b'{"x":NaN}', b'{"x":',
    ):  # fmt: skip
        reply = target.request("POST", path, head + data + b"}")
        assert reply.status == 400, data[:40]
        assert len(reply.error) < 500
    for body in (b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"[" * MIB, b"[]", b"5"):
        assert target.request("POST", path, body).status == 400, body[:40]
    assert target.request("POST", path, b" " * (3 * MIB + 1)).status == 413


@pytest.mark.spec("FAULT-I2")
def test_odd_data_that_is_json_comes_out_as_it_went_in(target: Target) -> None:
    odd = b'{"__proto__":{"x":1},"constructor":null,"a":1,"a":2,"\\u0000":"\\u0000","":{"":[]},"big":1e308}'
    sent = target.send(b'{"name":"shop/counted","data":' + odd + b"}").ids
    sent += target.send(b'{"name":"shop/counted","data":{' + b'"a":1,' * 100_000 + b'"a":2}}').ids
    sent += target.send(b'{"name":"shop/counted","data":{' + A_MILLION_KEYS[: 2 * MIB].rpartition(b",")[0] + b"}}").ids
    outputs = []
    for internal in sent:
        (run,) = target.get(f"/v1/events/{internal}/runs")
        outputs.append(target.get(f"/v1/runs/{run['run_id']}?wait=20s")["output"])
    assert outputs[:2] == [6, 1]
    assert outputs[2] > 200_000
    assert target.get(f"/v1/events/{sent[0]}")["data"] == json.loads(odd)


# --- I3


@pytest.mark.spec("FAULT-I3")
def test_compressed_bodies_are_never_unpacked(target: Target, unchanged: None) -> None:
    bomb = gzip.compress(b" " * (100 * MIB))
    for encoding in ("gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"):
        assert target.send(bomb, {"content-encoding": encoding}).status == 415
    assert target.send(bomb).status == 400
    assert target.request("POST", "/invoke/shop-count", bomb, {"content-encoding": "gzip"}).status == 400


def head(*lines: str) -> bytes:
    start = [f"POST /e/{EVENT_KEY} HTTP/1.1", "host: localhost", *lines]
    return "\r\n".join([*start, "", ""]).encode()


EVENT = b'{"name":"shop/smuggled"}'
SMUGGLED = head(f"content-length: {len(EVENT)}") + EVENT


@pytest.mark.spec("FAULT-I3")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head("content-length: 5", "transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED, id="both"),
        pytest.param(head("transfer-encoding: chunked", "content-length: 5") + b"0\r\n\r\n" + SMUGGLED, id="turned"),
        pytest.param(head("content-length: 2", "content-length: 3") + b"{} " + SMUGGLED, id="two lengths"),
        pytest.param(head("content-length: -1") + SMUGGLED, id="negative"),
        pytest.param(head("content-length: 99999999999999999999") + SMUGGLED, id="beyond 64 bits"),
        pytest.param(head("content-length: 0x10") + SMUGGLED, id="hexadecimal"),
        pytest.param(head("transfer-encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n", id="no size of a chunk"),
        pytest.param(head("transfer-encoding: chunked") + b"fffffffffffffffff\r\n" + SMUGGLED, id="an endless chunk"),
        pytest.param(head("transfer-encoding: chunked") + b"5\r\n{}\r\n0\r\n\r\n" + SMUGGLED, id="a short chunk"),
        pytest.param(head("transfer-encoding: xchunked") + SMUGGLED, id="another encoding"),
        pytest.param(head("transfer-encoding : chunked") + b"0\r\n\r\n" + SMUGGLED, id="a space before the colon"),
        pytest.param(head(f"content-length: {len(EVENT) + 5}") + EVENT, id="more was announced"),
        pytest.param(head("a: b\r\n c") + SMUGGLED[:-1], id="a folded line"),
        pytest.param(b"\x16\x03\x01\x02\x00" * 50, id="TLS"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n" + b"\0" * 100, id="another version"),
    ],
)  # fmt: skip
def test_what_is_not_one_request_smuggles_nothing_in(target: Target, unchanged: None, sent: bytes) -> None:
    answers = target.exchange(sent)
    assert b"HTTP/1.1 200" not in answers, answers


@pytest.mark.spec("FAULT-I3")
def test_a_body_longer_than_announced_is_cut_and_the_rest_is_no_request(target: Target, unchanged: None) -> None:
    answers = target.exchange(head("content-length: 4") + b"[1] " + b'{"name":"shop/smuggled"}')
    assert answers.count(b"HTTP/1.1") == answers.count(b"HTTP/1.1 400") >= 1


@pytest.mark.spec("FAULT-I3")
def test_a_thousand_slow_clients_hold_nobody_up(target: Target) -> None:
    """Half a head, half a body, and answers that are not read; how long each may take is in core's test_listen.py."""
    before_bytes = target.rss_bytes()
    answer = f"GET /v1/runs?limit=100 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SIGNING_KEY}\r\n\r\n"
    beginnings = [
        head()[:40], head("content-length: 100000") + b'{"name": "' + b"x" * 1_000,
        head("transfer-encoding: chunked") + b"400\r\n" + b" " * 1_000, b"", answer.encode() * 3,
    ]  # fmt: skip

    def send(number: int) -> int:
        return target.send({"name": "shop/counted", "id": f"beside-{number}"}).status

    with contextlib.ExitStack() as slow:
        for number in range(1_000):
            slow.enter_context(contextlib.closing(target.open(beginnings[number % len(beginnings)])))
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(send, range(100))) == {200}
        assert target.rss_bytes() - before_bytes < MOST_GROWTH_BYTES
    target.assert_lives()
    until(lambda: target.rss_bytes() - before_bytes < MOST_GROWTH_BYTES)
