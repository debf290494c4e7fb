"""Expressions: each rule of the package's table, each error of the compiler, and the bounds."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.cel import EVENT_AND_ASYNC, compile_filter, compile_key, compile_number, functions, value_at
from steplog.errors import EvaluationError, ExpressionInvalid, SteplogError

EVENT: dict[str, Any] = {
    "name": "shop/order.placed",
    "id": "e1",
    "ts": 1_700_000_000_000,
    "data": {
        "id": "o1", "other": "o1", "text": "Grüße", "empty": "", "amount": 150, "whole": 150.0, "half": 1.5, "zero": 0,
        "yes": True, "no": False, "nothing": None, "tags": ["a", "b"], "numbers": [1, 2, 3], "mixed": [1, "a", None],
        "user": {"name": "Ada", "age": 36}, "items": [{"price": 5}, {"price": 20}], "max": 2**63 - 1,
        "at": "2026-01-31T12:30:15.25Z", "b-c": 1,
    },
}  # fmt: skip


def holds(text: str, event: object = EVENT) -> bool:
    return compile_filter(text).evaluate(event)


def key(text: str) -> str:
    return compile_key(text).evaluate(EVENT)


def fails(text: str) -> str:
    with pytest.raises(EvaluationError) as error:
        compile_key(text).evaluate(EVENT)
    return str(error.value)


def refused(text: str, variables: tuple[str, ...] = ("event",)) -> ExpressionInvalid:
    with pytest.raises(ExpressionInvalid) as error:
        compile_filter(text, variables)
    return error.value


TRUE = {
    "missing fields": [
        "event.data.x == null", "null == event.data.x", "event.data.x.y.z == null", "event.data.nothing == null",
        "event.data.id.x == null", "event.data.tags.x == null", "event.data.nothing.x == null",
        'event.data["x"] == null', "event.data.tags[2] == null", "event.data.tags[-1] == null",
        'event.data.tags["a"] == null', "event.data.user[0] == null", "event.data.items[0].x == null",
        "event.data.tags[0.5] == null", "event.data.items.map(i, i)[7].x == null", "(event.data.x) == null",
        "!(event.data.x == event.data.y)", "event.data.x != event.data.y", "event.data.x != event.data.x",
        "!(event.data.x == event.data.nothing)", "event.data.x != event.data.nothing", 'event.data.x != "a"',
        "!(event.data.x != null)", "event.data.id != null", "!(event.data.x < 1)", "!(event.data.x >= 1)",
        '!("a" < event.data.x)', "!(event.data.x <= event.data.x)", "!(event.data.x.y == false)",
        "!(event.data.x in [1])", "!(1 in event.data.x)", '!(event.data.x in ["a"])', '!("x" in event.data.none)',
        "(event.data.yes ? event.data.x : 1) == null",
    ],
    "has": [
        "has(event.data.id)", "has(event.data.nothing)", "!has(event.data.x)", "!has(event.data.x.y)",
        "!has(event.data.id.x)", "has(event.data.user.name)", 'has(event.data["b-c"])',
        "has(event.data.items[1].price)", "!has(event.data.items[2])",
    ],
    "equality": [
        "event.data.amount == 150", "event.data.amount == 150.0", "event.data.whole == 150", "150 == event.data.whole",
        "event.data.amount == event.data.whole", "1 == 1.0", "0 == -0.0", "event.data.half == 1.5",
        "event.data.id == event.data.other", 'event.data.id == "o1"', "event.data.id == 'o1'", '"o1" == event.data.id',
        'event.data.amount != "150"', '!("1" == 1)', "event.data.yes == true", "event.data.yes != 1",
        "!(event.data.amount == true)", "1 != true", "0 != false", "!(null == false)", "null == null",
        "[1, 2] == [1.0, 2.0]", "[1] != [true]", "[] == []", "[] != {}", "[1] != [1, 2]", '{"a": 1} == {"a": 1.0}',
        '{"a": 1} != {"b": 1}', '{"a": 1} != {"a": 1, "b": 2}', '{"a": [null]} == {"a": [null]}',
        "event.data.user == event.data.user", "event.data.numbers == [1, 2, 3]",
        "event.data.max == 9223372036854775807",
        "event.data.max != 9223372036854775807.0", "b'a' == bytes('a')", "b'a' != 'a'",
        "event.ts < 1800000000000", "event.ts > 1.5",
    ],
    "order": [
        "1 < 2", "1 < 1.5", "2 >= 2.0", "event.data.amount > 100", "100 < event.data.amount", '"a" < "b"', '"Z" < "a"',
        'event.data.id <= "o2"', "false < true", "b'a' < b'b'", "event.data.half <= event.data.amount",
        "duration('1m') > duration('59s')", "timestamp(0) < timestamp('2026-01-01T00:00:00Z')",
    ],
    "logic": [
        "true && true", "false || true", "!false", "!!true", "true || event.data.x", "event.data.x || true",
        "!(event.data.x && false)", "!(false && event.data.id)", "event.data.id || event.data.yes",
        "1 / 0 == 1 || true", "!(1 / 0 == 1 && false)", "event.data.x > 1 || 1 / 0 == 1 || event.data.yes",
        "!(event.data.yes && 1 / 0 == 1 && event.data.no)", "(false || false || true) && true",
        "event.data.yes ? event.data.yes : event.data.x", "event.data.no ? false : event.data.no ? false : true",
    ],
    "in": [
        "1 in [1, 2]", "1.0 in [1]", "!(true in [1])", '"a" in event.data.tags', '!("c" in event.data.tags)',
        'event.data.id in ["o1", "o2"]', "!(event.data.amount in ['150'])", '"name" in event.data.user',
        "!(1 in event.data.user)", "null in event.data.mixed", "[1] in [[1.0]]", "!(1 in [])", "!('a' in {})",
    ],
    "arithmetic": [
        "1 + 2 * 3 == 7", "(1 + 2) * 3 == 9", "7 / 2 == 3", "-7 / 2 == -3", "7 / -2 == -3", "7 % 3 == 1",
        "-7 % 3 == -1", "7 % -3 == 1", "7.0 / 2 == 3.5", "event.data.amount * 1.5 == 225",
        "event.data.amount - 1 == 149", "5 - -5 == 10",
        "-event.data.amount == -150", "- 1 == -1", "event.data.amount -1 == 149", '"a" + "b" == "ab"',
        "[1] + [2] == [1, 2]", "b'a' + b'b' == b'ab'", "0x1F == 31", "-0x1f == -31", "1u == 1",
        "1e2 == 100", ".5 == 0.5",
        "-9223372036854775808 < 0", "9223372036854775807 + 0 > 0", "007 == 7",
    ],
    "literals": [
        r'"\"" != ""', r"'\'' != ''", r'"\n\t\r\\" != ""', r'"\x41\101\u0041\U00000041" == "AAAA"',
        r'r"\d" == "\\d"', r"R'\' == '\\'", r'"\a\b\f\v\?\`" != ""', '"""a"b\nc""" == "a\\"b\\nc"',
        r"'''it''s''' == 'it\'\'s'", r'b"\xff\101é" == b"\377A\xc3\xa9"', 'br"\\x" == b"\\\\x"', "\"\" == ''",
        '"ü".size() == 1', "[1, [2]][1][0] == 2", '{"a": {"b": 1}}.a.b == 1', '{"a-b": 1}["a-b"] == 1',
        "event.data.true == null", "event.data.in == null", "event // a comment\n .data.id == 'o1'", '"//" != ""',
    ],
    "functions": [
        "size('Grüße') == 5", "event.data.text.size() == 5", "size([1, 2]) == 2", "event.data.user.size() == 2",
        "size(b'\\xff') == 1", 'event.data.text.contains("rü")', '!event.data.text.contains("x")',
        'event.data.text.startsWith("Gr")', 'event.data.text.endsWith("ße")', '"".contains("")',
        "event.data.text.matches('^G.*e$')", "matches(event.data.text, 'ü')", "!event.data.id.matches('^1')",
        "event.data.id.matches(event.data.other)", "string(1) == '1'", "string(1.0) == '1'", "string(1.5) == '1.5'",
        "string(true) == 'true'", "string('a') == 'a'", "string(b'a') == 'a'", "int('-12') == -12", "int(1.9) == 1",
        "int(-1.9) == -1", "int(5) == 5", "int(timestamp(7)) == 7", "uint(3) == 3", "double('1.5e3') == 1500",
        "double(2) == 2.0", "bool('true')", "bool(true)", "!bool('false')", "dyn(1) == 1", "bytes(b'a') == bytes('a')",
    ],
    "times": [
        "timestamp('2026-01-31T12:00:00+02:00') == timestamp('2026-01-31T10:00:00Z')",
        "timestamp(timestamp(0)) == timestamp('1970-01-01T00:00:00Z')",
        "timestamp(1.5) - timestamp(0) == duration('1.5s')", "timestamp(0) + duration('1h30m') == timestamp(5400)",
        "duration('1h') + timestamp(0) == timestamp(3600)", "timestamp(60) - duration('1m') == timestamp(0)",
        "duration('1s') + duration('1ms') == duration('1001ms')", "duration('1s') - duration('2s') == duration('-1s')",
        "duration(duration('0')) == duration('0s')", "string(timestamp(event.data.at)) == event.data.at",
        "string(timestamp(0)) == '1970-01-01T00:00:00Z'", "string(duration('-1m0.5s')) == '-60.5s'",
        "string(timestamp('0001-01-01T00:00:00Z')) == '0001-01-01T00:00:00Z'",
        "timestamp(event.data.at).getFullYear() == 2026", "timestamp(event.data.at).getMonth() == 0",
        "timestamp(event.data.at).getDate() == 31", "timestamp(event.data.at).getDayOfMonth() == 30",
        "timestamp(event.data.at).getDayOfWeek() == 6", "timestamp(event.data.at).getDayOfYear() == 30",
        "timestamp(event.data.at).getHours() == 12", "timestamp(event.data.at).getHours('Asia/Tokyo') == 21",
        "timestamp(event.data.at).getMinutes() == 30", "timestamp(event.data.at).getSeconds() == 15",
        "timestamp(event.data.at).getMilliseconds() == 250", "duration('90m').getHours() == 1",
        "duration('-90s').getMinutes() == -1", "duration('90s').getSeconds() == 90",
        "duration('1.25s').getMilliseconds() == 250", "timestamp(event.ts / 1000) > timestamp('2023-01-01T00:00:00Z')",
    ],
    "macros": [
        "event.data.numbers.all(n, n > 0)", "!event.data.numbers.all(n, n > 1)", "event.data.numbers.exists(n, n == 2)",
        "!event.data.numbers.exists(n, n == 9)", "event.data.numbers.exists_one(n, n > 2)",
        "!event.data.numbers.exists_one(n, n > 1)", "event.data.numbers.map(n, n * 2) == [2, 4, 6]",
        "event.data.numbers.map(n, n > 1, n * 2) == [4, 6]", "event.data.numbers.filter(n, n > 1) == [2, 3]",
        "event.data.items.exists(i, i.price > 10)", "event.data.user.exists(k, k == 'age')",
        "event.data.user.all(k, has(event.data.user[k]))", "[].all(x, false)", "![].exists(x, true)",
        "[1, 2].exists(x, [3, 4].exists(y, x + y == 6))",
        "[1, 2].map(x, [10, 20].map(y, x + y)) == [[11, 21], [12, 22]]",
        "event.data.mixed.exists(x, x > 0)", "!event.data.mixed.all(x, x > 1)", "[0, 1].exists(x, 1 / x == 1)",
        "[1].exists(event, event == 1)", "event.data.mixed.exists(x, x.y == null)",
    ],
}  # fmt: skip

