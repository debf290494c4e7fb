"""Nodes to closures: each node becomes one function from the frame to its value, made once, called for every event.

The frequent shapes have closures of their own: a path of names is one, a constant on the right is not called, a list of
constant strings is a set. A comprehension keeps its variable in a place of its own in the frame.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from steplog.cel import functions, shapes
from steplog.cel.nodes import (
    Call,
    Choice,
    Const,
    Index,
    ListOf,
    Logical,
    MapOf,
    Name,
    Node,
    Operator,
    Problem,
    Select,
    Value,
    children,
)
from steplog.cel.shapes import Code
from steplog.cel.values import (
    BINARY,
    COMPARE,
    MISSING,
    UNARY,
    Frame,
    contains,
    equal,
    kind,
    ordered,
)
from steplog.errors import EvaluationError

Slots: TypeAlias = Mapping[str, int]
FIRST_FREE_SLOT = 3  # the steps, and two variables at most
_MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "filter": (2,), "map": (2, 3)}  # arguments


def compile_node(node: Node, variables: Sequence[str]) -> Code:
    """Compile an expression over a frame ``[steps, first variable's value, second's]``. Raises ``Problem``."""
    compiler = _Compiler()
    code = compiler.code(node, {name: slot for slot, name in enumerate(variables, 1)})
    room = [None] * (compiler.next_slot - FIRST_FREE_SLOT)
    if not room:
        return code

    def with_room(frame: Frame) -> Value:
        frame.extend(room)
        return code(frame)

    return with_room


class _Compiler:
    def __init__(self) -> None:
        self.next_slot = FIRST_FREE_SLOT

    def code(self, node: Node, slots: Slots) -> Code:
        """Compile a node. Its value may be missing."""
        path = path_of(node)
        if path is not None and path[0].name in slots:
            return shapes.path(slots[path[0].name], path[1])
        match node:
            case Const(value=value):
                return lambda _: value
            case Name(name=name, at=at):
                raise _unknown_name(name, at, slots)
            case Select(of=of, field=field):
                return shapes.select(self.code(of, slots), field)
            case Index(of=of, index=index):
                return shapes.index(self.code(of, slots), self.present(index, slots))
            case Operator(symbol=symbol, operands=operands):
                return self.operator(symbol, operands, slots)
            case Logical(decides=decides, parts=parts):
                return shapes.logical([self.present(part, slots) for part in parts], decides)
            case Choice(condition=condition, then=then, otherwise=otherwise):
                return shapes.choice(
                    self.present(condition, slots), self.code(then, slots), self.code(otherwise, slots)
                )
            case ListOf(items=items):
                return self.list_of(items, slots)
            case MapOf(entries=entries):
                return self.map_of(entries, slots)
            case Call():
                return self.call(node, slots)

    def present(self, node: Node, slots: Slots) -> Code:
        """Compile a node whose value is used: a missing field is an error that names it."""
        code = self.code(node, slots)
        if not isinstance(node, Select | Index | Choice):
            return code
        name = _printed(node)

        def present(frame: Frame) -> Value:
            value = code(frame)
            if value is MISSING:
                raise EvaluationError(f"{name} is missing")
            return value

        return present

    def operator(self, symbol: str, operands: list[Node], slots: Slots) -> Code:
        match symbol, operands:
            case (("==" | "!="), [left, right]):
                same = self.equality(left, right, slots)
                return same if symbol == "==" else lambda frame: not same(frame)
            case (("<" | "<=" | ">" | ">="), [left, right]):
                return self.order(symbol, left, right, slots)
            case "in", [left, right]:
                return self.membership(left, right, slots)
            case _, [left, right]:
                return shapes.two(BINARY[symbol], self.present(left, slots), self.present(right, slots))
            case _, [operand]:
                return shapes.one(UNARY[symbol], self.present(operand, slots))
        raise AssertionError("an operator has one or two operands")

    def equality(self, left: Node, right: Node, slots: Slots) -> Code:
        if isinstance(left, Const):
            left, right = right, left
        a = self.code(left, slots)
        if not isinstance(right, Const):
            b = self.code(right, slots)
            fields, others = _two_fields(left, slots), _two_fields(right, slots)
            if fields and others:
                return shapes.same_fields(*fields, *others)

            def same(frame: Frame) -> bool:
                value, other = a(frame), b(frame)
                return bool(value == other) if value.__class__ is str else equal(value, other, frame)

            return same
        constant = right.value
        if constant is None:  # only the literal: a field that is null does not equal one that is missing (GAP-05)
            return lambda frame: (value := a(frame)) is None or value is MISSING
        if isinstance(constant, bool):
            return lambda frame: a(frame) is constant
        if isinstance(constant, int | float):
            return lambda frame: (value := a(frame)) == constant and value.__class__ is not bool
        return lambda frame: bool(
            a(frame) == constant
        )  # a string or bytes: other types are unequal to it by themselves

    def order(self, symbol: str, left: Node, right: Node, slots: Slots) -> Code:
        compare, a, b = COMPARE[symbol], self.code(left, slots), self.code(right, slots)
        if isinstance(right, Const) and kind(right.value) == "number":
            bound = right.value
            fields = _two_fields(left, slots)
            if fields:
                return shapes.bounded_field(*fields, compare, bound)

            def bounded(frame: Frame) -> bool:
                value = a(frame)
                of = value.__class__
                return compare(value, bound) if of is int or of is float else ordered(compare, value, bound)

            return bounded
        return lambda frame: ordered(compare, a(frame), b(frame))

    def membership(self, left: Node, right: Node, slots: Slots) -> Code:
        a, b = self.code(left, slots), self.code(right, slots)
        if isinstance(right, ListOf) and all(isinstance(x, Const) and isinstance(x.value, str) for x in right.items):
            options = frozenset(b([]))
            return lambda frame: (value := a(frame)).__class__ is str and value in options
        return lambda frame: contains(a(frame), b(frame), frame)

    def list_of(self, items: list[Node], slots: Slots) -> Code:
        codes = [self.present(item, slots) for item in items]
        if all(isinstance(item, Const) for item in items):
            constant = [code([]) for code in codes]
            return lambda _: constant
        return lambda frame: [code(frame) for code in codes]

    def map_of(self, entries: list[tuple[Node, Node]], slots: Slots) -> Code:
        keys = [key.value for key, _ in entries if isinstance(key, Const) and isinstance(key.value, str)]
        if len(keys) < len(entries) or len(set(keys)) < len(keys):
            raise Problem(entries[0][0].at, "the keys of a map are different constant strings")
        codes = [(key, self.present(value, slots)) for key, (_, value) in zip(keys, entries, strict=True)]
        return lambda frame: {key: code(frame) for key, code in codes}

    def call(self, node: Call, slots: Slots) -> Code:
        name, of, args = node.name, node.of, node.args
        if of is not None and name in _MACROS:
            return self.macro(node, of, slots)
        if of is None and name == "has":
            if len(args) != 1 or not isinstance(args[0], Select | Index):
                raise Problem(node.at, "has() asks for a field, as in has(event.data.id)")
            field = self.code(args[0], slots)
            return lambda frame: field(frame) is not MISSING
        known = functions.FUNCTIONS if of is None else functions.METHODS
        if name not in known:
            raise _unknown_function(node)
        call, least, most = known[name]
        operands = args if of is None else [of, *args]
        if not least <= len(operands) <= most:
            count = most - (of is not None)
            raise Problem(node.at, f"{name}() takes {count} argument{'' if count == 1 else 's'}, not {len(args)}")
        if call is functions.matches and isinstance(operands[1], Const):
            return self.matches(operands[0], operands[1], slots)
        codes = [self.present(operand, slots) for operand in operands]
        return shapes.one(call, codes[0]) if len(codes) == 1 else shapes.two(call, *codes)

    def matches(self, subject: Node, text: Const, slots: Slots) -> Code:
        """Compile a constant pattern, so that an invalid one is said now."""
        try:
            if not isinstance(text.value, str):
                raise EvaluationError(f"a pattern is a string, not a {kind(text.value)}")
            pattern = functions.pattern(text.value)
        except EvaluationError as error:
            raise Problem(text.at, str(error)) from None
        code = self.present(subject, slots)
        return lambda frame: functions.search(frame, code(frame), pattern)

    def macro(self, node: Call, of: Node, slots: Slots) -> Code:
        if len(node.args) not in _MACROS[node.name] or not isinstance(node.args[0], Name):
            raise Problem(node.at, f"{node.name}() takes a name and an expression, as in list.{node.name}(x, x > 1)")
        source, slot = shapes.elements(node.name, self.present(of, slots)), self.next_slot
        self.next_slot += 1
        bodies = [self.present(body, {**slots, node.args[0].name: slot}) for body in node.args[1:]]
        steps = sum(map(_steps, node.args[1:]))
        match node.name:
            case "all" | "exists":
                return shapes.decide(source, slot, steps, bodies[0], node.name == "exists")
            case "exists_one":
                return lambda frame: sum(1 for _ in shapes.selected(frame, source, slot, steps, bodies[0])) == 1
            case "filter":
                return lambda frame: list(shapes.selected(frame, source, slot, steps, bodies[0]))
        if len(bodies) == 2:
            condition, body = bodies
            return lambda frame: [body(frame) for _ in shapes.selected(frame, source, slot, steps, condition)]
        return lambda frame: [bodies[0](frame) for _ in shapes.walked(frame, source, slot, steps)]


def path_of(node: Node) -> tuple[Name, tuple[str, ...]] | None:
    """Read ``name.field["field"]`` as its name and fields; None for anything else."""
    fields: list[str] = []
    while True:
        match node:
            case Select(of=of, field=field):
                node = of
                fields.append(field)
            case Index(of=of, index=Const(value=str() as field)):
                node = of
                fields.append(field)
            case Name():
                return node, tuple(reversed(fields))
            case _:
                return None


def _two_fields(node: Node, slots: Slots) -> tuple[int, str, str] | None:
    """Read ``event.data.x``, the most frequent operand, so that its comparison needs no call for it."""
    path = path_of(node)
    return (slots[path[0].name], *path[1]) if path is not None and len(path[1]) == 2 else None


def _unknown_name(name: str, at: int, slots: Slots) -> Problem:
    if name == "async":
        return Problem(at, "async is the event that arrives later: it exists only in waits and cancellations")
    known = " and ".join(slots)
    return Problem(at, f"{name} is no variable; there is {known}. A constant needs quotes of its own: '\"{name}\"'")


def _unknown_function(node: Call) -> Problem:
    functions_known = {*functions.FUNCTIONS, "has"}
    methods_known = {*functions.METHODS, *_MACROS}
    here, elsewhere = (functions_known, methods_known) if node.of is None else (methods_known, functions_known)
    if node.name in elsewhere:
        form = f"x.{node.name}()" if node.of is None else f"{node.name}(x)"
        return Problem(node.at, f"{node.name} is called as {form}")
    close = difflib.get_close_matches(node.name, here, n=1)
    hint = f"; did you mean {close[0]}()?" if close else f"; there are {', '.join(sorted(here))}"
    return Problem(node.at, f"there is no function {node.name}(){hint}")


def _steps(node: Node) -> int:
    """How many steps it takes to evaluate a node once, apart from what depends on the data."""
    return (functions.STEPS_A_CALL if isinstance(node, Call) else 1) + sum(map(_steps, children(node)))


def _printed(node: Node) -> str:
    match node:
        case Name(name=name):
            return name
        case Select(of=of, field=field):
            return f"{_printed(of)}.{field}"
        case Index(of=of, index=Const(value=value)):
            return f"{_printed(of)}[{value!r}]"
        case Index(of=of):
            return f"{_printed(of)}[…]"
        case Choice():
            return "what ?: chose"
        case _:
            return "…"
