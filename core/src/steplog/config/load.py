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
from steplog.config.client import as_settings, client_problem, reserved_problems
from steplog.config.connectors import CONNECTORS, TYPES, connector_keys
from steplog.config.forms import Form, Key
from steplog.config.layers import INNGEST_SUFFIXES, Layer, Setting, brief
from steplog.config.problems import Place, Problem, refuse
from steplog.config.reading import read
from steplog.config.schema import DEV, Config, keys, tables
from steplog.config.secrets import Secret
from steplog.paths import MEMORY_LOG, KafkaAddress, has_password, history_problem, is_kafka, masked

FILE = "steplog.toml"
INNGEST_FILES = tuple(f"inngest{suffix}" for suffix in INNGEST_SUFFIXES)
BUILT_IN = "built-in"
SECRETS: tuple[Form, ...] = ("secrets", "history", "options", "client")
DEV_SECRETS: tuple[Form, ...] = ("history", "options", "client")  # it wants no keys


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
    configured, problems = examine(sources, reads=DEV_SECRETS if sources.is_dev else SECRETS)
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
    known = {**keys(), **_connector_keys(found)}
    values = {name: _value(key, found.get(name, []), sources) for name, key in known.items()}
    if not sources.is_dev:
        problems += _unfit_for_start(values["log.url"])
    if not is_kafka(values["log.url"].value):  # no client is made
        reads = set(reads) - {"client"}
    values = {
        name: _with_secrets(value, sources, problems) if value.key.form in reads else value
        for name, value in values.items()
    }
    config = _config(values)
    problems += _of_connectors(config, values, problems)
    problems += _of_client(config, values, problems, is_read="client" in reads)
    configured = Configured(
        config=config, values=values, root=sources.directory if own is None else own.path.parent,
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
    if log.setting is None:
        return []
    if log.value == MEMORY_LOG:
        return [_problem(log.setting, "it is gone when the process ends; start needs sqlite:PATH")]
    if is_kafka(log.value) and has_password(log.value) and log.setting.place.kind == "file":
        text = 'a secret in plain; write it in [kafka.client], as sasl.password = "env:NAME"'
        return [_problem(log.setting, text)]
    return []


def _with_secrets(value: Value, sources: Sources, problems: list[Problem]) -> Value:
    """Look up what a value's secrets refer to."""
    setting = value.setting
    if setting is None:
        return value
    if isinstance(value.value, dict):
        options = {
            name: _looked_up(option, setting, sources, problems, option_name=name)
            if isinstance(option, Secret)
            else option
            for name, option in value.value.items()
        }
        found: Any = {name: option for name, option in options.items() if option is not None}
    elif value.key.form == "history":
        found = _address(value.value, setting, sources, problems)
    else:
        secrets = [_looked_up(secret, setting, sources, problems) for secret in value.value]
        found = tuple([secret for secret in secrets if secret is not None])
    return msgspec.structs.replace(value, value=found)


def _address(address: Secret, setting: Setting, sources: Sources, problems: list[Problem]) -> Secret | None:
    """An address, which is a secret where it holds a password."""
    if address.is_plain and not has_password(address.reference):
        return address.read(sources.environment, setting.base)
    found = _looked_up(address, setting, sources, problems)
    problem = None if found is None or found.value is None else history_problem(found.value)
    if problem is not None:
        problems.append(_problem(setting, f"what is there {problem}"))
        return None
    return found


def _looked_up(
    secret: Secret, setting: Setting, sources: Sources, problems: list[Problem], *, option_name: str = ""
) -> Secret | None:
    """A secret with what it refers to; None, and a problem, where that is not there."""
    if secret.is_plain and setting.place.kind == "file" and not sources.is_dev:
        what = f"{option_name} is a secret" if option_name else "a secret"
        text = f'{what} in plain; write "env:NAME" or "file:PATH"'
        problems.append(_problem(setting, text, option_name))
        return None
    try:
        return secret.read(sources.environment, setting.base)
    except ValueError as error:
        problems.append(_problem(setting, str(error), option_name))
        return None


def _problem(setting: Setting, text: str, option: str = "") -> Problem:
    match setting.key.form, setting.value:
        case "secrets", _:
            value = ""
        case "history", str(url):
            value = "" if "@" in url and history_problem(url) is not None else brief(masked(url))
        case "log", str(url):
            value = brief(masked(url))
        case _, given:
            value = brief(given)
    return Problem(place=setting.place_of(option), key=setting.key.name, value=value, problem=text)


def _config(values: Mapping[str, Value]) -> Config:
    """Put the values in their tables."""
    fields: dict[str, dict[str, Any]] = {table: {} for table in tables()}
    for name, value in values.items():
        table = name.partition(".")[0]
        if table != CONNECTORS:
            fields[table][value.key.field] = value.value
    made: dict[str, Any] = {table: kind(**fields[table]) for table, kind in tables().items()}
    connectors = {}
    for name, type_ in _types(values):
        table = f"{CONNECTORS}.{name}."
        own = {value.key.field: value.value for key, value in values.items() if key.startswith(table)}
        del own["type"]
        connectors[name] = TYPES[type_](**own)
    return Config(**made, connectors=connectors)


def _types(values: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    """The connectors, each with its type."""
    for key, value in values.items():
        if key.startswith(f"{CONNECTORS}.") and key.endswith(".type"):
            yield key.split(".")[1], value.value


def _connector_keys(found: Mapping[str, list[tuple[Setting, Any]]]) -> dict[str, Key]:
    """The keys of the connectors that were declared."""
    types = [(name.split(".")[1], settings[-1][1]) for name, settings in found.items() if name.endswith(".type")]
    return {key: each for name, type_ in types for key, each in connector_keys(name, type_).items()}


def _of_connectors(config: Config, values: Mapping[str, Value], known: Sequence[Problem]) -> Iterator[Problem]:
    """What connectors cannot do as they are declared, unless a problem of the same key is known."""
    told = {problem.key for problem in known}
    for name, connector in config.connectors.items():
        for field, text in connector.problems(config.log.url):
            value = values[f"{CONNECTORS}.{name}.{field}"]
            setting = value.setting or values[f"{CONNECTORS}.{name}.type"].setting
            assert setting is not None, "its type was written, or its name"
            if value.key.name not in told:
                shown = brief(value.value) if value.setting is not None else ""
                at = setting.place_of(text.partition(" ")[0])  # of an option, whose name comes first
                yield Problem(place=at, key=value.key.name, value=shown, problem=text)


def _of_client(
    config: Config, values: Mapping[str, Value], known: Sequence[Problem], *, is_read: bool
) -> Iterator[Problem]:
    """What the clients of a log on Kafka are not to be told, or do not understand (``is_read``: secrets are there)."""
    log, client = values["log.url"], values["kafka.client"]
    if config.kafka_log is None:
        return
    if log.setting is not None:
        for _, text in reserved_problems(dict(KafkaAddress.parse(log.value).settings)):
            yield _problem(log.setting, text)
    if client.setting is None or client.key.name in {problem.key for problem in known}:
        return
    refused = list(reserved_problems(client.value))
    yield from [_problem(client.setting, text, name) for name, text in refused]
    problem = client_problem(as_settings(client.value)) if is_read and not refused else None
    if problem is not None:
        yield _problem(client.setting, problem, next((name for name in client.value if name in problem), ""))


def secret_values(secrets: Sequence[Secret]) -> tuple[str, ...]:
    """The secrets themselves, of those that were read."""
    return tuple(secret.value for secret in secrets if secret.value is not None)
