"""Text to nodes. Importing this module imports Lark (70 ms), so it is imported at the first compilation.

Nothing here recurses, and time grows with the length of the text alone, which is bounded.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from lark import Token, Tree, UnexpectedCharacters, UnexpectedToken

from steplog.cel import grammar
from steplog.cel.nodes import Call, Choice, Const, Index, ListOf, Logical, MapOf, Name, Node, Operator, Problem, Select

MAX_CHARS = 4_096  # worst case 50 ms to parse
MAX_DEPTH = 64  # each level takes up to two Python frames of the thousand there are
_OPERATORS = {
    "relation_eq": "==", "relation_ne": "!=", "relation_lt": "<", "relation_le": "<=", "relation_gt": ">",
    "relation_ge": ">=", "relation_in": "in", "addition_add": "+", "addition_sub": "-", "multiplication_mul": "*",
    "multiplication_div": "/", "multiplication_mod": "%", "unary_not": "!", "unary_neg": "-",
}  # fmt: skip
_CONSTANTS = {"true": True, "false": False, "null": None}
_HINTS = {"and": "write && for and", "or": "write || for or", "not": "write ! for not"}
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\'"`?])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|)""", re.DOTALL
)
_CONTROLS = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))

load_grammar = functools.cache(grammar.load)


def parse(text: str) -> Node:
    """Read an expression. Raises ``Problem``."""
    if len(text) > MAX_CHARS:
        raise Problem(MAX_CHARS, f"the expression has {len(text):,} characters, the limit is {MAX_CHARS:,}")
    if not text.strip():
        raise Problem(0, "the expression is empty; leave it out if nothing is to be asked")
    try:
        tree = load_grammar().parse(text)
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise Problem(len(text), "the expression ends too early") from None
        raise _unexpected(text, error.token.start_pos or 0, str(error.token)) from None
    except UnexpectedCharacters as error:
        raise _unexpected(text, error.pos_in_stream or 0, error.char) from None
    built: dict[int, Any] = {}  # by the subtree's id: a node, a list of them, or an operator with its left side
    for subtree in tree.iter_subtrees():  # those below come first
        parts = [built[id(part)] if isinstance(part, Tree) else part for part in subtree.children]
        built[id(subtree)] = _read(subtree.data, parts)
    return built[id(tree)]  # type: ignore[no-any-return]  # the grammar's start is a rule that makes a node


def _unexpected(text: str, at: int, found: str) -> Problem:
    if found in _HINTS:
        return Problem(at, _HINTS[found])
    if found in ("'", '"'):
        return Problem(at, "the string that begins here has no closing quote")
    if found == "=":
        three = text[max(at - 2, 0) : at] in ("==", "!=")
        return Problem(at, "write == and != with two characters" if three else "write == to compare")
    if found in ("&", "|"):
        return Problem(at, f"write {found}{found}, not {found}")
    return Problem(at, f"{found} is not expected here")


def _read(rule: str, parts: list[Any]) -> Any:
    match rule:
        case "literal":
            return Const(_literal(parts[0]), _at(parts[0]))
        case "ident":
            token = parts[0]
            return Const(_CONSTANTS[token], _at(token)) if token in _CONSTANTS else Name(str(token), _at(token))
        case "member_dot":
            return Select(parts[0], str(parts[1]), _at(parts[1]), _depth(parts[:1], _at(parts[1])))
        case "member_index":
            return Index(parts[0], parts[1], parts[1].at, _depth(parts, parts[1].at))
        case "member_dot_arg":
            return _call(parts[0], parts[1], parts[2:])
        case "ident_arg":
            return _call(None, parts[0], parts[1:])
        case "exprlist" | "mapinits" | "fieldinits":
            return parts
        case "list_lit":
            items = parts[0] if parts else []
            return ListOf(items, _first(items), _depth(items, _first(items)))
        case "map_lit":
            flat = parts[0] if parts else []
            entries = list(zip(flat[::2], flat[1::2], strict=True))
            return MapOf(entries, _first(flat), _depth(flat, _first(flat)))
        case "conditionaland":
            return _logical(False, *parts)
        case "conditionalor":
            return _logical(True, *parts)
        case "expr":
            condition, then, otherwise = parts
            return Choice(condition, then, otherwise, condition.at, _depth(parts, condition.at))
        case "relation" | "addition" | "multiplication":
            (symbol, left), right = parts
            return Operator(symbol, [left, right], left.at, _depth([left, right], right.at))
        case "unary":
            (symbol, _), operand = parts
            return Operator(symbol, [operand], operand.at, _depth([operand], operand.at))
        case "member_object":
            raise Problem(parts[0].at, 'messages, as in Name{field: value}, are not supported; use {"field": value}')
        case "dot_ident" | "dot_ident_arg":
            raise Problem(_at(parts[0]), "a name does not begin with a dot")
        case _:
            return (_OPERATORS[rule], parts[0] if parts else None)


def _call(of: Node | None, token: Token, arguments: list[list[Node]]) -> Call:
    args = arguments[0] if arguments else []
    return Call(str(token), of, args, _at(token), _depth(args if of is None else [of, *args], _at(token)))


def _logical(decides: bool, left: Node, right: Node) -> Logical:
    """Make one chain of ``a && b && c``, so that a long one is not a deep one."""
    if isinstance(left, Logical) and left.decides is decides:
        left.parts.append(right)
        return Logical(decides, left.parts, left.at, max(left.depth, _depth([right], right.at)))
    return Logical(decides, [left, right], left.at, _depth([left, right], right.at))


def _depth(below: Sequence[Node], at: int) -> int:
    depth = 1 + max((node.depth for node in below), default=0)
    if depth > MAX_DEPTH:
        raise Problem(at, f"the expression is nested deeper than {MAX_DEPTH}")
    return depth


def _first(nodes: Sequence[Node]) -> int:
    return nodes[0].at if nodes else 0


def _at(token: Token) -> int:
    return token.start_pos or 0


def _literal(token: Token) -> str | bytes | int | float | bool | None:
    text, at = str(token), _at(token)
    match token.type:
        case "INT_LIT" | "UINT_LIT":
            number = int(text.rstrip("uU"), 16 if "x" in text else 10)
            if not -(2**63) <= number < 2**63:
                raise Problem(at, "an integer has at most 63 bits and a sign")
            return number
        case "FLOAT_LIT":
            if not math.isfinite(float(text)):
                raise Problem(at, "the number is too large")
            return float(text)
        case "BYTES_LIT":
            characters = text[1:].encode().decode("latin-1")  # one character a byte
            return _unquoted(characters, at + 1, of_bytes=True).encode("latin-1")
        case "STRING_LIT" | "MLSTRING_LIT":
            return _unquoted(text, at)
        case _:
            return _CONSTANTS[text]


def _unquoted(text: str, at: int, *, of_bytes: bool = False) -> str:
    raw = text[0] in "rR"
    begin = int(raw) + (3 if text[int(raw) :][:3] in ('"""', "'''") else 1)
    body = text[begin : int(raw) - begin]
    if raw or "\\" not in body:
        return body

    def character(found: re.Match[str]) -> str:
        control, pair, four, eight, octal = found.groups()
        if control:
            return _CONTROLS.get(control, control)
        if pair or octal:
            return chr(int(pair, 16) if pair else int(octal, 8))
        code = int(four or eight or "-1", 16)
        if code < 0 or of_bytes:
            raise Problem(at + begin + found.start(), 'there is no such escape; write \\\\ for a backslash, or r"…"')
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise Problem(at + begin + found.start(), "this is no Unicode character")
        return chr(code)

    return _ESCAPE.sub(character, body)
