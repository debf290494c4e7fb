"""The event API's rules, on bodies alone."""

import json
import os
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog import json_text
from steplog.engine.ids import decode_ulid, ulid_ms
from steplog.engine.records import StoredEvent
from steplog.errors import EventInvalid
from steplog.server.ingest import MOST_EVENTS, InternalIds, Parsed, parse

NOW_MS = 1_700_000_000_123
YEAR_9999_MS = 253_370_764_800_000
LIMIT_BYTES = 3 << 20
decode_stored = msgspec.json.Decoder(StoredEvent).decode


def parsed(body: object, *, seed: str | None = None, limit_bytes: int = LIMIT_BYTES) -> Parsed:
    ids = InternalIds.of_request(seed, NOW_MS, bytes(range(10)))
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(text, ids, received_ms=NOW_MS, event_size_bytes=limit_bytes, env=0)


def stored(body: object, **options: Any) -> StoredEvent:
    result = parsed(body, **options)
    assert (result.status, result.error) == (200, None)
    (event,) = result.accepted
    return decode_stored(event.body)


def data_of(event: StoredEvent) -> Any:
    return json.loads(bytes(event.data))


def refused(body: object, **options: Any) -> str:
    result = parsed(body, **options)
    assert (result.accepted, result.ids, result.status) == ([], [], 400)
    assert result.error is not None
    return result.error


# --- forms of the body


@pytest.mark.spec("EVT-01", "EVT-02", "EVTW-08")
def test_an_event_with_every_field_is_stored_as_it_was_sent() -> None:
    data = {"deep": {"list": [1, 2.5, None, {"x": "ä"}], "empty": {}}, "meta": 1}
    event = stored({
        "name": "shop/order.placed", "data": data, "id": "o-1", "ts": 1_600_000_000_000, "v": "2023-01-01.2",
        "user": {"email": "a@b.c", "n": 1}, "meta": {"sessions": {"a": "b"}}, "surprise": True,
    })  # fmt: skip
    assert (event.name, event.id, event.ts, event.v) == ("shop/order.placed", "o-1", 1_600_000_000_000, "2023-01-01.2")
    assert data_of(event) == data
    assert json.loads(bytes(event.user)) == {"email": "a@b.c", "n": 1}  # type: ignore[arg-type]
    assert event.received_at == NOW_MS
    assert event.source == "key"


@pytest.mark.spec("EVTW-01")
def test_the_events_of_a_request_are_one_group_in_order() -> None:
    result = parsed([{"name": f"n{number}"} for number in range(300)])
    assert [event.name for event in result.accepted] == [f"n{number}" for number in range(300)]
    assert [event.is_last for event in result.accepted] == [False] * 299 + [True]
    assert result.ids == sorted(result.ids)
    assert len(set(result.ids)) == 300
    assert [decode_ulid(id_) for id_ in result.ids] == [event.internal_id for event in result.accepted]
    assert {ulid_ms(event.internal_id) for event in result.accepted} == {NOW_MS}
    assert all(event.ticket is None for event in result.accepted)


@pytest.mark.parametrize("body", [b"", b" \n", b"[]", b" [ ] "])
def test_no_event_is_no_error(body: bytes) -> None:
    assert msgspec.structs.replace(parsed(body), place="") == Parsed()


@pytest.mark.parametrize(
    "body",
    [b"null", b"1", b'"name"', b"name=a", b"\xef\xbb\xbf{}", '{"name":"a"}'.encode("utf-16"), b"\x00", b"(", b"}"],
)
def test_a_body_that_is_neither_object_nor_array_is_refused(body: bytes) -> None:
    assert refused(body) == "Request body must contain an event object or an array of event objects"


