"""The flags of ``dev`` and ``start`` as keys, those of Inngest's among them (DEV-04, HOST-04 … HOST-10).

One table for three layers: the command line, ``INNGEST_<FLAG>`` and ``inngest.{json,yaml,toml}``.
"""

from collections.abc import Iterator
from typing import Any

import msgspec


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """A flag: the key that it sets, or why it sets none. One with neither is taken without effect."""

    key: str | None = None
    refused: str | None = None
    is_ours: bool = False  # no flag of Inngest's


_HTTP_APPS = "apps over HTTP will come in a later version; name Python files, as in: steplog dev orders.py"
_SILENT = (
    "json", "log-level", "no-discovery", "no-poll", "poll-interval", "queue-workers", "tick", "verbose",
)  # fmt: skip

FLAGS = {
    "log": Flag(key="log.url", is_ours=True),
    "sqlite-dir": Flag(key="log.url"),
    "history": Flag(key="history.url", is_ours=True),
    "role": Flag(key="server.roles", is_ours=True),
    "postgres-uri": Flag(key="history.url"),
    "host": Flag(key="server.host"),
    "port": Flag(key="server.port"),
    "allow-host": Flag(key="server.allow_hosts", is_ours=True),
    "event-key": Flag(key="auth.event_keys"),
    "signing-key": Flag(key="auth.signing_keys"),
    "retry-interval": Flag(key="engine.retry_interval"),
    "sdk-url": Flag(refused=_HTTP_APPS),
    "urls": Flag(refused=_HTTP_APPS),
    "redis-uri": Flag(refused="steplog needs no Redis: queue and state are in its log; take it out"),
} | dict.fromkeys(_SILENT, Flag())

INNGEST_FLAGS = {name: flag for name, flag in FLAGS.items() if not flag.is_ours}


def as_value(name: str, value: Any) -> Any:
    """Write a flag's value as its key has it: seconds get their unit, a directory becomes the log in it."""
    if name == "retry-interval" and isinstance(value, int | str) and str(value).isdecimal():
        return f"{value}s"
    if name == "sqlite-dir" and isinstance(value, str):
        return f"sqlite:{value.rstrip('/') or '/'}/steplog.db".replace("//", "/")
    if name in ("event-key", "signing-key") and isinstance(value, str):
        return [value]
    if name == "role" and isinstance(value, list | tuple):
        return [role.strip() for item in value for role in str(item).split(",")]
    return value


def inngest_variables() -> Iterator[tuple[str, str]]:
    """Each of Inngest's flags with the variable that stands for it (HOST-09)."""
    return ((name, f"INNGEST_{name.replace('-', '_').upper()}") for name in INNGEST_FLAGS)
