"""Our evaluator beside two others: the C++ runtime of CEL and celpy.

Compared is what all agree on: fields that are there, operands of one type, integers of 64 bits. We differ in:

- missing fields: an error for the others, our rules for us (GAP-05);
- numbers: an integer and a double may be computed with one another here, since JSON does not tell them apart; a double
  that is not finite is an error here, infinity or NaN there; ``==`` of an integer and a double is an error in celpy;
- ``string()`` of a double and of a fraction of a second: shortest digits here, other notations there;
- errors inside ``==`` and ``in`` of different types: false here, an error in celpy;
- bodies of macros that fail: celpy does not absorb the errors as the language defines it.
"""

import json
import sys
from typing import Any

import celpy
import pytest
from cel_expr_python import cel  # type: ignore[import-untyped]  # marks no types
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from steplog.cel import compile_filter
from steplog.cel.closures import compile_node
from steplog.cel.parser import parse
from steplog.cel.values import MAX_STEPS
from steplog.errors import EvaluationError

ENVIRONMENT = cel.NewEnv(variables={"event": cel.Type.DYN})
FAILED = "failed"

data = st.fixed_dictionaries(
    {
        "i": st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5),
        "j": st.integers(-5, 5),
        "f": st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float),
        "g": st.floats(-1e3, 1e3, width=16),
        "s": st.text("aéß😀b-", max_size=4),
        "t": st.text("ab", max_size=3),
        "b": st.booleans(),
        "n": st.none(),
        "l": st.lists(st.integers(-3, 3), max_size=4),
        "m": st.dictionaries(st.sampled_from("xyz"), st.integers(-3, 3), max_size=3),
    }
)
texts = st.text("aéb\"'\\\n-", max_size=3).map(lambda text: json.dumps(text, ensure_ascii=False))


def trees(*, for_celpy: bool) -> SearchStrategy[str]:
    """Write conditions whose parts have fitting types."""
    integer = st.deferred(lambda: integers)
    double = st.deferred(lambda: doubles)
    string = st.deferred(lambda: strings)
    many = st.deferred(lambda: lists)
    condition = st.deferred(lambda: conditions)

    def form(pattern: str, *parts: SearchStrategy[str]) -> SearchStrategy[str]:
        return st.tuples(*parts).map(lambda found: pattern.format(*found))

    def same(part: SearchStrategy[str], symbols: tuple[str, ...]) -> SearchStrategy[str]:
        return form("({} {} {})", part, st.sampled_from(symbols), part)

    order, equal = ("<", "<=", ">", ">=", "==", "!="), ("==", "!=")
    integers = st.one_of(
        st.integers(-9, 9).map(str),
        st.sampled_from(["event.i", "event.j", 'event["j"]', "9223372036854775807"]),
        same(integer, ("+", "-", "*", "/", "%")),
        form("size({})", string),
        form("{}.size()", many),
        form("({} ? {} : {})", condition, integer, integer),
        form("[{}, {}][1]", integer, integer),
    )
    doubles = st.one_of(
        st.sampled_from(["0.5", "-1.0", "2.25", "event.f", "event.g"]),
        same(double, ("+", "-", "*")),
        form("double({})", integer),
    )
    strings = st.one_of(
        texts,
        st.sampled_from(["event.s", "event.t"]),
        same(string, ("+",)),
        form("string({})", integer),
        form("({} ? {} : {})", condition, string, string),
    )
    lists = st.one_of(
        st.just("event.l"),
        form("[{}, {}]", integer, integer),
        same(many, ("+",)),
        form("{}.map(x, x {} {})", many, st.sampled_from("+-"), integer),
        form("{}.filter(x, x {} {})", many, st.sampled_from(order), integer),
    )
    conditions = st.one_of(
        st.sampled_from(["true", "false", "event.b", "has(event.i)", "event.n == null"]),
        same(integer, order),
        same(double, order),
        same(string, order),
        same(many, equal),
        same(condition, ("&&", "||", "==")),
        form("!{}", condition),
        form("{}.{}({})", string, st.sampled_from(["contains", "startsWith", "endsWith"]), string),
        form("{}.matches('^[ab-]*$')", string),
        form("({} in {})", integer, many),
        form("({} in event.m)", string),
        form("{}.exists(x, x {} {})", many, st.sampled_from(order), integer),
        form("{}.all(x, x {} {})", many, st.sampled_from(order), integer),
        form("{}.exists_one(x, x {} {})", many, st.sampled_from(order), integer),
        form("event.m.exists(k, k == {})", string),
        *(
            []
            if for_celpy
            else [
                st.just("event.i != null"),
                same(st.one_of(integer, double), equal),
                same(st.one_of(integer, string), equal),
            ]
        ),
    )
    return conditions


def ours(text: str, event: dict[str, Any]) -> object:
    try:
        return compile_filter(text).evaluate(event)
    except EvaluationError as error:
        return "no finite number" if str(error) == "the number is too large" else FAILED


def of_cpp(text: str, event: dict[str, Any]) -> object:
    found = ENVIRONMENT.compile(text, disable_check=True).eval(data={"event": event})
    return FAILED if found.type() == cel.Type.ERROR else found.value()


def of_celpy(text: str, event: dict[str, Any]) -> object:
    recursion_limit = sys.getrecursionlimit()
    environment = celpy.Environment()  # sets that limit to a number of its own
    try:
        program = environment.program(environment.compile(text))
        return bool(program.evaluate({"event": json_to_cel(event)}))
    except CELEvalError:
        return FAILED
    finally:
        sys.setrecursionlimit(recursion_limit)


@pytest.mark.spec("EXPR-04", "EXPR-06")
@settings(derandomize=True, max_examples=150, deadline=None)
@given(trees(for_celpy=False), data)
def test_conditions_agree_with_the_cpp_runtime(text: str, event: dict[str, Any]) -> None:
    found = ours(text, event)
    if found != "no finite number":
        assert found == of_cpp(text, event)


@pytest.mark.spec("EXPR-04", "EXPR-06")
@settings(derandomize=True, max_examples=60, deadline=None)
@given(trees(for_celpy=True), data)
def test_conditions_agree_with_celpy(text: str, event: dict[str, Any]) -> None:
    found = ours(text, event)
    if found not in ("no finite number", FAILED):
        assert found == of_celpy(text, event)


@pytest.mark.parametrize(
    "text",
    [
        "timestamp('2026-01-31T12:30:15.25Z') + duration('1h1.5s')", "duration('90m') - duration('-1.5s')",
        "timestamp('2024-02-29T23:59:59-08:00').getDayOfYear()", "timestamp(1700000000).getDayOfWeek()",
        "timestamp('2026-06-01T00:00:00Z').getHours('America/New_York')", "duration('-90s').getMinutes()",
        "string(duration('1h0.125s'))", "string(timestamp('2026-01-31T12:30:15.125Z'))", "int('-12')", "int(-1.9)",
        "double('1.5')", "bool('true')", "bytes('é')", "string(b'a')", "-7 / 2", "-7 % 3", "0x1F", r"'\x41\101\u00e9'",
        r"b'\xff\101é'", r"r'\d'", "[[1, 2], [3]].map(x, x.size())", "{'a': {'b': [1]}}.a.b[0]", "size('😀')",
        "[1, 2, 3].map(x, x > 1, x * 2)", "'''a'b'''",
    ],
)  # fmt: skip
def test_values_agree_with_the_cpp_runtime(text: str) -> None:
    value = compile_node(parse(text), ("event",))([MAX_STEPS, {}, None])
    assert value == ENVIRONMENT.compile(text).eval(data={"event": {}}).plain_value()
