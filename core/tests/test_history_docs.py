"""``docs/journal.md`` names every kind and field, and its examples run."""

import re
import sqlite3
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from steplog.engine.operations import ErrorInfo
from steplog.engine.records import LogRestored, Record, RunRef, Skip, StoredEvent

from .history_log import RecordedPartition

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
STRUCTS = [*get_args(Record), LogRestored, RunRef, Skip, StoredEvent, ErrorInfo]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_kind_and_field_is_described(struct: type[msgspec.Struct]) -> None:
    tag = struct.__struct_config__.tag
    assert tag is None or f"`{tag}`" in PAGE
    described = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`[^`\n]+`", PAGE))))
    assert set(struct.__struct_encode_fields__) <= described


def test_example_record_is_one() -> None:
    (example,) = re.findall(r"```json\n(.+)\n```", PAGE)
    assert msgspec.json.decode(example, type=Record).seq == 2


def test_queries_run(tmp_path: Path) -> None:
    log = RecordedPartition(tmp_path / "log.db")
    run = log.finish()
    log.close()
    journal, events = re.findall(r'sqlite3 -readonly steplog.db "\n(.+?)"\n', PAGE, re.DOTALL)
    connection = sqlite3.connect(log.path)
    found = connection.execute(journal.replace("01JD4QZ3M4T5C8PGA1X2N8F2KQ", run)).fetchall()
    assert [(seq, kind) for seq, kind, _ in found] == [
        (1, "run.scheduled"), (2, "step.completed"), (3, "step.completed"), (4, "step.completed"), (5, "run.completed"),
    ]  # fmt: skip
    assert [name for _, name, _ in connection.execute(events).fetchall()] == ["f"]
    connection.close()
