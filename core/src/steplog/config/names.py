"""What to say of a key that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches

from steplog.config.connectors import CONNECTORS
from steplog.config.schema import LATER, keys, tables


def unknown_key(name: str) -> str:
    """Say why a dotted name is no key, with the nearest right one. A table is named with a dot at its end."""
    table, _, rest = name.partition(".")
    for later in (name, table):
        if later in LATER:
            return f"not available in this version: {LATER[later]} will come; take it out"
    if table == CONNECTORS:
        return f"connectors are written in steplog.toml, as [{CONNECTORS}.NAME]"
    if table not in tables():
        kind = "table" if "." in name else "key"
        own = [key for key in keys() if key.endswith(f".{table}")]
        return f"unknown {kind}; {_hint(own or nearest(table, tables()), tables())}"
    siblings = [key.removeprefix(f"{table}.") for key in keys() if key.startswith(f"{table}.")]
    elsewhere = [key for key in keys() if key.endswith(f".{rest}")]
    return f"unknown key; {_hint(nearest(rest, siblings) or elsewhere, siblings)}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most like this one, if any is."""
    return get_close_matches(name, list(known), 1, 0.7)


def hint_of(name: str, known: Iterable[str]) -> str:
    """Say which known name could be meant, else which there are."""
    return _hint(nearest(name, known), known)


def _hint(near: list[str], known: Iterable[str]) -> str:
    return f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}"