FAILS = {
    "event.data.x + 'a'": "event.data.x is missing",
    'event.data["x"].y.size()': "event.data['x'].y is missing",
    "size(event.data.tags[9])": "event.data.tags[9] is missing",
    "string(event.data.items.map(i, i)[0].x)": "…[0].x is missing",
    "event.data.x ? 1 : 2": "event.data.x is missing",
    "event.data.x && true": "event.data.x is missing",
    "[event.data.x]": "event.data.x is missing",
    '{"a": event.data.x}': "event.data.x is missing",
    "event.data.x.all(y, true)": "event.data.x is missing",
    "(event.data.no ? 1 : event.data.x) + 1": "what ?: chose is missing",
    "-event.data.tags[event.data.zero + 7]": "event.data.tags[…] is missing",
    '"150" > 100': "a string and a number have no order",
    "event.data.id > 100": "a string and a number have no order",
    "null < 1": "a null and a number have no order",
    "true < 1": "a bool and a number have no order",
    "[1] < [2]": "a list and a list have no order",
    "1 in 'abc'": "in looks into a list or a map, not into a string",
    "1 + 'a'": "a number and a string cannot be added; string() makes text of a value",
    "true + 1": "a bool and a number cannot be added; string() makes text of a value",
    "'a' - 'b'": "a string cannot be subtracted from a string",
    "'a' * 2": "* needs two numbers, not a string and a number",
    "1 / true": "/ needs two numbers, not a number and a bool",
    "1.5 % 2": "% needs two integers",
    "-'a'": "- needs a number, not a string",
    "!1": "! needs a bool, not a number",
    "1 / 0": "division by zero",
    "1 % 0": "division by zero",
    "1.0 / 0.0": "division by zero",
    "event.data.max + 1": "the integer needs more than 64 bits",
    "9223372036854775807 * 2": "the integer needs more than 64 bits",
    "-9223372036854775808 / -1": "the integer needs more than 64 bits",
    "-(-9223372036854775808)": "the integer needs more than 64 bits",
    "1e308 * 10.0": "the number is too large",
    "1 ? 2 : 3": "the condition in front of ? is a number, not a bool",
    "1 && true": "&&, || and conditions need a bool, not a number",
    "true && 'a' && true": "&&, || and conditions need a bool, not a string",
    "false || null": "&&, || and conditions need a bool, not a null",
    "[1].filter(x, x)": "&&, || and conditions need a bool, not a number",
    "[1, 2].all(x, 1 / 0 == x)": "division by zero",
    "[1, 0].exists_one(x, 1 / x == 1)": "division by zero",
    "event.data.id.all(x, true)": "all() needs a list or a map, not a string",
    "size(1)": "size() needs a string, list, map or bytes, not a number",
    "event.data.amount.contains('1')": "contains() needs two strings, not a number and a string",
    "event.data.amount.matches('1')": "matches() looks into a string, not into a number",
    "event.data.id.matches(event.data.amount)": "a pattern is a string, not a number",
    "event.data.id.matches(event.data.id + '(')": "the pattern is invalid: missing ): o1(",
    "string(null)": "a null has no text",
    "string([1])": "a list has no text",
    "string(b'\\xff')": "the bytes are no UTF-8 text",
    "int('1.5')": "the string is no integer of 64 bits",
    "int('9223372036854775808')": "the integer needs more than 64 bits",
    "int(1e19)": "the integer needs more than 64 bits",
    "int(1e300)": "the number is no integer of 64 bits",
    "int(true)": "int() needs a number, string or timestamp, not a bool",
    "uint(-1)": "uint() gives no negative number",
    "double('nan')": "the string is no number",
    "double('1e999')": "the number is too large",
    "double(null)": "double() needs a number or a string, not a null",
    "bool('yes')": 'bool() needs a bool, "true" or "false"',
    "bytes(1)": "bytes() needs a string, not a number",
    "timestamp('yesterday')": "a timestamp is written as 2026-01-31T12:00:00Z",
    "timestamp('2026-02-30T12:00:00Z')": "the time is out of range",
    "timestamp(1e18)": "the time is out of range",
    "timestamp(null)": "timestamp() needs a string, or seconds since 1970, not a null",
    "duration('1d')": "a duration is written as 1h30m, 45s or 250ms; there are no days",
    "duration(1)": "duration() needs a string such as 1h30m, not a number",
    "timestamp('9999-12-31T23:59:59Z') + duration('1h')": "the time is out of range",
    "duration('1s').getDate()": "a duration has no getDate",
    "timestamp(0).getHours('Nowhere')": "there is no such time zone",
    "event.data.id.getHours()": "getHours() needs a timestamp and perhaps the name of a zone",
}


