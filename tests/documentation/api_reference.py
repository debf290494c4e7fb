"""``docs/reference/api.md``, made of what ``steplog`` and ``steplog.testing`` list in ``__all__``.

Signatures are taken from the source as they are written there, so they read alike under every version of Python.
"""

import ast
import functools
import importlib
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import steplog
import steplog.testing
from steplog import SteplogError

HEAD = """# Python API

What `steplog` and `steplog.testing` export, from their docstrings; `python -m tests.documentation` writes this page.
Whatever else the package contains may change any day. `await` before a signature says that the call is awaited.
"""
CATALOGUE = r"(?:[A-Z]{2,}\d?-\d+|P\d+)"
WIDTH = 110
GIVEN = {"Context", "ContextSync", "CurrentStep", "Function", "RunView", "Step", "StepSync", "UsersLoop"}  # never made
INNER = {  # public for the package's own use
    "EventType.source", "Function.decode_output", "Function.handler", "Function.spec", "Function.takes_step",
    "UsersLoop",
}  # fmt: skip
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def build() -> str:
    """Write the page."""
    parts = [HEAD]
    for module in (steplog, steplog.testing):
        names = [name for name in module.__all__ if module is steplog or name not in steplog.__all__]
        index = " · ".join(f"[`{name}`](#{name.lower()})" for name in names)
        parts += [f"## {module.__name__}\n", index + "\n"]
        parts += ["\n".join(_entry(module, name)) for name in names]
    return "\n".join(parts)


def markdown(docstring: str) -> str:
    """Turn a docstring into Markdown: single backquotes, and no ids of the catalogue."""
    text = inspect.cleandoc(docstring).replace("``", "`")
    text = re.sub(rf" ?\({CATALOGUE}(?:, {CATALOGUE})*\)", "", text)
    text = re.sub(rf"\({CATALOGUE}, ", "(", text)
    return text + "\n" if text else ""


def _entry(module: ModuleType, name: str) -> Iterator[str]:
    value = getattr(module, name)
    yield f"### {name}\n"
    if inspect.isclass(value):
        yield from _class(value)
    elif inspect.isfunction(value):
        yield from _function(value, name)
    else:
        assert value == steplog.Duration, f"{name} is neither a class nor a function"
        yield "`timedelta | int`: a `timedelta`, or whole milliseconds.\n"


# --- classes


def _class(kind: type[Any]) -> Iterator[str]:
    tree = _tree(kind)
    assert isinstance(tree, ast.ClassDef)
    if issubclass(kind, SteplogError):
        again = ", trying again may help" if kind.retryable else ""
        yield f"A kind of `{ast.unparse(tree.bases[0])}`: code `{kind.code}`, exit code {kind.exit_code}{again}.\n"
    elif _fields(tree):
        yield _code(_call(kind.__name__, _fields(tree)))
    elif "__init__" in vars(kind) and kind.__name__ not in GIVEN:
        yield _code(_signature(_init(tree), kind.__name__, kind))
    yield markdown(kind.__doc__ or "")
    carried = [name for name in _carried(tree) if f"{kind.__name__}.{name}" not in INNER]
    if carried:
        yield f"It has {', '.join(f'`{name}`' for name in carried)}.\n"
    if not issubclass(kind, SteplogError) and kind.__name__ not in INNER:
        yield from _members(kind)


