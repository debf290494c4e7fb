"""The closures themselves, apart from the nodes that they are made of: reading, calling, logic, comprehensions."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from steplog.cel.functions import Function
from steplog.cel.nodes import Value
from steplog.cel.values import MISSING, Frame, TooMuchWork, charge, equal, kind, ordered
from steplog.errors import EvaluationError

Code: TypeAlias = Callable[[Frame], Value]


def same_fields(slot: int, a: str, b: str, other_slot: int, c: str, d: str) -> Code:
    def same(frame: Frame) -> Value:
        try:
            value, other = frame[slot][a][b], frame[other_slot][c][d]
        except (KeyError, TypeError):
            return False
        return value == other if value.__class__ is str else equal(value, other, frame)

    return same


def bounded_field(slot: int, a: str, b: str, compare: Callable[[Value, Value], bool], bound: float) -> Code:
    def bounded(frame: Frame) -> bool:
        try:
            value = frame[slot][a][b]
        except (KeyError, TypeError):
            return False
        of = value.__class__
        return compare(value, bound) if of is int or of is float else ordered(compare, value, bound)

    return bounded


def path(slot: int, fields: tuple[str, ...]) -> Code:
    """Read a path. Where a field, or a map that could hold it, is not there, it is missing."""
    match fields:
        case ():
            return lambda frame: frame[slot]
        case (a,):

            def one(frame: Frame) -> Value:
                try:
                    return frame[slot][a]
                except (KeyError, TypeError):
                    return MISSING

            return one
        case a, b:

            def two(frame: Frame) -> Value:
                try:
                    return frame[slot][a][b]
                except (KeyError, TypeError):
                    return MISSING

            return two

    def many(frame: Frame) -> Value:
        value = frame[slot]
        try:
            for field in fields:
                value = value[field]
        except (KeyError, TypeError):
            return MISSING
        return value

    return many


def select(of: Code, field: str) -> Code:
    def select(frame: Frame) -> Value:
        value = of(frame)
        return value.get(field, MISSING) if value.__class__ is dict else MISSING

    return select


def index(of: Code, index: Code) -> Code:
    """Read an element by its place or its key; what is not there is missing."""

    def read(frame: Frame) -> Value:
        value, at = of(frame), index(frame)
        if value.__class__ is list and kind(at) == "number" and at == int(at) and 0 <= at < len(value):
            return value[int(at)]
        return value.get(at, MISSING) if value.__class__ is dict and at.__class__ is str else MISSING

    return read


def one(call: Function, operand: Code) -> Code:
    return lambda frame: call(frame, operand(frame))


def two(call: Function, left: Code, right: Code) -> Code:
    return lambda frame: call(frame, left(frame), right(frame))


def choice(condition: Code, then: Code, otherwise: Code) -> Code:
    def choose(frame: Frame) -> Value:
        chosen = condition(frame)
        if chosen.__class__ is not bool:
            raise EvaluationError(f"the condition in front of ? is a {kind(chosen)}, not a bool")
        return then(frame) if chosen else otherwise(frame)

    return choose


def logical(parts: list[Code], decides: bool) -> Code:
    """``&&`` is decided by a False, ``||`` by a True; then an error in another part does not count."""
    if len(parts) > 2:

        def chain(frame: Frame) -> bool:
            return _decided(parts, frame, decides)

        return chain
    (left, right), other = parts, not decides

    def pair(frame: Frame) -> Value:
        try:
            value = left(frame)
            if value is decides:
                return decides
            if value is not other:
                need_bool(value)
        except TooMuchWork:
            raise
        except EvaluationError:
            if right(frame) is decides:
                return decides
            raise
        value = right(frame)
        return value if value is True or value is False else need_bool(value)

    return pair


def need_bool(value: Value) -> bool:
    if value is True or value is False:
        return bool(value)
    raise EvaluationError(f"&&, || and conditions need a bool, not a {kind(value)}")


def elements(name: str, of: Code) -> Code:
    def elements(frame: Frame) -> Value:
        value = of(frame)
        if not isinstance(value, list | dict):
            raise EvaluationError(f"{name}() needs a list or a map, not a {kind(value)}")
        return value

    return elements


def walked(frame: Frame, source: Code, slot: int, steps: int) -> Iterator[Value]:
    """Put each element, or key of a map, in the variable's place."""
    for element in source(frame):
        charge(frame, steps)
        frame[slot] = element
        yield element


def selected(frame: Frame, source: Code, slot: int, steps: int, condition: Code) -> Iterator[Value]:
    return (element for element in walked(frame, source, slot, steps) if need_bool(condition(frame)))


def decide(source: Code, slot: int, steps: int, body: Code, decides: bool) -> Code:
    """``all`` is the ``&&`` of the elements, ``exists`` the ``||``; errors are absorbed likewise."""

    def decide(frame: Frame) -> bool:
        return _decided((body for _ in walked(frame, source, slot, steps)), frame, decides)

    return decide


def _decided(parts: Iterable[Code], frame: Frame, decides: bool) -> bool:
    """Evaluate one after the other until one decides; if none does, the first error counts."""
    failed = None
    for part in parts:
        try:
            if need_bool(part(frame)) is decides:
                return decides
        except TooMuchWork:
            raise
        except EvaluationError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return not decides
