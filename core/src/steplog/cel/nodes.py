"""What an expression consists of, after the parser and before it can be evaluated.

``at`` is the offset in the text, ``depth`` how many nodes are nested in one another; the parser bounds it.
"""

from typing import Any, TypeAlias

import msgspec

Value: TypeAlias = Any  # plain JSON, bytes, an aware datetime, a timedelta: the kinds are in values.KINDS


class Const(msgspec.Struct, frozen=True):
    value: Value
    at: int
    depth: int = 1


class Name(msgspec.Struct, frozen=True):
    name: str
    at: int
    depth: int = 1


class Select(msgspec.Struct, frozen=True):
    """``of.field``"""

    of: "Node"
    field: str
    at: int
    depth: int


class Index(msgspec.Struct, frozen=True):
    """``of[index]``"""

    of: "Node"
    index: "Node"
    at: int
    depth: int


class Call(msgspec.Struct, frozen=True):
    """``name(args)``, or ``of.name(args)``; macros too."""

    name: str
    of: "Node | None"
    args: "list[Node]"
    at: int
    depth: int


class Operator(msgspec.Struct, frozen=True):
    """An operator of one or two operands, other than the logical ones."""

    symbol: str
    operands: "list[Node]"
    at: int
    depth: int


class Logical(msgspec.Struct, frozen=True):
    """A chain of ``&&``, which False decides, or of ``||``, which True decides."""

    decides: bool
    parts: "list[Node]"
    at: int
    depth: int


class Choice(msgspec.Struct, frozen=True):
    """``condition ? then : otherwise``"""

    condition: "Node"
    then: "Node"
    otherwise: "Node"
    at: int
    depth: int


class ListOf(msgspec.Struct, frozen=True):
    items: "list[Node]"
    at: int
    depth: int


class MapOf(msgspec.Struct, frozen=True):
    entries: "list[tuple[Node, Node]]"
    at: int
    depth: int


Node: TypeAlias = Const | Name | Select | Index | Call | Operator | Logical | Choice | ListOf | MapOf


class Problem(Exception):
    """Something at an offset cannot be compiled; becomes ``ExpressionInvalid`` where the text is known."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at, self.what = at, what


def children(node: Node) -> "list[Node]":
    """List the nodes right below."""
    match node:
        case Const() | Name():
            return []
        case Select(of=of):
            return [of]
        case Index(of=of, index=index):
            return [of, index]
        case Call(of=of, args=args):
            return args if of is None else [of, *args]
        case Operator(operands=operands):
            return operands
        case Logical(parts=parts):
            return parts
        case Choice(condition=condition, then=then, otherwise=otherwise):
            return [condition, then, otherwise]
        case ListOf(items=items):
            return items
        case MapOf(entries=entries):
            return [part for entry in entries for part in entry]
