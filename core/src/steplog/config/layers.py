"""The layers that a configuration comes from. Each gives settings, as they were written, and what is wrong with it."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from steplog.config.connectors import CONNECTORS, NAME, TYPES, connector_keys
from steplog.config.flags import FLAGS, INNGEST_FLAGS, as_value, inngest_variables
from steplog.config.forms import Key
from steplog.config.names import hint_of, nearest, unknown_key
from steplog.config.positions import KeyPath, toml_lines
from steplog.config.problems import Place, Problem
from steplog.config.schema import keys, tables

SHORT = {
    "STEPLOG_LOG": "log.url",
    "STEPLOG_HISTORY": "history.url",
    "STEPLOG_EVENT_KEY": "auth.event_keys",
    "STEPLOG_SIGNING_KEY": "auth.signing_keys",
}
"""Short names of variables. ``STEPLOG_URL`` and ``STEPLOG_ENV`` are of commands that talk to a server."""

INNGEST_SUFFIXES = (".json", ".yaml", ".yml", ".toml")
_TOML_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_JSON_AT = re.compile(r" \(byte (\d+)\)$")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A key, and a value as one layer has it."""

    key: Key
    value: Any  # as it was written: text, number, list
    place: Place
    base: Path  # what relative paths in the value are relative to
    lines: Mapping[str, int] = {}  # of the options in a value that is a table of them

    def place_of(self, option: str) -> Place:
        """Where an option was written."""
        return msgspec.structs.replace(self.place, line=self.lines.get(option, self.place.line))


Layer = Iterator[Setting | Problem]


def steplog_file(path: Path, name: str) -> Layer:
    """Read ``steplog.toml``; ``name`` is how messages call it."""
    text = _text(path, name)
    if isinstance(text, Problem):
        yield text
        return
    parsed = _toml(text, name)
    if isinstance(parsed, Problem):
        yield parsed
        return
    lines = toml_lines(text)
    for table, values in parsed.items():
        place = Place(name, "file", lines.get((table,)))
        if table == CONNECTORS and isinstance(values, dict):
            yield from _connectors(values, lines, name, path.parent)
        elif table not in tables() and table != CONNECTORS:
            name_ = f"{table}." if isinstance(values, dict | list) else table
            yield Problem(place=place, key=table, problem=unknown_key(name_))
        elif not isinstance(values, dict):
            yield Problem(place=place, key=table, problem=f"a table is expected: [{table}]")
        else:
            for rest, value in values.items():
                at = Place(name, "file", lines.get((table, rest)))
                yield _setting(f"{table}.{rest}", value, at, path.parent, _below(lines, (table, rest)))


def _connectors(tables_: Mapping[str, Any], lines: Mapping[KeyPath, int], file: str, base: Path) -> Layer:
    """Read ``[connectors.NAME]``. A connector whose type is not known has no keys."""
    for name, values in tables_.items():
        table = f"{CONNECTORS}.{name}"
        place = Place(file, "file", lines.get((CONNECTORS, name)))
        if not isinstance(values, dict):
            yield Problem(place=place, key=table, problem=f"a table is expected: [{CONNECTORS}.NAME]")
            continue
        if not NAME.fullmatch(name):
            text = (
                "the name of a connector is of a-z, 0-9, '_' and '-', begins with neither of these, and has 63 at most"
            )
            yield Problem(place=place, key=table, problem=text)
            continue
        type_ = values.get("type", name)
        type_place = Place(file, "file", lines.get((CONNECTORS, name, "type"), place.line))
        if not isinstance(type_, str) or type_ not in TYPES:
            hint = hint_of(str(type_), TYPES)
            problem = f"unknown type; {hint}" if "type" in values else f"is missing; {hint}"
            yield Problem(place=type_place, key=f"{table}.type", value=brief(values.get("type")), problem=problem)
            continue
        known = connector_keys(name, type_)
        yield Setting(key=known[f"{table}.type"], value=type_, place=type_place, base=base)
        for rest, value in values.items():
            at = Place(file, "file", lines.get((CONNECTORS, name, rest)))
            key = known.get(f"{table}.{rest}")
            if key is None:
                fields = [each.rpartition(".")[2] for each in known]
                yield Problem(place=at, key=f"{table}.{rest}", problem=f"unknown key; {hint_of(rest, fields)}")
            elif rest != "type":
                below = _below(lines, (CONNECTORS, name, rest))
                yield Setting(key=key, value=value, place=at, base=base, lines=below)


def _below(lines: Mapping[KeyPath, int], table: KeyPath) -> dict[str, int]:
    """The line of each option in a table."""
    return {".".join(path[len(table) :]): line for path, line in lines.items() if path[: len(table)] == table}


def inngest_file(path: Path, name: str) -> Layer:
    """Read a file in the form of Inngest's, whose keys are its flags (DEV-04, HOST-10)."""
    if path.suffix not in INNGEST_SUFFIXES:
        ending = f"{path.suffix} is no ending that is known" if path.suffix else "a name without an ending"
        yield Problem(place=Place(name, "file"), problem=f"{ending}; there are .toml, .json and .yaml")
        return
    text = _text(path, name)
    parsed = text if isinstance(text, Problem) else _parsed(text, path.suffix, name)
    if isinstance(parsed, Problem):
        yield parsed
        return
    assert isinstance(text, str), "what cannot be read was a problem"
    lines = _lines(text, path.suffix, parsed)
    for flag, value in parsed.items():
        place = Place(name, "file", lines.get(flag))
        if flag in INNGEST_FLAGS:
            yield from _flag(flag, value, place, path.parent)
        else:
            near = nearest(flag, INNGEST_FLAGS)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(INNGEST_FLAGS)}"
            yield Problem(place=place, key=flag, problem=f"unknown key; {hint}")


