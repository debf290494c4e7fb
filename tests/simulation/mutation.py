"""Deliberate faults in the product, to see that the simulation finds them.

A mutant names a function and a piece of its source that is replaced. The changed source is compiled and its code put in
the function's place, in this process only and for as long as the simulation runs; files are not touched. A piece that
does not occur exactly once fails loudly, so no mutant goes stale in silence.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import CodeType, FunctionType

import msgspec

from .cluster import simulate_cluster
from .watch import Broken
from .world import simulate


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A fault in one function of the product."""

    name: str
    promise: str  # that it breaks
    at: str  # module below ``steplog``, a colon, the function: ``engine.runs:Runs.get``
    old: str
    new: str
    is_of_cluster: bool = False  # found by several processes on Kafka, else by one


class Hunt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one mutant."""

    name: str
    promise: str
    seed: int | None  # that found it
    said: str  # what the check said, one line


class MutantStale(Exception):
    """The source that a mutant changes is not there any more."""


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """Put a fault into the product. Raises ``MutantStale`` where its piece of source does not occur exactly once."""
    function = _function(mutant)
    code = function.__code__
    function.__code__ = _changed(mutant, function)
    try:
        yield
    finally:
        function.__code__ = code


def hunt(mutant: Mutant, seeds: int, known: int | None = None) -> Hunt:
    """Simulate until a seed finds the fault: the known one first, then from 0 on. Anything that is raised is a find."""
    first = [] if known is None else [known]
    with mutated(mutant):
        for seed in (*first, *range(seeds)):
            try:
                (simulate_cluster if mutant.is_of_cluster else simulate)(seed)
            except Exception as error:  # noqa: BLE001 - of the product, too, which has the fault
                said = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                return Hunt(name=mutant.name, promise=mutant.promise, seed=seed, said=" ".join(said.split()))
    return Hunt(name=mutant.name, promise=mutant.promise, seed=None, said="not found")


def _function(mutant: Mutant) -> FunctionType:
    module, _, path = mutant.at.partition(":")
    found: object = import_module(module if module.startswith("tests.") else f"steplog.{module}")
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), f"{mutant.name}: {mutant.at} is no function"
    return found


def _changed(mutant: Mutant, function: FunctionType) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise MutantStale(f"{mutant.name}: {mutant.at} has {mutant.old!r} {source.count(mutant.old)} times, not once")
    tree = ast.parse(source.replace(mutant.old, mutant.new))
    ((definition,), code) = (tree.body, compile(tree, f"<mutant {mutant.name}>", "exec"))
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef), f"{mutant.name}: one function, as it was"
    (changed,) = [const for const in code.co_consts if isinstance(const, CodeType) and const.co_name == definition.name]
    return changed
