"""Imports point one way (architecture: *layout*): a cycle, or an import upward, means a name is in the wrong place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import steplog

ROOT = Path(steplog.__file__).parent
# Each may import those before it. Packages count as one.
ORDER = (
    "errors", "json_text", "clock", "durations", "entropy", "paths", "signing", "forwarding", "kafka_record", "dead",
    "tuning", "diagnostics", "cel", "engine", "config", "codec", "event", "values", "functions", "group",
    "step", "step_sync", "context", "app", "outgoing", "client", "__init__", "log", "history", "server", "drivers",
    "outage", "told", "turns", "partitions", "member", "migrate", "connectors", "service", "shells", "event_types",
    "node", "testing", "loading", "demo", "cli", "__main__",
)  # fmt: skip
SIBLINGS = {"log": set[str](), "history": {"log"}, "server": {"history"}, "drivers": set[str]()}
SDK = {"codec", "event", "functions", "group", "step", "step_sync", "context", "app"}
ENGINE_NEEDS = {"msgspec", "zoneinfo", "croniter"}
PURE = {
    "collections", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib", "heapq", "itertools", "math",
    "re", "typing",
}  # fmt: skip
_LISTED = set(ORDER)


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            if node.module == "steplog":
                yield from (f"steplog.{alias.name}" for alias in node.names)
            else:
                yield node.module


def unit_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def edges() -> set[tuple[str, str, str]]:
    """(importing unit, imported unit, file) among our own."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for name in imported(path):
            first, _, rest = name.partition(".")
            if first == "steplog":
                target = rest.partition(".")[0]
                is_module = target in _LISTED or (ROOT / target).is_dir() or (ROOT / f"{target}.py").exists()
                found.add((unit_of(path), target if is_module else "__init__", str(path.relative_to(ROOT))))
    return {edge for edge in found if edge[0] != edge[1]}


def test_every_module_has_its_place_in_the_order() -> None:
    units = {unit_of(path) for path in ROOT.rglob("*.py")}
    assert units <= _LISTED, f"give {units - _LISTED} a place in ORDER"


def test_imports_point_one_way() -> None:
    rank = {name: number for number, name in enumerate(ORDER)}
    assert [edge for edge in sorted(edges()) if rank[edge[1]] >= rank[edge[0]]] == []


def test_the_ports_implementations_do_not_know_one_another() -> None:
    for unit, allowed in SIBLINGS.items():
        known = {target for source, target, _ in edges() if source == unit}
        assert known & SIBLINGS.keys() <= allowed, unit


def test_what_an_author_imports_knows_nothing_that_runs_it() -> None:
    reached = {target for source, target, _ in edges() if source in SDK}
    assert reached <= SDK | {"errors", "durations", "engine", "cel"}


def test_the_engine_is_pure() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        foreign = {name.partition(".")[0] for name in imported(path)} - {"steplog"}
        assert foreign <= ENGINE_NEEDS | PURE, path
    assert {target for source, target, _ in edges() if source == "engine"} <= {"errors", "cel"}
