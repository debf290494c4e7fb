"""Puts the layers together: later ones win, each value keeps its origin, and all problems are found at once.

Built-in < ``steplog.toml`` < ``inngest.{json,yaml,toml}`` < ``INNGEST_<FLAG>`` < ``STEPLOG_<…>`` < flags < ``--set``.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from steplog.config import layers
from steplog.config.layers import INNGEST_SUFFIXES, Layer, Setting, brief
from steplog.config.problems import Place, Problem, refuse
from steplog.config.reading import read
from steplog.config.schema import DEV, Config, Form, Key, keys, tables
from steplog.config.secrets import Secret
from steplog.paths import MEMORY_LOG, has_password, history_problem, masked

FILE = "steplog.toml"
INNGEST_FILES = tuple(f"inngest{suffix}" for suffix in INNGEST_SUFFIXES)
BUILT_IN = "built-in"
SECRETS: tuple[Form, ...] = ("secrets", "history")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where a configuration is read from."""

    is_dev: bool
    config: str | None = None  # --config
    flags: Mapping[str, Any] = {}  # those that were given: name without hyphens → value
    sets: Sequence[str] = ()  # --set
    environment: Mapping[str, str] = {}
    directory: Path = Path()


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A value in force, and where it comes from."""

    key: Key
    value: Any
    origin: str = BUILT_IN  # or steplog.toml:4, STEPLOG_LOG, --log
    overridden: tuple[str, ...] = ()  # the other layers that have the key, the strongest first
    setting: Setting | None = None  # as it was written


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration with the origin of each value."""

    config: Config
    values: Mapping[str, Value]  # by key, in the schema's order
    root: Path  # where steplog.toml is; the working directory where there is none
    files: tuple[str, ...]  # that were read


class _File(msgspec.Struct, frozen=True):
    """A file of configuration, and how messages call it."""

    path: Path
    name: str


def load(sources: Sources) -> Configured:
    """Read a configuration for ``dev`` or ``start``. Raises ``ConfigInvalid`` with every problem."""
    configured, problems = examine(sources, reads=("history",) if sources.is_dev else SECRETS)
    if not sources.is_dev:
        problems += missing_keys(configured, problems)
    refuse(problems, "steplog start")
    return configured


def examine(sources: Sources, *, reads: Collection[Form] = ()) -> tuple[Configured, list[Problem]]:
    """Read a configuration and return it with its problems; a value that cannot be read is left out.

    ``reads``: the forms of keys whose secrets have to be there. ``start`` takes none in plain from a file.
    """
    problems: list[Problem] = []
    found: dict[str, list[tuple[Setting, Any]]] = {}
    own, inngest = _find(sources, problems), _find_inngest(sources)
    for setting in _settings(_layers(sources, own, inngest), problems):
        try:
            found.setdefault(setting.key.name, []).append((setting, read(setting)))
        except ValueError as error:
            problems.append(_problem(setting, str(error)))
    values = {name: _value(key, found.get(name, []), sources) for name, key in keys().items()}
    if not sources.is_dev:
        problems += _unfit_for_start(values["log.url"])
    values = {
        name: _with_secrets(value, sources, problems) if value.key.form in reads else value
        for name, value in values.items()
    }
    configured = Configured(
        config=_config(values), values=values, root=sources.directory if own is None else own.path.parent,
        files=tuple(file.name for file in (own, inngest) if file is not None),
    )  # fmt: skip
    return configured, problems


def missing_keys(configured: Configured, known: Sequence[Problem]) -> list[Problem]:
    """What ``start`` cannot do without, unless a problem of it is known."""
    return [
        Problem(
            key=name, problem=f"{what} is missing: give --{flag}, set {variable}, or write it in {FILE}: "
            f'{name.partition(".")[2]} = ["env:{variable}"]',
        )
        for name, what, flag, variable in (
            ("auth.event_keys", "the event key", "event-key", "STEPLOG_EVENT_KEY"),
            ("auth.signing_keys", "the signing key", "signing-key", "STEPLOG_SIGNING_KEY"),
        )
        if not configured.values[name].value and name not in {problem.key for problem in known}
    ]  # fmt: skip