@pytest.mark.spec("EXPR-02", "EXPR-03", "EXPR-04", "EXPR-05", "EXPR-06", "EXPR-10")
@pytest.mark.parametrize("text", [text for group in TRUE.values() for text in group])
def test_what_holds(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize("text", FAILS)
def test_what_has_no_value_says_why(text: str) -> None:
    assert fails(text) == FAILS[text]


@pytest.mark.spec("EXPR-02", "EXPR-07", "EXPR-08")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"openai"', "openai"),
        ("'openai'", "openai"),
        ("event.data.id", "o1"),
        ('event.data.id + "-" + string(event.data.amount)', "o1-150"),
        ("event.data.amount", "150"),
        ("event.data.whole", "150"),
        ("event.data.half", "1.5"),
        ("event.data.yes", "true"),
        ("event.data.nothing", ""),
        ("event.data.x", ""),
        ("event.data.empty", ""),
        ("event.data.no ? 'free' : 'paid'", "paid"),
        ("event.data.numbers.map(n, n * 1.0)", "[1,2,3]"),
        ('{"b": [1.5, null, true], "a": event.data.text}', '{"a":"Grüße","b":[1.5,null,true]}'),
        ("timestamp(0)", "1970-01-01T00:00:00Z"),
        ("duration('90m')", "5400s"),
        ("b'abc'", "abc"),
        ("1e20", "100000000000000000000"),
    ],
)
def test_keys_are_text(text: str, expected: str) -> None:
    assert key(text) == expected