def _carried(tree: ast.ClassDef) -> list[str]:
    """The public attributes that its constructor sets."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for each in ast.walk(node)
        if isinstance(each, ast.Assign | ast.AnnAssign)
        for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
    ]
    names = [ast.unparse(each) for target in targets for each in getattr(target, "elts", [target])]
    return list(dict.fromkeys(name[5:] for name in names if re.match(r"self\.[a-z]", name)))


def _fields(tree: ast.ClassDef) -> list[str]:
    """The fields of a struct, as they are written."""
    written = [ast.unparse(node) for node in tree.body if isinstance(node, ast.AnnAssign)]
    return [
        re.sub(r"msgspec\.field\(default_factory=\w+\)", "{}", field) for field in written if "ClassVar" not in field
    ]


def _members(kind: type) -> Iterator[str]:
    """Properties and constants as a list, then methods; a synchronous twin has what the other has."""
    names = _public(kind)
    twin = _twin(kind)
    if twin is not None:
        same = [name for name in names if hasattr(twin, name)]
        names = [name for name in names if name not in same]
        shown = ", ".join(f"`{name}`" for name in same)
        how = ", without `await`" if any(inspect.iscoroutinefunction(getattr(twin, name)) for name in same) else ""
        yield f"{shown}: as in [`{twin.__name__}`](#{twin.__name__.lower()}){how}.\n"
    values = {name: inspect.getattr_static(kind, name) for name in names}
    listed = [line for name, value in values.items() for line in _listed(kind, name, value)]
    if listed:
        yield "\n".join([*listed, ""])
    for name, value in values.items():
        if inspect.isfunction(value):
            yield f"#### Calling {kind.__name__}\n" if name == "__call__" else f"#### {kind.__name__}.{name}\n"
            yield from _function(value, kind.__name__.lower() if name == "__call__" else name)


def _listed(kind: type, name: str, value: Any) -> Iterator[str]:
    match value:
        case property(fget=getter) | functools.cached_property(func=getter):
            text = " ".join(markdown(getter.__doc__ or "").split())
            yield f"- `{name}: {_returns(_definition(getter))}`: {text}"
        case str():
            yield f"- `{kind.__name__}.{name}`: `{value!s}`"


def _public(kind: type) -> list[str]:
    """Names in the order of the source, those of bases too that are no part of the API."""
    bases = [
        each
        for each in reversed(kind.__mro__)
        if each is kind or (each.__module__.startswith("steplog") and each.__name__ not in steplog.__all__)
    ]
    names = dict.fromkeys(name for each in bases for name in vars(each) if name[0] != "_" or name == "__call__")
    return [name for name in names if f"{kind.__name__}.{name}" not in INNER]


def _twin(kind: type) -> type | None:
    """The asynchronous class of a synchronous one."""
    name = kind.__name__
    return getattr(steplog, name.removesuffix("Sync")) if name.endswith("Sync") else None


# --- functions


def _function(function: Any, name: str) -> Iterator[str]:
    """Its signature and docstring; where overloads say more than the function itself, what they return."""
    tree = _definition(function)
    kinds = [_awaited(_returns(_definition(each))) for each in typing.get_overloads(function)]
    returned = [kind for kind in dict.fromkeys(kinds) if not kind.startswith("_")]
    if len(returned) == 1:
        tree.returns = ast.Name(returned[0])
    yield _code(_signature(tree, name, function))
    yield markdown(function.__doc__ or "")
    if len(returned) > 1:
        yield f"Returns, by what it is given: {', '.join(f'`{kind}`' for kind in returned)}.\n"


def _signature(tree: Definition, name: str, owner: Any) -> str:
    tree.args.args = [each for each in tree.args.args if each.arg != "self"]
    tree.args.posonlyargs = [each for each in tree.args.posonlyargs if each.arg != "self"]
    tree.args.defaults = [_resolved(each, owner) for each in tree.args.defaults]
    tree.args.kw_defaults = [None if each is None else _resolved(each, owner) for each in tree.args.kw_defaults]
    awaited = "await " if isinstance(tree, ast.AsyncFunctionDef) else ""
    is_constructor = tree.name == "__init__" or tree.returns is None
    return _call(awaited + name, _split(ast.unparse(tree.args)), "" if is_constructor else f" -> {_returns(tree)}")


def _resolved(default: ast.expr, owner: Any) -> ast.expr:
    """A constant of the module by its value, where that can be written in short."""
    if not isinstance(default, ast.Name):
        return default
    value = vars(sys.modules[owner.__module__]).get(default.id)
    return ast.Constant(value if isinstance(value, int | float) else ...)


def _call(name: str, parameters: list[str], end: str = "") -> str:
    """One line, or a line a parameter where that is too long."""
    parameters, end = [_spelled_out(each) for each in parameters], _spelled_out(end)
    line = f"{name}({', '.join(parameters)}){end}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *[f"    {each}," for each in parameters], f"){end}"])


def _spelled_out(text: str) -> str:
    """Annotations by what the package's own names for them stand for."""
    for name, meaning in _aliases().items():
        for given in re.findall(rf"\b{name}\[(\w+)\]", text):
            text = text.replace(f"{name}[{given}]", re.sub(r"\bA\b", given, meaning))
        text = re.sub(rf"\b{name}\b", meaning, text)
    return text


@functools.cache
def _aliases() -> dict[str, str]:
    """Names of types that are not public, and what they stand for."""
    found: dict[str, str] = {}
    for module in ("step", "functions", "group", "client.client"):
        for node in ast.parse(inspect.getsource(importlib.import_module(f"steplog.{module}"))).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp() as value):
                    found[name] = ast.unparse(value)
                case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name("TypeAlias"), value=value) if value:
                    found[name] = ast.unparse(value)
    return {name: meaning for name, meaning in found.items() if name[0].isupper() and not name.isupper()}


def _split(parameters: str) -> list[str]:
    """Part a list of parameters at the commas that stand in no brackets, and space the signs of the defaults."""
    parts, depth = [""], 0
    for character in parameters:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += " = " if character == "=" and depth == 0 else character
    return [part.strip() for part in parts if part]


def _returns(tree: Definition) -> str:
    return "None" if tree.returns is None else ast.unparse(tree.returns).replace("'", "")


def _awaited(kind: str) -> str:
    return re.sub(r"^Coroutine\[Any, Any, (.+)\]$", r"\1", kind)


def _init(tree: ast.ClassDef) -> ast.FunctionDef:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"][-1]


def _definition(function: Any) -> Definition:
    tree = _tree(function)
    assert isinstance(tree, Definition)
    return tree


def _tree(value: Any) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"