def _layers(sources: Sources, own: _File | None, inngest: _File | None) -> Iterator[Layer]:
    """Every layer, the weakest first."""
    if own is not None:
        yield layers.steplog_file(own.path, own.name)
    if inngest is not None:
        yield layers.inngest_file(inngest.path, inngest.name)
    yield layers.inngest_variables_layer(sources.environment, sources.directory)
    yield layers.variables(sources.environment, sources.directory)
    yield layers.flags(sources.flags, sources.directory)
    yield layers.sets(sources.sets, sources.directory)


def _settings(found: Iterable[Layer], problems: list[Problem]) -> Iterator[Setting]:
    for item in chain.from_iterable(found):
        if isinstance(item, Problem):
            problems.append(item)
        else:
            yield item


def _find(sources: Sources, problems: list[Problem]) -> _File | None:
    """Find ``steplog.toml``: named by --config, by STEPLOG_CONFIG, or here, or above."""
    named, place = sources.config, Place("--config", "flag")
    if named is None or _is_inngest(named):
        named, place = sources.environment.get("STEPLOG_CONFIG") or None, Place("STEPLOG_CONFIG", "environment")
    if named is None:
        return _above(sources.directory, (FILE,))
    if not (sources.directory / named).is_file():
        problems.append(Problem(place=place, problem=f"there is no file {named}"))
        return None
    return _File(sources.directory / named, named)


def _find_inngest(sources: Sources) -> _File | None:
    """Find a file in Inngest's form: named by --config, and in ``dev`` also here or above."""
    if sources.config is not None and _is_inngest(sources.config):
        return _File(sources.directory / sources.config, sources.config)
    return _above(sources.directory, INNGEST_FILES) if sources.is_dev else None


def _is_inngest(name: str) -> bool:
    path = Path(name)
    return path.suffix != ".toml" or path.stem == "inngest"


def _above(directory: Path, names: Sequence[str]) -> _File | None:
    directory = directory.absolute()
    for folder in (directory, *directory.parents):
        for name in names:
            if (folder / name).is_file():
                return _File(folder / name, os.path.relpath(folder / name, directory))
    return None


def _value(key: Key, found: Sequence[tuple[Setting, Any]], sources: Sources) -> Value:
    if not found:
        return Value(key=key, value=DEV.get(key.name, key.default) if sources.is_dev else key.default)
    places = [str(setting.place) for setting, _ in reversed(found)]
    setting, value = found[-1]
    return Value(key=key, value=value, origin=places[0], overridden=tuple(places[1:]), setting=setting)


def _unfit_for_start(log: Value) -> list[Problem]:
    if log.value != MEMORY_LOG or log.setting is None:
        return []
    return [_problem(log.setting, "it is gone when the process ends; start needs sqlite:PATH")]


def _with_secrets(value: Value, sources: Sources, problems: list[Problem]) -> Value:
    """Look up what a value's secrets refer to."""
    if value.setting is None:
        return value
    is_address, found = value.key.form == "history", []
    is_open = value.setting.place.kind == "file" and not sources.is_dev
    for secret in (value.value,) if is_address else value.value:
        if is_open and secret.is_plain and (not is_address or has_password(secret.reference)):
            problems.append(_problem(value.setting, 'a secret in plain; write "env:NAME" or "file:PATH"'))
            continue
        try:
            read_ = secret.read(sources.environment, value.setting.base)
        except ValueError as error:
            problems.append(_problem(value.setting, str(error)))
            continue
        problem = history_problem(read_.value) if is_address else None
        if problem is None:
            found.append(read_)
        else:
            problems.append(_problem(value.setting, f"what is there {problem}"))
    return msgspec.structs.replace(value, value=next(iter(found), None) if is_address else tuple(found))


def _problem(setting: Setting, text: str) -> Problem:
    match setting.key.form, setting.value:
        case "secrets", _:
            value = ""
        case "history", str(url):
            value = "" if "@" in url and history_problem(url) is not None else brief(masked(url))
        case _, given:
            value = brief(given)
    return Problem(place=setting.place, key=setting.key.name, value=value, problem=text)


def _config(values: Mapping[str, Value]) -> Config:
    """Put the values in their tables."""
    fields: dict[str, dict[str, Any]] = {table: {} for table in tables()}
    for name, value in values.items():
        fields[name.partition(".")[0]][value.key.field] = value.value
    made: dict[str, Any] = {table: kind(**fields[table]) for table, kind in tables().items()}
    return Config(**made)


def secret_values(secrets: Sequence[Secret]) -> tuple[str, ...]:
    """The secrets themselves, of those that were read."""
    return tuple(secret.value for secret in secrets if secret.value is not None)