@pytest.mark.spec("EXPR-01")
def test_failures_are_false_empty_and_zero_and_are_told() -> None:
    heard: list[str] = []

    def listen(error: EvaluationError) -> None:
        heard.append(str(error))

    assert compile_filter("event.data.x + 1 > 0", on_failure=listen)(EVENT) is False
    assert compile_filter("event.data.id", on_failure=listen)(EVENT) is False
    assert compile_key("event.data.x + 'a'", on_failure=listen)(EVENT) == ""
    assert compile_number("event.data.id", on_failure=listen)(EVENT) == 0
    assert compile_number("event.data.yes", on_failure=listen)(EVENT) == 0
    assert heard == [
        "event.data.x is missing",
        "a filter yields true or false, not a string",
        "event.data.x is missing",
        "a number is needed, not a string",
        "a number is needed, not a bool",
    ]
    assert compile_filter("1 / 0 == 1")(EVENT) is False
    assert compile_key("1 / 0")(EVENT) == ""
    assert compile_number("event.data.x")(EVENT) == 0


@pytest.mark.spec("PRI-01")
def test_numbers() -> None:
    assert compile_number("event.data.user.age > 30 ? 120 : -60").evaluate(EVENT) == 120
    assert compile_number("event.data.half")(EVENT) == 1.5
    with pytest.raises(EvaluationError, match="too large"):
        compile_number("event.n").evaluate({"n": 10**400})