@pytest.mark.spec("EVTW-02")
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"name": ""}', "event name is empty"),
        ("{}", "event name is empty"),
        ('{"name": null}', "event name is empty"),
        ('{"name": 1}', "Expected `str | null`, got `int` - at `$.name`"),
        ("1", "Expected `object`, got `int`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"name": }', "JSON is malformed: invalid character (byte 50)"),
        ('{"name": "d"} {"name": "e"}', "JSON is malformed: a comma or the end of the array is missing (byte 55)"),
        ("", "JSON is malformed: invalid character (byte 41)"),
    ],
)
def test_what_stands_before_the_first_invalid_event_is_accepted(bad: str, reason: str) -> None:
    result = parsed(('[{"name": "a"}, {"name": "b", "id": "x"}' + "," + bad + ',{"name": "c"}]').encode())
    assert [event.name for event in result.accepted] == ["a", "b"]
    assert [event.is_last for event in result.accepted] == [False, True]
    assert [decode_ulid(id_) for id_ in result.ids] == [event.internal_id for event in result.accepted]
    assert (result.status, result.error) == (400, f"events[2]: {reason}")


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"", "JSON is malformed: the array is not closed"),
        (b",", "Input data was truncated"),
        (b"}", "JSON is malformed: a comma or the end of the array is missing (byte 26)"),
        (b'] {"name": "c"}', "JSON is malformed: trailing characters (byte 27)"),
    ],
)
def test_a_malformed_end_leaves_what_was_complete(tail: bytes, reason: str) -> None:
    result = parsed(b'[{"name":"a"},{"name":"b"}' + tail)
    names = [event.name for event in result.accepted]
    assert names == (["a", "b"] if tail[:1] in b",]" and tail else ["a"])
    assert (result.status, result.error) == (400, f"events[{len(names)}]: {reason}")
    single = refused(b'{"name":"a"}' + (tail or b"{"))
    assert single == "JSON is malformed: trailing characters (byte 13)" or b" " in tail


# --- fields


@pytest.mark.spec("CONV-07", "EVT-05", "EVTW-08", "TRP-20", "FAULT-F5", "PY-09")
def test_unset_id_and_time_are_filled_in() -> None:
    unset: dict[str, Any]
    for unset in ({}, {"id": "", "ts": 0}, {"id": None, "ts": None}):
        result = parsed({"name": "a", **unset})
        (event,) = result.accepted
        assert (event.id, event.ts_ms, event.is_repeatable) == (result.ids[0], NOW_MS, False)
        record = decode_stored(event.body)
        assert (record.id, record.internal_id, record.ts) == (result.ids[0], result.ids[0], NOW_MS)


@pytest.mark.spec("EVT-05", "CONV-05", "EVTW-07", "FAULT-F5")
def test_time_is_whole_milliseconds_of_this_age() -> None:
    assert stored({"name": "a", "ts": 315_532_800_000}).ts == 315_532_800_000
    assert stored({"name": "a", "ts": 4_102_444_799_999}).ts == 4_102_444_799_999
    for ts in (-1, 1, 315_532_799_999, 4_102_444_800_000, YEAR_9999_MS, 10**40):
        assert refused({"name": "a", "ts": ts}).startswith(f"event ts is {ts}, it must be milliseconds between 1980")
    wrong: Any
    for wrong in (1_700_000_000_000.5, "1700000000000", True, {}):
        assert refused({"name": "a", "ts": wrong}).startswith("Expected `int | null`")


@pytest.mark.spec("EVT-08", "LIM-05", "ATV-06", "EVTW-07")
def test_names() -> None:
    for name in ("a", "x" * 256, "ä" * 256, "Order Placed\n\x00\u202e😀", "prefix/inngest/", "inngest"):
        assert stored({"name": name}).name == name
    assert refused({"name": "x" * 257}) == "event name has 257 characters, the limit is 256"
    for reserved in ("inngest/function.failed", "INNGEST/x", "Inngest/"):
        assert refused({"name": reserved}) == f"event name is reserved for internal use: {reserved}"