def inngest_variables_layer(environment: Mapping[str, str], base: Path) -> Layer:
    """Read ``INNGEST_<FLAG>``. Other names with that prefix are settings of the SDKs."""
    for flag, variable in inngest_variables():
        if environment.get(variable):
            yield from _flag(flag, environment[variable], Place(variable, "environment"), base)


def variables(environment: Mapping[str, str], base: Path) -> Layer:
    """Read ``STEPLOG_LIMITS__STEPS=500``, and the short names. Only a name with two underscores is taken for a key."""
    for variable, text in environment.items():
        if text and variable not in SHORT and variable.startswith("STEPLOG_") and "__" in variable:
            name = variable.removeprefix("STEPLOG_").replace("__", ".").lower()
            yield _setting(name, _from_text(name, text), Place(variable, "environment"), base)
    for variable, name in SHORT.items():
        if given := environment.get(variable):
            value = [given] if keys()[name].is_list else given
            yield _setting(name, value, Place(variable, "environment"), base)


def flags(given: Mapping[str, Any], base: Path) -> Layer:
    """Read what the command line said, by the flag's name without its hyphens."""
    for flag in reversed(FLAGS):  # --log wins over --sqlite-dir
        if flag in given:
            yield from _flag(flag, given[flag], Place(f"--{flag}", "flag"), base)


def sets(given: Sequence[str], base: Path) -> Layer:
    """Read ``--set limits.steps=500``."""
    place = Place("--set", "flag")
    for text in given:
        name, separator, value = text.partition("=")
        if separator:
            yield _setting(name.strip(), _from_text(name.strip(), value.strip()), place, base)
        else:
            yield Problem(place=place, key=name, problem="a value is missing: --set limits.steps=500")


def brief(value: object) -> str:
    """A value as it stands in a message; nothing where it is long."""
    text = msgspec.json.encode(value).decode() if isinstance(value, str | int | float | bool) else ""
    return text if len(text) <= 40 else ""


def _setting(
    name: str, value: Any, place: Place, base: Path, lines: Mapping[str, int] = MappingProxyType({})
) -> Setting | Problem:
    key = keys().get(name)
    if key is None:
        return Problem(place=place, key=name, problem=unknown_key(name))
    return Setting(key=key, value=value, place=place, base=base, lines=lines)


def _flag(name: str, value: Any, place: Place, base: Path) -> Layer:
    flag = FLAGS[name]
    if flag.refused is not None:
        yield Problem(place=place, key=name if place.kind == "file" else "", problem=flag.refused)
    elif flag.key is not None:
        value = as_value(name, value)
        if place.kind == "environment" and isinstance(value, str):
            value = _from_text(flag.key, value)
        yield _setting(flag.key, value, place, base)


def _from_text(name: str, text: str) -> Any:
    """Read a value that is given as text in the form of its key: lists are parted by commas, or written as in TOML."""
    key = keys().get(name)
    if key is not None and key.form == "count" and text.lstrip("+-").isdecimal():
        return int(text)
    if key is not None and (key.is_list or key.form == "client"):
        if text.startswith(("[", "{")):
            try:
                return tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                return text
        return [part.strip() for part in text.split(",") if part.strip()] if key.is_list else text
    return text


def _text(path: Path, name: str) -> str | Problem:
    place = Place(name, "file")
    try:
        return path.read_bytes().decode("utf8")
    except UnicodeDecodeError as error:
        return Problem(place=place, problem=f"is not UTF-8 (byte {error.start})")
    except OSError as error:
        return Problem(place=place, problem=f"cannot be read: {error.strerror}")


def _toml(text: str, name: str) -> dict[str, Any] | Problem:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        at = _TOML_AT.search(str(error))
        line = None if at is None else int(at[1] or text.count("\n") + 1)
        return Problem(place=Place(name, "file", line), problem=f"is not TOML: {_TOML_AT.sub('', str(error))}")


def _parsed(text: str, suffix: str, name: str) -> dict[str, Any] | Problem:
    """Read TOML, JSON or YAML."""
    if suffix == ".toml":
        return _toml(text, name)
    try:
        value = msgspec.json.decode(text) if suffix == ".json" else msgspec.yaml.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        what, line = _json_problem(text, str(error)) if suffix == ".json" else _yaml_problem(error)
        kind = "JSON" if suffix == ".json" else "YAML"
        return Problem(place=Place(name, "file", line), problem=f"is not {kind}: {what}")
    if not isinstance(value, dict):
        return Problem(place=Place(name, "file"), problem="names of flags with their values are expected")
    return {str(key): each for key, each in value.items()}


def _json_problem(text: str, said: str) -> tuple[str, int]:
    at = _JSON_AT.search(said)
    before = text.encode()[: int(at[1])] if at is not None else text.encode()
    return _JSON_AT.sub("", said), before.count(b"\n") + 1


def _yaml_problem(error: Exception) -> tuple[str, int | None]:
    """What the YAML library found, without the part of the text that it may quote: that may be a secret."""
    found = error.__context__
    mark = getattr(found, "problem_mark", None)
    return getattr(found, "problem", None) or "it cannot be read", None if mark is None else mark.line + 1


def _lines(text: str, suffix: str, flags: Iterable[str]) -> dict[str, int]:
    """Find the lines of flags; in JSON and YAML that of a flag which could be on two is not known."""
    if suffix == ".toml":
        return {path[0]: line for path, line in toml_lines(text).items() if len(path) == 1}
    found = {}
    for flag in flags:
        places = list(re.finditer(rf"""(?:^|[{{,])\s*["']?{re.escape(flag)}["']?\s*:""", text, re.MULTILINE))
        if len(places) == 1:
            found[flag] = text.count("\n", 0, places[0].end()) + 1
    return found