@pytest.mark.spec("EXPR-03", "TRP-12", "ACC-12")
def test_waits_see_both_events() -> None:
    wait = compile_filter("event.data.id == async.data.id && async.data.ok", EVENT_AND_ASYNC)
    assert wait(EVENT, {"data": {"id": "o1", "ok": True}})
    assert not wait(EVENT, {"data": {"id": "o2", "ok": True}})
    assert not wait(EVENT, {"data": {"id": "o1"}})
    assert not wait({"data": {}}, {"data": {"ok": True}}), "two missing fields are not equal"
    assert compile_filter("async.data.id == null", EVENT_AND_ASYNC)(EVENT), "without an arrival all is missing"


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "the expression is empty; leave it out if nothing is to be asked"),
        ("event.data.id ==", 17, "the expression ends too early"),
        ('event.data.id == "abc', 18, "the string that begins here has no closing quote"),
        ("event.data.id === 'a'", 17, "write == and != with two characters"),
        ("event.data.id !== 'a'", 17, "write == and != with two characters"),
        ("event.data.id = 'a'", 15, "write == to compare"),
        ("event.data.a & event.data.b", 14, "write &&, not &"),
        ("event.data.a | event.data.b", 14, "write ||, not |"),
        ("event.data.a and event.data.b", 14, "write && for and"),
        ("event.data.a or event.data.b", 14, "write || for or"),
        ("event.data.id 'a'", 15, "'a' is not expected here"),
        ("event.data.id == #", 18, "# is not expected here"),
        ("event.data.id)", 14, ") is not expected here"),
        ('"\\q" == "q"', 2, 'there is no such escape; write \\\\ for a backslash, or r"…"'),
        (r'b"\u0041" == b"A"', 3, 'there is no such escape; write \\\\ for a backslash, or r"…"'),
        (r'"a\ud800" == ""', 3, "this is no Unicode character"),
        ("event.n == 9223372036854775808", 12, "an integer has at most 63 bits and a sign"),
        ("event.n == 1e999", 12, "the number is too large"),
        ("Order{id: 1} == 1", 1, 'messages, as in Name{field: value}, are not supported; use {"field": value}'),
        (".event.id == 1", 2, "a name does not begin with a dot"),
        ("size() == 1", 1, "size() takes 1 argument, not 0"),
        ("event.id.contains('a', 'b')", 10, "contains() takes 1 argument, not 2"),
        ("contains(event.id, 'a')", 1, "contains is called as x.contains()"),
        ("event.id.string() == ''", 10, "string is called as string(x)"),
        ("event.id.startswith('a')", 10, "there is no function startswith(); did you mean startsWith()?"),
        ("has(event)", 1, "has() asks for a field, as in has(event.data.id)"),
        ("event.tags.exists('a', true)", 12, "exists() takes a name and an expression, as in list.exists(x, x > 1)"),
        ("event.tags.all(x)", 12, "all() takes a name and an expression, as in list.all(x, x > 1)"),
        ("{1: 2} == event.data", 2, "the keys of a map are different constant strings"),
        ("{'a': 1, 'a': 2} == event.data", 2, "the keys of a map are different constant strings"),
        ("event.id.matches('(')", 18, "the pattern is invalid: missing ): ("),
        ("event.id.matches(5)", 18, "a pattern is a string, not a number"),
        ('"openai"', 1, "a filter yields true or false, not a string"),
        ("[event.id]", 1, "a filter yields true or false, not a list"),
        ("{'a': event.id}", 1, "a filter yields true or false, not a map"),
        ("async.data.id == 'a'", 1,
         "async is the event that arrives later: it exists only in waits and cancellations"),
    ],
)  # fmt: skip
def test_the_compiler_says_what_is_wrong_and_where(text: str, column: int, problem: str) -> None:
    error = refused(text)
    assert (error.line, error.column, error.problem) == (1, column, problem)


