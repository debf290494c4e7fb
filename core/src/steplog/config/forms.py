"""How values are written: what tables of the configuration are made of."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Meta
from msgspec import inspect as types

from steplog.config.secrets import Secret
from steplog.config.units import format_duration, format_size
from steplog.paths import masked

Form = Literal[
    "count",
    "text",
    "word",
    "words",
    "duration",
    "size",
    "log",
    "history",
    "targets",
    "texts",
    "secrets",
    "options",
    "client",
]
Shown = str | int | list[str] | dict[str, str | int | float]


def form(form: Form) -> Meta:
    """How a key's value is written."""
    return Meta(extra={"form": form})


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table: each of its fields is annotated with its form, and with a description."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key: its name (``limits.event_size``), the field that has it, and how it is written."""

    name: str
    field: str
    form: Form
    default: Any  # the parsed value, of the form's type
    description: str
    words: tuple[str, ...] = ()  # those that it, or each of its items, may be
    least: int | None = None
    most: int | None = None

    @property
    def is_list(self) -> bool:
        return self.form in ("targets", "texts", "words", "secrets")

    def show(self, value: Any) -> Shown | None:
        """Write a parsed value as it is written in a file. Secrets are shown by their reference."""
        if value is None:
            return None
        match self.form:
            case "duration":
                return format_duration(value)
            case "size":
                return format_size(value)
            case "log":
                return masked(value)
            case "history":
                return masked(value.reference)
            case "options" | "client":
                return {name: str(item) if isinstance(item, Secret) else item for name, item in value.items()}
            case _ if self.is_list:
                return [str(item) for item in value]
        shown: Shown = value
        return shown


def keys_of(table: str, kind: type[msgspec.Struct]) -> Iterator[Key]:
    """The keys of a table."""
    for each in msgspec.structs.fields(kind):
        described = types.type_info(each.type)
        assert isinstance(described, types.Metadata), "each key is annotated with its form"
        inner = described.type
        word = inner.item_type if isinstance(inner, types.VarTupleType) else inner
        yield Key(
            name=f"{table}.{each.encode_name}", field=each.name,
            default={} if each.default is msgspec.NODEFAULT else each.default,
            form=(described.extra or {})["form"], description=(described.extra_json_schema or {})["description"],
            words=tuple(map(str, word.values)) if isinstance(word, types.LiteralType) else (),
            least=inner.ge if isinstance(inner, types.IntType) else None,
            most=inner.le if isinstance(inner, types.IntType) else None,
        )  # fmt: skip