@pytest.mark.spec("EVT-01", "EVTW-07", "PY-09")
def test_data_is_an_object() -> None:
    absent: dict[str, Any]
    wrong: Any
    for absent in ({}, {"data": None}, {"data": {}}):
        assert data_of(stored({"name": "a", **absent})) == {}
    for wrong in ([], [{}], 1, "x", True):
        assert refused({"name": "a", "data": wrong}).startswith("event data is not an object: ")
        assert refused({"name": "a", "user": wrong}).startswith("event user is not an object: ")
    assert stored({"name": "a", "user": None}).user is msgspec.UNSET
    assert refused({"name": "a", "v": 1}).startswith("Expected `str | null`")


@pytest.mark.parametrize("key", ["_inngest", "\\u005finngest", "_in\\u006egest"])
@pytest.mark.parametrize("value", ["null", "1", '{"fn_id": "x"}'])
def test_private_data_is_removed(key: str, value: str) -> None:
    body = f'{{"name": "a", "data": {{"a": 1, "{key}": {value}, "b": {{"_inngest": 1}}, "c": "_inngest"}}}}'
    assert data_of(stored(body.encode())) == {"a": 1, "b": {"_inngest": 1}, "c": "_inngest"}


@pytest.mark.spec("FAULT-I1")
def test_ids_are_stored_exactly_or_refused() -> None:
    ids = [
        " ", "  ", "x" * 10_240, "\x00", "a\x00b", "../../etc/passwd", "\u202eabc", "😀", "é", "e\u0301", "Abc", "abc",
        "null", "0", '"', "\\", "\r\n", "_inngest",
    ]  # fmt: skip
    result = parsed([{"name": "a", "id": id_} for id_ in ids])
    assert result.error is None
    assert [event.id for event in result.accepted] == ids
    assert [decode_stored(event.body).id for event in result.accepted] == ids
    assert all(event.is_repeatable for event in result.accepted)
    wrong: Any
    for wrong in (1, 1.5, True, [], {}):
        assert "$.id" in refused({"name": "a", "id": wrong})
    assert "JSON is malformed" in refused(b'{"name": "a", "id": "\\ud800 abcdef"}')
    assert refused(b'{"name": "a", "id": "\xff"}') == "JSON is not UTF-8"


# --- internal ids


@pytest.mark.spec("EVTW-05")
def test_a_seed_decides_the_ids() -> None:
    result = parsed([{"name": "a"}, {"name": "b", "id": "x"}], seed="1700000000000,AAECAwQFBgcICQ==")
    assert result.ids == ["01HF7YAT00000G40R40M30E20A", "01HF7YAT00000G40R40M30E20B"]
    assert all(event.is_repeatable for event in result.accepted)
    assert result.accepted[0].received_ms == NOW_MS
    wrapped = parsed([{"name": "a"}, {"name": "b"}], seed="1,AAAAAAAA/////w==")
    assert [decode_ulid(id_)[-4:].hex() for id_ in wrapped.ids] == ["00000000", "00000001"]


@pytest.mark.spec("EVTW-05")
@pytest.mark.parametrize(
    "seed",
    [
        "", ",", "1700000000000", "1700000000000,", "0,AAECAwQFBgcICQ==", "-1,AAECAwQFBgcICQ==",
        "1.5,AAECAwQFBgcICQ==", "x,AAECAwQFBgcICQ==", "1700000000000,AAECAwQFBgcI", "1700000000000,AAECAwQFBgcICQ",
        "1700000000000,AAECAwQFBgcICQkJ", "1700000000000,AAECAwQFBgcIC_==", "1,AAECAwQFBgcICQ==,1",
        "999999999999999,AAECAwQFBgcICQ==", "9" * 5000 + ",AAECAwQFBgcICQ==", "١,AAECAwQFBgcICQ==",
    ],
)  # fmt: skip
def test_a_malformed_seed_is_ignored(seed: str) -> None:
    result = parsed([{"name": "a"}], seed=seed)
    assert (result.status, result.accepted[0].is_repeatable) == (200, False)
    assert ulid_ms(decode_ulid(result.ids[0])) == NOW_MS