@pytest.mark.spec("EXPR-07", "EXPR-09")
def test_a_bare_word_is_told_that_a_constant_needs_quotes() -> None:
    with pytest.raises(ExpressionInvalid) as error:
        compile_key("openai")
    assert str(error.value) == (
        "line 1, column 1: openai is no variable; there is event. A constant needs quotes of its own: '\"openai\"'\n"
        "    openai\n"
        "    ^"
    )
    assert "user_1234 is no variable; there is event and async." in str(
        refused("user_1234 == async.data.userId", EVENT_AND_ASYNC)
    )


def test_the_place_is_shown_in_texts_of_many_lines_and_of_long_ones() -> None:
    error = refused("event.data.a == 1 &&\n\tevent.data.b == nobody &&\n  true")
    assert (error.line, error.column) == (2, 18)
    assert str(error).splitlines()[1:] == ["     event.data.b == nobody &&", "    " + " " * 17 + "^"]
    long = refused("event.data.a == 1 || " * 20 + "nobody" + " || event.data.b == 2" * 20)
    _, shown, caret = str(long).splitlines()
    assert shown[caret.index("^") :].startswith("nobody")
    assert len(shown) <= 104


def test_invalid_expressions_and_failures_are_errors_of_steplog() -> None:
    assert issubclass(ExpressionInvalid, SteplogError)
    assert issubclass(EvaluationError, SteplogError)
    error = refused("nobody")
    assert (error.code, error.exit_code, error.text) == ("expression_invalid", 2, "nobody")
    with pytest.raises(ExpressionInvalid, match="a number is needed, not a string"):
        compile_number('"high"')


# Bounds (faults: I4): without them these would not end.


@pytest.mark.parametrize(
    "text",
    [
        "event.id == 'a' || " * 5_000 + "true",
        "(" * 2_000 + "true" + ")" * 2_000 + ")",
        "!" * 4_000 + "true",
        "-" * 4_000 + "1",
        "1" + "+1" * 2_000,
        "true" + "?true:true" * 400,
        "[" * 2_000 + "]" * 2_000,
        "event" + ".a" * 2_000,
        "event" + "[0]" * 1_300,
        '"' + "\\n" * 2_000,
        "r'" + "\\'" * 2_000,
        "'''" + "\\n''" * 1_000,
        "[1]" + ".map(x, [x])" * 300,
        "event.id.matches('((a{1000}){1000}){1000}')",
        "event.id.matches('" + "a" * 1_001 + "')",
    ],
)
def test_hostile_texts_are_refused(text: str) -> None:
    refused(text)


