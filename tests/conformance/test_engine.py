"""P12, as users see it: the same app does the same on every log, and the journal says the same of it.

One app (``shop.py``) runs every story (``stories.py``) on a log, over a node that is killed, one that is stopped in
order, and one that ends what they have left. What came of it is read from the log alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kafka_clients import committed

from .conftest import LEDGER, Logs
from .places import Record
from .stories import told

EXPECTED = Path(__file__).with_name("journal.txt")
LOGS = ("memory", "sqlite", "kafka")
LEDGER_RUN = "<shop-ledger>"


def common(owners: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """What is the same on every log by what the documentation says.

    Records of other topics are written on Kafka alone (docs/steps.md), and there an event's route does not say which
    waits it has ended in other partitions (docs/journal.md): the waits say it.
    """
    return {
        owner: [{field: each for field, each in record.items() if field != "resumed"} for record in records]
        for owner, records in owners.items()
        if "ledger" not in owner
    }


@pytest.mark.parametrize("log", LOGS)
def test_every_story_comes_to_its_end(logs: Logs, log: str) -> None:
    assert logs.played(log).failures == {}


@pytest.mark.parametrize("log", LOGS)
def test_every_log_tells_the_same_stories(logs: Logs, log: str) -> None:
    assert told(common(logs.played(log).journal)) == EXPECTED.read_text(encoding="utf8")


@pytest.mark.parametrize("log", LOGS[1:])
def test_every_field_is_the_same(logs: Logs, log: str) -> None:
    one, other = logs.played("memory"), logs.played(log)
    assert common(other.journal) == common(one.journal)
    assert [event for event in other.events if not is_of_ledger(event)] == [
        event for event in one.events if not is_of_ledger(event)
    ]


def is_of_ledger(event: Record) -> bool:
    return "ledger" in str(event["internal_id"])


@pytest.mark.parametrize("log", LOGS)
def test_the_records_of_a_run_are_counted_without_a_gap(logs: Logs, log: str) -> None:
    runs = {owner: records for owner, records in logs.played(log).journal.items() if owner.startswith("<shop-")}
    assert len(runs) > 20
    for records in runs.values():
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))


@pytest.mark.parametrize("log", LOGS)
def test_bodies_run_as_often_as_they_have_to(logs: Logs, log: str) -> None:
    """Once, but where they fail: neither a kill nor a stop repeats what was recorded."""
    assert logs.played(log).bodies == {"flaky": 3, "own code": 2, "refused": 1, "killed": 1, "stopped": 1}


@pytest.mark.parametrize("log", LOGS[:2])
def test_an_event_says_which_waits_it_has_ended(logs: Logs, log: str) -> None:
    journal = logs.played(log).journal
    ended = {owner: records[0].get("resumed") for owner, records in journal.items() if "resumed" in records[0]}
    runs = {"<both/one>": "both", "<paid/paid 2>": "paid", "<killed/go-on>": "killed", "<stopped/go-on>": "stopped",
            "<parked/go-on>": "parked"}  # fmt: skip
    assert ended == {event: [{"run": f"<shop-{run}>", "step": "wait"}] for event, run in runs.items()}


@pytest.mark.parametrize("log", LOGS)
def test_a_record_of_another_topic_is_written_or_refused_at_once(logs: Logs, log: str) -> None:
    records: list[dict[str, Any]] = logs.played(log).journal[LEDGER_RUN]
    if log == "sqlite":
        assert [record["kind"] for record in records] == ["run.scheduled", "step.failed", "run.failed"]
        assert records[1]["error"]["name"] == "ProduceUnsupported"
        return
    assert [record["kind"] for record in records] == ["run.scheduled", "step.completed", "run.completed"]
    if log == "kafka":
        assert committed(logs.on_kafka.bootstrap, LEDGER) == [b'{"n":1}']