def test_ids_of_one_request_are_in_order_whatever_the_entropy() -> None:
    for entropy in (b"\xff" * 10, b"\x00" * 10, os.urandom(10)):
        ids = InternalIds.of_request(None, NOW_MS, entropy)
        assert ids.nth(1) < ids.nth(2) < ids.nth(MOST_EVENTS)


# --- limits


@pytest.mark.spec("LIM-06", "EVTW-02")
def test_an_event_over_its_limit_is_named_and_the_ones_before_stay() -> None:
    event = b'{"name":"a","data":{"x":"' + b"x" * 72 + b'"}}'
    assert len(event) == 100
    assert parsed(event, limit_bytes=100).status == 200
    assert parsed(b" " + event + b" ", limit_bytes=100).status == 200
    result = parsed(b"[ " + event + b" , " + event.replace(b"xx", b"xxx", 1) + b"]", limit_bytes=100)
    assert (result.status, len(result.ids), len(result.accepted)) == (413, 1, 1)
    assert result.accepted[0].is_last
    assert result.error is not None
    assert result.error.startswith("events[1]: Event is over the max size: it is 101 bytes, the limit is 100")


@pytest.mark.spec("LIM-07", "ATV-05")
def test_five_thousand_events_and_no_more() -> None:
    assert len(parsed(b"[" + b",".join([b'{"name":"a"}'] * 5_000) + b"]").ids) == 5_000
    for body in ([b'{"name":"a"}'] * 5_001, [b"1"] * 200_000, [b'{"name":"a"}', b"{}", *[b"[]"] * 200_000]):
        assert refused(b"[" + b",".join(body) + b"]") == "Cannot have more than 5000 events in a batch"


# --- hostile JSON