def test_long_chains_are_not_deep() -> None:
    assert holds("event.id == 'a' || " * 200 + "true")
    assert holds("event.id == 'e1' && " * 200 + "true")
    assert holds("event.id in [" + "'a', " * 700 + "'e1']")


LARGE = {
    "n": list(range(100_000)),
    "s": [str(n) for n in range(50_000)],
    "text": "ab" * 200_000,
    "one": [1],
}


@pytest.mark.parametrize(
    "text",
    [
        "event.n.exists(x, event.n.exists(y, x + y == -1))",
        "event.n.map(x, event.n.map(y, x)).size() == 0",
        "event.n.exists(x, 1 / 0 == x)",
        "event.n.exists(x, false || 1 / 0 == x)",
        "event.n.exists(x, event.n == [x] || event.n + event.n == [])",
        "event.s.exists(x, x.matches(x + '0'))",
        "event.text.matches('[ab]*a[ab]{200}c')",
        "event.s.exists(x, event.text.contains(x + '-'))",
        "['a']" + ".map(x, x + x)" * 60 + " == []",
        "event.one" + ".map(x, [x, x])" * 60 + " == event.one" + ".map(x, [x, x])" * 60,
    ],
)
def test_no_expression_holds_the_process(text: str) -> None:
    with pytest.raises(EvaluationError, match="it takes more than 100,000 steps"):
        holds(text, LARGE)


def test_a_key_that_would_be_too_large_fails() -> None:
    with pytest.raises(EvaluationError, match="it takes more than 100,000 steps"):
        compile_key("event.one" + ".map(x, [x, x])" * 60).evaluate(LARGE)


def test_deep_data_fails_cleanly() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    event = {"a": deep, "b": [deep]}
    with pytest.raises(EvaluationError, match="the data is nested too deeply"):
        holds("event.a == event.b[0][0]", {"a": deep, "b": [[list(deep)]]})
    with pytest.raises(EvaluationError, match="the data is nested too deeply"):
        compile_key("event.a").evaluate(event)
    assert compile_filter("event.a == event.b")(event) is False


def test_half_a_surrogate_pair_is_an_error() -> None:
    event = {"a": "\ud800"}
    for text in ("event.a.matches('a')", "size(bytes(event.a)) == 1"):
        with pytest.raises(EvaluationError, match="half of a surrogate pair"):
            holds(text, event)


def test_what_is_no_json_fits_no_operation() -> None:
    for text in ("event.a < event.a", "event.a + event.a == 1", "size(event.a) == 0", "string(event.a) == ''"):
        with pytest.raises(EvaluationError, match="set"):
            holds(text, {"a": {1}})
    assert value_at({"a": {1}}, ["a"]) is None


def test_a_comprehension_leaves_nothing_behind() -> None:
    filter_ = compile_filter("event.n.map(x, x > 1, x)[0] == 2 && event.n.exists(x, x == 1)")
    assert [filter_({"n": [1, 2]}), filter_({"n": [2]}), filter_({"n": [1, 2]})] == [True, False, True]


# What waits are indexed by.


def equalities(text: str) -> tuple[list[tuple[tuple[str, ...], str | None]], bool]:
    found = compile_filter(text, EVENT_AND_ASYNC)
    return [(part.path, part.value(EVENT)) for part in found.equalities], found.residual is not None


@pytest.mark.spec("CANC-03", "EXPR-09")
@pytest.mark.parametrize(
    ("text", "found", "rest"),
    [
        ("async.data.id == event.data.id", [(("data", "id"), '"o1"')], False),
        ("event.data.id == async.data.id", [(("data", "id"), '"o1"')], False),
        ('async.data["b-c"] == 1.0', [(("data", "b-c"), "1")], False),
        ("async.data.id == 'x' && async.data.n > 1", [(("data", "id"), '"x"')], True),
        ("(async.a == 1 && async.b == true) && event.id == 'e1'", [(("a",), "1"), (("b",), "true")], True),
        ("async.a == event.data.user", [(("a",), '{"age":36,"name":"Ada"}')], False),
        ("async.a == event.data.nothing", [(("a",), "null")], False),
        ("async.a == event.data.x", [(("a",), None)], False),
        ("async.a == timestamp(0)", [(("a",), None)], False),
        ("async.a == null", [], True),
        ("async.a == async.b", [], True),
        ("async == event", [], True),
        ("async.a != 1", [], True),
        ("async.a == 1 || async.b == 2", [], True),
        ("[1].exists(async, async.a == 1)", [], True),
        ("event.a == event.b", [], True),
    ],
)
def test_equalities_of_a_wait(text: str, found: list[tuple[tuple[str, ...], str | None]], rest: bool) -> None:
    assert equalities(text) == (found, rest)


