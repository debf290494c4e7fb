"""Compiled expressions, as the rest of steplog uses them. Their rules are in the package's docstring."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

from steplog.cel.closures import compile_node, path_of
from steplog.cel.nodes import Const, ListOf, Logical, MapOf, Name, Node, Operator, Problem, Value, children
from steplog.cel.shapes import Code
from steplog.cel.values import MAX_STEPS, MISSING, canonical, kind, text_of
from steplog.errors import EvaluationError, ExpressionInvalid

EVENT = ("event",)
EVENT_AND_ASYNC = ("event", "async")  # of waits and cancellations
MAX_CACHED = 1_000  # parsed texts: runs of one function arm waits with one text

Json: TypeAlias = Value
Listener: TypeAlias = Callable[[EvaluationError], None]


class Equality:
    """One part ``async.<path> == <what only the other event decides>`` of a filter's conjunction.

    The filter can only hold for an arrival with ``arrived(arrival) == value(event)``, so waits can be found by path and
    value. Both are canonical JSON: equal for equal values, and only for those.
    """

    __slots__ = ("_code", "path")

    def __init__(self, path: tuple[str, ...], code: Code) -> None:
        self.path, self._code = path, code

    def value(self, event: Json) -> str | None:
        """Tell which value is awaited; None when no arrival can have it. Raises ``EvaluationError``."""
        value = self._code([MAX_STEPS, event, None])
        if value is MISSING or kind(value) in ("bytes", "timestamp", "duration"):
            return None
        return canonical(value)

    def arrived(self, arrival: Json) -> str | None:
        """Tell which value an arrival has at the path; None when it has none."""
        return value_at(arrival, self.path)


class Filter:
    """A condition. Called, it yields a bool, False when it fails.

    ``equalities`` and ``residual`` split it for an index: it holds when all equalities do and the residual, if there is
    one, holds too.
    """

    __slots__ = ("_code", "_on_failure", "equalities", "residual", "text")

    def __init__(
        self, text: str, code: Code, *, equalities: tuple[Equality, ...] = (), residual: "Filter | None" = None,
        on_failure: Listener | None = None,
    ) -> None:  # fmt: skip
        self.text, self._code, self._on_failure = text, code, on_failure
        self.equalities, self.residual = equalities, residual

    def __call__(self, event: Json, arrival: Json = None) -> bool:
        try:  # what evaluate does, without a call more
            value = self._code([MAX_STEPS, event, arrival])
            return value if value is True or value is False else _no_bool(value)
        except EvaluationError as error:
            if self._on_failure is not None:
                self._on_failure(error)
            return False

    def evaluate(self, event: Json, arrival: Json = None) -> bool:
        """Yield a bool. Raises ``EvaluationError``."""
        value = self._code([MAX_STEPS, event, arrival])
        return value if value is True or value is False else _no_bool(value)


class Key:
    """A key. Called, it yields text; ``""`` when it is null, missing or fails: one bucket for all of these (GAP-05)."""

    __slots__ = ("_code", "_on_failure", "text")

    def __init__(self, text: str, code: Code, *, on_failure: Listener | None = None) -> None:
        self.text, self._code, self._on_failure = text, code, on_failure

    def __call__(self, event: Json, arrival: Json = None) -> str:
        try:
            return self.evaluate(event, arrival)
        except EvaluationError as error:
            if self._on_failure is not None:
                self._on_failure(error)
            return ""

    def evaluate(self, event: Json, arrival: Json = None) -> str:
        """Yield a string as it is, a list or map as canonical JSON, others as ``string()`` does.

        Raises ``EvaluationError``.
        """
        frame = [MAX_STEPS, event, arrival]
        value = self._code(frame)
        if value.__class__ is str:
            return str(value)
        if value is None or value is MISSING:
            return ""
        return canonical(value, frame) if isinstance(value, list | dict) else text_of(value)


class Number:
    """A number, such as a priority. Called, it yields a float, 0 when it fails."""

    __slots__ = ("_code", "_on_failure", "text")

    def __init__(self, text: str, code: Code, *, on_failure: Listener | None = None) -> None:
        self.text, self._code, self._on_failure = text, code, on_failure

    def __call__(self, event: Json, arrival: Json = None) -> float:
        try:
            return self.evaluate(event, arrival)
        except EvaluationError as error:
            if self._on_failure is not None:
                self._on_failure(error)
            return 0.0

    def evaluate(self, event: Json, arrival: Json = None) -> float:
        """Yield a number. Raises ``EvaluationError``."""
        value = self._code([MAX_STEPS, event, arrival])
        if kind(value) != "number":
            raise EvaluationError(f"a number is needed, not a {kind(value)}")
        try:
            return float(value)
        except OverflowError:
            raise EvaluationError("the number is too large") from None


def compile_filter(text: str, variables: Sequence[str] = EVENT, *, on_failure: Listener | None = None) -> Filter:
    """Compile a condition. ``on_failure`` hears of each failure. Raises ``ExpressionInvalid``."""
    parsed = _compiled(text, tuple(variables))
    _check_result(parsed, "a filter yields true or false", {"bool"})
    residual = None if parsed.rest is None else Filter(text, parsed.rest)
    return Filter(text, parsed.code, equalities=parsed.equalities, residual=residual, on_failure=on_failure)


def compile_key(text: str, variables: Sequence[str] = EVENT, *, on_failure: Listener | None = None) -> Key:
    """Compile a key. ``on_failure`` hears of each failure. Raises ``ExpressionInvalid``."""
    return Key(text, _compiled(text, tuple(variables)).code, on_failure=on_failure)


def compile_number(text: str, variables: Sequence[str] = EVENT, *, on_failure: Listener | None = None) -> Number:
    """Compile a number. ``on_failure`` hears of each failure. Raises ``ExpressionInvalid``."""
    parsed = _compiled(text, tuple(variables))
    _check_result(parsed, "a number is needed", {"number"})
    return Number(text, parsed.code, on_failure=on_failure)


def value_at(event: Json, path: Sequence[str]) -> str | None:
    """Tell the canonical JSON of what an event has at a path; None when there is nothing, or more than can be read."""
    try:
        for field in path:
            event = event[field]
        return canonical(event)
    except (KeyError, TypeError, EvaluationError):
        return None


class _Compiled(NamedTuple):
    text: str
    node: Node
    code: Code
    equalities: tuple[Equality, ...]
    rest: Code | None


@functools.lru_cache(maxsize=MAX_CACHED)
def _compiled(text: str, variables: tuple[str, ...]) -> _Compiled:
    from steplog.cel.parser import parse  # imports Lark, for those who have an expression

    try:
        node = parse(text)
        code = compile_node(node, variables)
        equalities, left = _split(node, variables)
        if left is None or not equalities:
            rest = code if left else None
        else:
            rest = compile_node(left, variables)
    except Problem as problem:
        raise ExpressionInvalid(text, problem.at, problem.what) from None
    return _Compiled(text, node, code, equalities, rest)


def _split(node: Node, variables: tuple[str, ...]) -> tuple[tuple[Equality, ...], Node | None]:
    """Split a conjunction into its equalities and what is left of it, None for nothing."""
    parts = node.parts if isinstance(node, Logical) and node.decides is False else [node]
    found = [(part, _equality(part, variables)) for part in parts]
    left = [part for part, equality in found if equality is None]
    rest = Logical(False, left, left[0].at, node.depth) if len(left) > 1 else left[0] if left else None
    return tuple(equality for _, equality in found if equality is not None), rest


def _equality(node: Node, variables: tuple[str, ...]) -> Equality | None:
    if not isinstance(node, Operator) or node.symbol != "==":
        return None
    for side, other in (node.operands, node.operands[::-1]):
        path = path_of(side)
        is_null = isinstance(other, Const) and other.value is None  # what is missing equals it too
        if path is not None and path[0].name == "async" and path[1] and not is_null and not _reads(other, "async"):
            return Equality(path[1], compile_node(other, variables))
    return None


def _reads(node: Node, variable: str) -> bool:
    """Whether a variable occurs, be it as one that a macro declares."""
    return (isinstance(node, Name) and node.name == variable) or any(_reads(part, variable) for part in children(node))


def _check_result(parsed: _Compiled, need: str, kinds: set[str]) -> None:
    match parsed.node:
        case Const(value=value) if kind(value) not in kinds:
            raise ExpressionInvalid(parsed.text, parsed.node.at, f"{need}, not a {kind(value)}")
        case ListOf() | MapOf():
            raise ExpressionInvalid(
                parsed.text, 0, f"{need}, not a {'list' if isinstance(parsed.node, ListOf) else 'map'}"
            )


def _no_bool(value: Value) -> NoReturn:
    raise EvaluationError(f"a filter yields true or false, not a {kind(value)}")
