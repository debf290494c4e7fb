"""What an expression costs: ``python -m benchmarks.cel``.

The same condition by our closures, by celpy, by the C++ runtime, and in plain Python (the floor), on a small event and
on one with 2,000 values more, for those that convert it. Then other shapes, and what a first compilation costs.
"""

import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

import celpy
from cel_expr_python import cel as cpp  # type: ignore[import-untyped]  # marks no types
from celpy.adapter import json_to_cel

from steplog.cel import EVENT_AND_ASYNC, compile_filter, compile_key
from steplog.cel.parser import parse

TEXT = "event.data.userId == async.data.userId && event.data.amount > 100"
SMALL: dict[str, Any] = {"name": "shop/order.placed", "data": {"userId": "u1", "amount": 150}}
LARGE = {"name": SMALL["name"], "data": {**SMALL["data"], **{f"k{n}": list(range(10)) for n in range(200)}}}
ARRIVAL: dict[str, Any] = {"name": "shop/order.paid", "data": {"userId": "u1"}}
SHAPES = (
    "event.data.userId", 'event.data.userId + "-" + string(event.data.amount)', 'event.data.userId == "u1"',
    'event.data.userId in ["u1", "u2", "u3"]', "event.data.missing == null", 'event.data.userId.startsWith("u")',
    'event.data.userId.matches("^u[0-9]+$")', "[1, 2, 3].exists(x, x == event.data.amount)",
)  # fmt: skip
FIRST = f"""
import time, steplog.cel
began = time.perf_counter()
steplog.cel.compile_filter({TEXT!r}, steplog.cel.EVENT_AND_ASYNC)
print(time.perf_counter() - began)
"""


def us(call: Callable[[], object], number: int = 20_000) -> float:
    """The best of five rounds, in µs a call."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def by_celpy() -> Callable[[dict[str, Any]], object]:
    environment = celpy.Environment()
    program = environment.program(environment.compile(TEXT))
    return lambda event: program.evaluate({"event": json_to_cel(event), "async": json_to_cel(ARRIVAL)})


def by_cpp() -> Callable[[dict[str, Any]], object]:
    environment = cpp.NewEnv(variables={"event": cpp.Type.DYN, "async": cpp.Type.DYN})
    program = environment.compile(TEXT)
    return lambda event: program.eval(data={"event": event, "async": ARRIVAL}).value()


def by_us() -> Callable[[dict[str, Any]], object]:
    condition = compile_filter(TEXT, EVENT_AND_ASYNC)
    return lambda event: condition(event, ARRIVAL)


def by_python() -> Callable[[dict[str, Any]], object]:
    def condition(event: dict[str, Any], arrival: dict[str, Any]) -> object:
        return event["data"]["userId"] == arrival["data"]["userId"] and event["data"]["amount"] > 100

    return lambda event: condition(event, ARRIVAL)


def main() -> None:
    """Print the costs."""
    print(f"{TEXT}\n{'':<28} {'small µs':>9} {'large µs':>9}")
    for name, make, number in (
        ("steplog", by_us, 200_000), ("plain Python", by_python, 200_000), ("C++ runtime", by_cpp, 2_000),
        ("celpy", by_celpy, 50),
    ):  # fmt: skip
        evaluate = make()
        assert bool(evaluate(SMALL)) is bool(evaluate(LARGE)) is True, name
        small, large = us(lambda: evaluate(SMALL), number), us(lambda: evaluate(LARGE), number)  # noqa: B023
        print(f"  {name:<26} {small:9.2f} {large:9.2f}")
    print(f"\n{'as a key':<60} µs")
    for text in SHAPES:
        key = compile_key(text)
        print(f"  {text:<56} {us(lambda: key(SMALL)):5.2f}")  # noqa: B023
    first = min(float(subprocess.check_output([sys.executable, "-c", FIRST])) for _ in range(3))
    began = time.perf_counter()
    for _ in range(200):
        parse(TEXT)
    parse_us = (time.perf_counter() - began) / 200 * 1e6
    print(f"\nfirst compilation {first * 1e3:.0f} ms (imports Lark), then {parse_us:.0f} µs to parse")


if __name__ == "__main__":
    main()