def test_an_equality_without_a_value_fails() -> None:
    (equality,) = compile_filter("async.a == event.x + 1", EVENT_AND_ASYNC).equalities
    with pytest.raises(EvaluationError, match=r"event\.x is missing"):
        equality.value(EVENT)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2).map(lambda x: round(x * 2) / 2)
    | st.sampled_from(["", "1", "true", "null", "a"]),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.sampled_from("ab"), below, max_size=2),
    max_leaves=4,
)  # fmt: skip
events = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
SPLIT = [
    compile_filter(text, EVENT_AND_ASYNC)
    for text in (
        "async.a == event.a",
        "event.a == async.b.a && async.c == event.c",
        "async.a == event.a && async.b != event.b",
        "async.a == 1 && event.b < 1 && async.c",
        "async.a == event.a + 1 && (async.b == null || event.c == 'a')",
    )
]


@pytest.mark.spec("ACC-12", "ACC-13")
@given(st.sampled_from(SPLIT), events, events)
def test_the_index_finds_what_the_filter_finds(filter_: Any, event: dict[str, Any], arrival: dict[str, Any]) -> None:
    try:
        wanted = [(equality.value(event), equality.arrived(arrival)) for equality in filter_.equalities]
        met = all(want is not None and want == found for want, found in wanted)
    except EvaluationError:
        met = False
    if met and filter_.residual is not None:
        met = filter_.residual(event, arrival)
    assert met == filter_(event, arrival)


@given(values, values)
def test_equal_values_and_only_those_have_one_canonical_form(a: object, b: object) -> None:
    same = compile_filter("event.a == event.b")({"a": a, "b": b})
    assert same == (value_at({"a": a}, ["a"]) == value_at({"b": b}, ["b"]))
    assert same == compile_filter("event.a in [event.b]")({"a": a, "b": b})
    assert same == (not compile_filter("event.a != event.b")({"a": a, "b": b}))


def test_where_there_is_nothing_there_is_no_value() -> None:
    assert [value_at(EVENT, path) for path in (["x"], ["data", "id", "x"], ["data", "tags", "x"])] == [None] * 3
    assert value_at(EVENT, ["data", "nothing"]) == "null"


@given(st.text(alphabet="event.data()[]{}!&|=<>+-*/%?:'\"\\, 01ax\n", max_size=40))
def test_any_text_is_compiled_or_refused(text: str) -> None:
    try:
        result = compile_filter(text)(EVENT)
    except ExpressionInvalid:
        return
    assert result in (True, False)


def test_importing_the_package_does_not_import_the_parser() -> None:
    code = (
        "import sys, steplog, steplog.cel; print({'lark', 're2', 'celpy'} & set(sys.modules));"
        "steplog.cel.compile_filter('event.a == 1'); print({'lark', 're2', 'celpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "{'lark'}"]


def documented() -> tuple[object, list[tuple[str, str]]]:
    """The event of the documentation, and its (expression, expected) pairs."""
    page = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
    event, lines = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("json", "cel"))
    pairs = [line.rsplit("//", 1) for line in lines.splitlines()]
    return json.loads(event), [(text.strip(), expected.strip()) for text, expected in pairs]


@pytest.mark.spec("EXPR-06", "EXPR-08")
def test_the_examples_of_the_documentation_are_true() -> None:
    event, pairs = documented()
    assert len(pairs) > 10
    for text, expected in pairs:
        if expected == "error":
            with pytest.raises(EvaluationError):
                compile_key(text).evaluate(event)
        else:
            value = json.loads(expected)
            kinds: dict[type, Any] = {bool: compile_filter, int: compile_number, str: compile_key}
            assert kinds[type(value)](text).evaluate(event) == value, text


def test_every_function_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
    assert [name for name in functions.FUNCTIONS if f"`{name}(" not in page] == []
    assert [name for name in functions.METHODS if f".{name}()`" not in page] == []
