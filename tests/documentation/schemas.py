"""``docs/schema``: the JSON Schema of what others read of a log, made of the structs that write it."""

import json
from typing import Any

import msgspec
from msgspec import UNSET

from steplog.engine import records

ADDED = {"function_version"}  # records of before do not have it; journal.md says what that means
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def build_journal() -> str:
    """Write the schema of a record of the journal."""
    return _text(records.Record | records.LogRestored, "A record of the journal")


def build_event() -> str:
    """Write the schema of an accepted event."""
    return _text(records.StoredEvent, "An accepted event")


def _text(kind: Any, title: str) -> str:
    schema = msgspec.json.schema(kind)
    schema.pop("discriminator", None)  # OpenAPI's: the kinds say it themselves
    structs = {name: struct for name, struct in vars(records).items() if _is_struct(struct)}
    for name, found in schema["$defs"].items():
        found["description"] = found["description"].replace("``", "`")
        if name in structs:
            required = {*found["required"], *_always_written(structs[name])}
            found["required"] = [field for field in found["properties"] if field in required]
    return json.dumps({"$schema": DIALECT, "title": title, **schema}, indent=1, ensure_ascii=False) + "\n"


def _is_struct(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, msgspec.Struct)


def _always_written(struct: type[msgspec.Struct]) -> set[str]:
    """The fields that a record never lacks, though its struct has a default for them."""
    if struct.__struct_config__.omit_defaults:
        return set()
    return {each.encode_name for each in msgspec.structs.fields(struct) if each.default is not UNSET} - ADDED