DEEP = 10_000
HOSTILE = {
    "depth": (b'{"name":"a","data":{"x":' + b"[" * DEEP + b"]" * DEEP + b"}}", 400),
    "depth of objects": (b'{"name":"a","data":{"x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}}", 400),
    "depth of the array": (b"[" * DEEP + b"]" * DEEP, 400),
    "depth, open": (b"[" * 1_000_000, 400),
    "depth 201": (b'{"name":"a","data":{"x":' + b"[" * 199 + b"]" * 199 + b"}}", 400),
    "depth 200": (b'{"name":"a","data":{"x":' + b"[" * 198 + b"]" * 198 + b"}}", 200),
    "depth in a dropped key": (b'{"name":"a","x":' + b"[" * 201 + b"]" * 201 + b"}", 400),
    "brackets in strings": (b'{"name":"a","data":{"x":"' + b'[{\\"\\\\' * 5_000 + b'"}}', 200),
    "many brackets": (b'{"name":"a","data":{"x":[' + b"[]," * 300_000 + b"1]}}", 200),
    "many keys": (b'{"name":"a","data":{' + b",".join(b'"%x":1' % n for n in range(250_000)) + b'}}', 200),
    "a million keys": (b'{"name":"a","data":{' + b",".join(b'"%x":1' % n for n in range(1_000_000)) + b'}}', 413),
    "duplicate keys": (b'{"name":"a","data":{' + b'"a":1,' * 100_000 + b'"a":2}}', 200),
    "duplicate names": (b'{"name":"a","name":"b","data":null,"data":{}}', 200),
    "digits": (b'{"name":"a","data":{"x":' + b"9" * 1_000_000 + b"}}", 400),
    "digits of ts": (b'{"name":"a","ts":' + b"9" * 1_000_000 + b"}", 400),
    "many digits": (b'{"name":"a","data":{"x":[' + b",".join([b"9" * 4_299] * 100) + b"]}}", 400),
    "digits of a double": (b'{"name":"a","data":{"x":[' + b",".join([b"9" * 308] * 3_000) + b"]}}", 200),
    "exponent": (b'{"name":"a","data":{"x":1e400}}', 400),
    "exponent +": (b'{"name":"a","data":{"x":-1E+309}}', 400),
    "largest double": (b'{"name":"a","data":{"x":1.7976931348623157e+308,"y":"1e999"}}', 200),
    "smallest double": (b'{"name":"a","data":{"x":[5e-324,1e-400]}}', 200),
    "doubles that are hard to read": (
        b'{"name":"a","data":{"x":[' + b",".join([b"2.2250738585072011e-308"] * 50_000) + b"]}}", 200,
    ),
    "doubles near the limit": (b'{"name":"a","data":{"x":[' + b",".join([b"1.797693134e308"] * 20_000) + b"]}}", 200),
    "NaN": (b'{"name":"a","data":{"x":NaN}}', 400),
    "Infinity": (b'{"name":"a","data":{"x":-Infinity}}', 400),
    "prototype": (b'{"name":"a","data":{"__proto__":{"x":1},"constructor":1}}', 200),
    "lone surrogate": (b'{"name":"a","data":{"x":"\\udc00"}}', 400),
    "bad UTF-8": (b'{"name":"a","data":{"x":"\xc3\x28"}}', 400),
    "surrogate in UTF-8": (b'{"name":"a","data":{"x":"\xed\xa0\x80"}}', 400),
    "bad UTF-8 in a dropped key": (b'{"name":"a","x":"\xff"}', 400),
    "control character": (b'{"name":"a","data":{"x":"\x01"}}', 400),
    "BOM": (b'\xef\xbb\xbf{"name":"a"}', 400),
    "UTF-16": ('{"name":"a"}'.encode("utf-16-le"), 400),
    "UTF-32": ('{"name":"a"}'.encode("utf-32"), 400),
    "strings": (b'{"name":"a","data":{"x":[' + b'"",' * 500_000 + b"1e300]}}", 200),
}  # fmt: skip


def timed(body: bytes, limit_ms: float) -> tuple[Parsed, float]:
    """Parse, and take the time of the CPU; again, where the machine was busy with something else."""
    for _ in range(4):
        began = time.thread_time()
        result = parsed(body)
        cpu_ms = (time.thread_time() - began) * 1000
        if cpu_ms < limit_ms:
            break
    return result, cpu_ms


@pytest.mark.spec("FAULT-I2")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_or_data(name: str) -> None:
    body, status = HOSTILE[name]
    result, cpu_ms = timed(body, 10 + 50 * len(body) / 1e6)
    assert result.status == status, result.error
    assert len(result.accepted) == (status == 200)
    assert result.error is None or len(result.error) < 500
    assert cpu_ms < 10 + 50 * len(body) / 1e6
    if result.accepted:
        msgspec.json.decode(result.accepted[0].body)
        assert result.accepted[0].name in ("a", "b")


@pytest.mark.spec("FAULT-I2")
@pytest.mark.parametrize("unit", [b"1,", b"{},", b"[],", b"[", b'{"name":"a"},', b'"', b" ", b"[1,"])
def test_a_body_of_the_largest_size_is_refused_quickly(unit: bytes) -> None:
    result, cpu_ms = timed(b"[" + unit * ((32 << 20) // len(unit)), 32 * 50)
    assert result.status == 400
    assert cpu_ms < 32 * 50


def test_every_event_is_checked_not_the_first_alone() -> None:
    result = parsed(b'[{"name":"a"},{"name":"b","data":{"x":1e400}}]')
    assert (len(result.ids), result.status) == (1, 400)
    assert result.error == "events[1]: JSON has a number beyond the range of a double: 1e400"


# --- properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(['"', "\\", '[{"', "1e999", "_inngest", "\\u00", "e000"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=20,
)  # fmt: skip
good_events = st.fixed_dictionaries(
    {"name": st.text(min_size=1, max_size=20).filter(lambda name: not name.lower().startswith("inngest/"))},
    optional={
        "data": st.none() | st.dictionaries(st.text(max_size=5), json_values, max_size=3),
        "id": st.none() | st.text(max_size=10),
        "ts": st.none() | st.just(0) | st.integers(315_532_800_000, 4_102_444_799_999),
        "v": st.none() | st.text(max_size=10),
        "user": st.none() | st.dictionaries(st.text(max_size=5), json_values, max_size=2),
    },
)
bad_events = st.sampled_from(
    [{}, {"name": ""}, {"name": 1}, {"name": "a", "data": []}, {"name": "a", "id": 5}, {"name": "a", "ts": 1}, 7, None]
)
spaces = st.sampled_from([None, 0, 2])


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b'[{"name":"a"},' + tail))
def test_any_bytes_come_to_a_typed_result(body: bytes) -> None:
    result = parsed(body)
    assert len(result.ids) == len(result.accepted)
    assert (result.status == 200) == (result.error is None)
    assert [event.is_last for event in result.accepted] == [False] * (len(result.ids) - 1) + [True] * bool(result.ids)
    for event in result.accepted:
        decode_stored(event.body)


