"""Expressions in CEL over plain JSON: filters, keys and numbers (EXPR-01, EXPR-02, GAP-05; ``docs/expressions.md``).

===================  =================================================================================================
missing field        ``event.data.x`` where ``x``, or a map on the way to it, is not there; an index out of range
missing == null      true for the literal ``null`` only; ``has()`` tells null and missing apart
missing == other     false, another missing field and a field that is null included
missing < other      false, and so with ``<= > >= in``
``!=``               the negation of ``==``
numbers              compare by value whatever their type, 1 == 1.0; a bool is no number
other types          are unequal: ``"1" == 1`` is false
``< <= > >=``        two numbers, strings, bools, bytes, timestamps or durations; else an error
``+ - * / %``        an error for types that do not fit, beyond 64 bits, for division by zero
``&& ||``            an error or a value that is no bool on one side does not count when the other side decides
any other use        of a missing field is an error
an error             makes a filter false, a key ``""``, a number 0; ``evaluate`` raises it
===================  =================================================================================================
"""

from steplog.cel.expressions import (
    EVENT,
    EVENT_AND_ASYNC,
    Equality,
    Filter,
    Key,
    Number,
    compile_filter,
    compile_key,
    compile_number,
    value_at,
)

__all__ = [
    "EVENT",
    "EVENT_AND_ASYNC",
    "Equality",
    "Filter",
    "Key",
    "Number",
    "compile_filter",
    "compile_key",
    "compile_number",
    "value_at",
]
