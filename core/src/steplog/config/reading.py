"""Reads a value in the form of its key: text, number or list in, the parsed value out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steplog.config.forms import Key
from steplog.config.layers import Setting
from steplog.config.secrets import Secret
from steplog.config.units import parse_duration_ms, parse_size_bytes
from steplog.paths import MEMORY_LOG, file_path, file_url, history_problem, is_kafka, is_postgres, log_path, log_problem

SECRET_OPTIONS = ("password", "passphrase", "secret", ".pem")  # how their names end


def read(setting: Setting) -> Any:
    """Read a setting's value. Raises ``ValueError`` with a sentence for each thing that is wrong."""
    key, value = setting.key, setting.value
    match key.form:
        case "count":
            return _count(key, value)
        case "text":
            return _text(value)
        case "word":
            return _word(key, value)
        case "duration":
            if _is_number(value):
                raise ValueError(f'a duration needs its unit: "{value}{_unit(key)}"')
            return parse_duration_ms(_text(value))
        case "size":
            if _is_number(value):
                raise ValueError(f'a size needs its unit: "{value}{"MB" if value < 1_000 else "B"}"')
            return parse_size_bytes(_text(value))
        case "log":
            return _log(_text(value), setting.base)
        case "history":
            return _history(_text(value), setting.base)
        case "targets":
            return tuple(_target(item, setting.base) for item in _items(value))
        case "words":
            return _words(key, value)
        case "texts":
            return tuple(_items(value))
        case "secrets":
            return tuple(Secret(item) for item in _items(value))
        case "options" | "client":
            return dict(_options(value, ""))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unit(key: Key) -> str:
    return str(key.show(key.default) or "s").lstrip("0123456789")


def _count(key: Key, value: object) -> int:
    least, most = key.least or 0, key.most
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        bounds = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise ValueError(f"expected a whole number {bounds}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('expected text in quotes, as "…"')
    return value


def _word(key: Key, value: object) -> str:
    if not isinstance(value, str) or value not in key.words:
        raise ValueError("expected " + " or ".join(f'"{word}"' for word in key.words))
    return value


def _words(key: Key, value: object) -> tuple[str, ...]:
    """Some of a key's words, at least one, each once."""
    words = tuple(dict.fromkeys(_items(value)))
    if not words or not set(words) <= set(key.words):
        raise ValueError("expected one or more of " + ", ".join(f'"{word}"' for word in key.words))
    return words


def _items(value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError('expected a list of texts, as ["…", "…"]')
    return list(value)


def _options(value: object, prefix: str) -> Iterator[tuple[str, Any]]:
    """Read options of a client; ``sasl.password = …`` is what ``"sasl.password" = …`` is."""
    if not isinstance(value, dict):
        raise ValueError("expected a table of options")
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            yield from _options(item, f"{name}.")
        elif not isinstance(item, str | int | float):
            raise ValueError(f"{name} is text, a number, true or false")
        else:
            is_secret = isinstance(item, str) and (item.startswith(("env:", "file:")) or name.endswith(SECRET_OPTIONS))
            yield name, Secret(str(item)) if is_secret else item


def _log(url: str, base: Path) -> str:
    problem = log_problem(url)
    if problem is not None:
        raise ValueError(problem)
    return url if url == MEMORY_LOG or is_kafka(url) else f"sqlite:{_beside(str(log_path(url)), base)}"


def _history(url: str, base: Path) -> Secret:
    secret = Secret(url)
    if not secret.is_plain:
        return secret
    problem = history_problem(url)
    if problem is not None:
        raise ValueError(problem)
    return secret if is_postgres(url) else Secret(file_url(Path(_beside(str(file_path(url)), base))))


def _target(target: str, base: Path) -> str:
    """A file is looked for beside the configuration; a module is imported by name."""
    name, separator, attribute = target.partition(":")
    return f"{_beside(name, base)}{separator}{attribute}" if name.endswith(".py") else target


def _beside(path: str, base: Path) -> str:
    """A relative path as the working directory has it."""
    absolute = os.path.abspath(base / path)  # noqa: PTH100 - links stay as they are
    return path if Path(path).is_absolute() else min(os.path.relpath(absolute), absolute, key=len)