@given(st.lists(good_events, max_size=5), st.lists(good_events | bad_events, max_size=3), spaces, st.booleans())
def test_accepted_is_exactly_the_prefix_before_the_first_invalid_event(
    good: list[dict[str, Any]], rest: list[Any], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps([*good, {"name": ""}, *rest], indent=indent, ensure_ascii=ascii_only)
    result = parsed(body.encode())
    assert (result.status, result.error) == (400, f"events[{len(good)}]: event name is empty")
    for sent, event in zip(good, result.accepted, strict=True):
        record = decode_stored(event.body)
        assert (event.name, record.name) == (sent["name"], sent["name"])
        data = sent.get("data") or {}
        assert data_of(record) == {key: value for key, value in data.items() if key != "_inngest"}
        assert record.id == (sent.get("id") or record.internal_id)
        assert record.ts == (sent.get("ts") or NOW_MS)


@given(st.lists(json_values, max_size=6), spaces, st.booleans(), st.binary(max_size=3))
def test_an_array_splits_alike_at_once_and_one_by_one(
    values: list[Any], indent: int | None, ascii_only: bool, tail: bytes
) -> None:
    body = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    at_once, problem = json_text.elements(body, 10)
    assert problem is None
    assert [json.loads(text) for text in at_once] == values
    if values:
        assert json_text._elements_one_by_one(body, 10) == (at_once, None)
        cut, problem = json_text._elements_one_by_one(body[:-1] + b"," + tail, 10)
        assert cut[: len(values)] == at_once
        assert problem is not None or len(cut) > len(values)


def depth(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
        case _:
            return 0


@given(json_values, st.integers(0, 210), st.booleans())
def test_depth_is_that_of_the_value(value: Any, around: int, is_object: bool) -> None:
    body = json.dumps(value)
    body = '{"[":' * around + body + "}" * around if is_object else "[" * around + body + "]" * around
    is_deep = around + depth(value) > json_text.MAX_DEPTH
    if is_deep:
        with pytest.raises(EventInvalid, match="deeper than 200"):
            json_text.check(body.encode())
    else:
        json_text.check(body.encode())


numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,330})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?\Z")


@given(st.lists(numbers | st.text(max_size=6).map(json.dumps), max_size=4))
def test_a_number_is_refused_exactly_where_it_is_no_double(parts: list[str]) -> None:
    text = "[" + ",".join(parts) + "]"
    is_beyond = any(part[0] != '"' and float(part) in (float("inf"), float("-inf")) for part in parts)
    if is_beyond:
        with pytest.raises(EventInvalid, match="beyond the range"):
            json_text.check(text.encode())
    else:
        json_text.check(text.encode())
        msgspec.json.decode(text)
