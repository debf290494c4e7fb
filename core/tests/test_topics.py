"""``steplog topics`` and the other commands over a log on a real Kafka, which a node has written."""

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from steplog.dead.letters import Entry, Letter
from steplog.dead.opening import open_dead
from steplog.engine import keys
from steplog.engine.messages import SignalHeard, SignalSent, WaitEnded
from steplog.kafka_record import Record
from steplog.log import encoding
from steplog.log.readable import readable_key, readable_value
from steplog.log.redo import Redo
from steplog.log.topics import SETTINGS, Layout, prepare
from steplog.paths import KafkaAddress

from .command_line import Done, steplog
from .history_log import RecordedPartition

RUN = keys.run(1, bytes(range(16)))
ANSWER_S = 10.0


class LogOnKafka:
    """The topics of one log. ``put`` writes what an engine would, in transactions as it does."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.address = KafkaAddress(servers, prefix)
        self.layout = Layout(prefix, 2)
        settings: dict[str, Any] = {"bootstrap.servers": servers, "log_level": 0}
        self.admin = AdminClient(settings)
        prepare(self.admin, self.layout, 1)
        self._producer = Producer({**settings, "transactional.id": prefix})
        self._producer.init_transactions(ANSWER_S)

    def put(self, topic: str, partition: int, *records: tuple[bytes, bytes | None]) -> None:
        self._producer.begin_transaction()
        for key, value in records:
            self._producer.produce(self.layout.name(topic), value, key, partition=partition)
        self._producer.commit_transaction(ANSWER_S)

    def steplog(self, *arguments: str) -> Done:
        return steplog(*arguments, "--log", self.address.url)

    def read(self, *arguments: str) -> Any:
        done = self.steplog(*arguments, "--json")
        assert done.code == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        for deleted in self.admin.delete_topics([self.layout.name(topic) for topic in SETTINGS]).values():
            deleted.result(ANSWER_S)


@pytest.fixture(scope="module")
def log(kafka: str) -> Iterator[LogOnKafka]:
    log = LogOnKafka(kafka, "steplog-tests-topics")
    try:
        yield log
    finally:
        log.close()


def test_every_topic_is_listed_with_what_it_holds(log: LogOnKafka) -> None:
    found = {each["topic"]: each for each in log.read("topics", "list")["topics"]}
    assert list(found) == list(SETTINGS)
    assert found["events"]["partitions"] == 2
    assert found["registry"]["partitions"] == 1
    assert found["events"]["retention_ms"] == 30 * 86_400_000
    assert found["inbox"]["retention_ms"] is None
    assert found["state"]["is_compacted"]
    table = log.steplog("topics", "list").stdout
    assert "steplog-tests-topics.journal" in table
    assert "what became of each event" in table


def test_settings_are_held_against_those_that_are_needed(log: LogOnKafka) -> None:
    described = log.read("topics", "describe", "dead")
    assert described["ok"]
    assert [each["partition"] for each in described["topic"]["partitions"]] == [0, 1]
    name = log.layout.name("dead")
    set_policy(log, name, "delete")
    try:
        lossy = log.steplog("topics", "describe", "dead")
        assert lossy.code == 1
        assert "cleanup.policy       delete   compact    ✗ it must be so" in lossy.stdout
    finally:
        set_policy(log, name, "compact")


def set_policy(log: LogOnKafka, name: str, policy: str) -> None:
    entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    log.admin.incremental_alter_configs([resource])[resource].result(ANSWER_S)


def test_the_newest_records_are_printed_decoded(log: LogOnKafka) -> None:
    log.put("state", 0, *[(keys.run_step(RUN, bytes([n]) * 16), b'{"n":%d}' % n) for n in range(3)])
    log.put("state", 1, (RUN, None))
    found = log.read("topics", "tail", "state", "-n", "2")["records"]
    assert [(each["partition"], each["value"]) for each in found] == [(0, {"n": 2}), (1, None)]
    assert found[1]["key"] == keys.printed(RUN)
    lines = log.steplog("topics", "tail", "state", "--partition", "0").stdout.splitlines()
    assert [line.split()[-1] for line in lines[-3:]] == ['{"n":0}', '{"n":1}', '{"n":2}']
    lines = log.steplog("topics", "tail", "state", "--partition", "1", "--jsonl").stdout.splitlines()
    assert json.loads(lines[-1])["value"] is None
    assert log.steplog("topics", "tail", "state", "--partition", "2").code == 4


def test_more_records_than_are_read_at_once_are_found(log: LogOnKafka) -> None:
    for n in range(300):
        log.put("inbox", 1, (b"", message(WaitEnded(run=RUN, step=bytes(16), output=b"%d" % n))))
    found = log.read("topics", "tail", "inbox", "-n", "260", "--partition", "1")["records"]
    assert [each["value"]["output"] for each in found] == list(range(40, 300))


def message(value: Any) -> bytes:
    written = encoding.produced(0, value).value
    assert written is not None
    return written


@pytest.mark.parametrize(
    ("topic", "key", "value", "printed"),
    [
        ("state", keys.HEAD, msgspec.msgpack.encode((7, 12)), {"turn": 7, "at": 12}),
        (
            "redo", b"3", msgspec.msgpack.encode(Redo(3, 7, 12, 5, {RUN: b"{}", RUN + b"x": None})),
            {"partition": 3, "turn": 7, "at": 12, "redo_from": 5, "changes": 2},
        ),
        ("state", keys.position("inbox"), keys.number(812), 812),
        ("state", RUN, b'{"a":[1]}', {"a": [1]}),
        ("state", RUN, b"\xff\x00", "ff00"),
        ("registry", b"owner/3", msgspec.msgpack.encode(("n1", "p1")), ["n1", "p1"]),
        ("registry", b"node/n1", msgspec.msgpack.encode(("h:1",)), ["h:1"]),
        ("inbox", b"", b"\xc1", {"unreadable": "DecodeError: ", "value": "c1"}),
        (
            "inbox", b"",
            message(SignalHeard(run=RUN, step=b"\x01" * 16, sent=SignalSent(env=1, signal="go", data=b'{"x":1}'))),
            {"type": "SignalHeard", "run": keys.printed(RUN), "step": "01" * 16,
             "sent": {"type": "SignalSent", "env": 1, "signal": "go", "data": {"x": 1}}},
        ),
    ],
)  # fmt: skip
def test_a_record_is_readable(topic: str, key: bytes, value: bytes, printed: Any) -> None:
    shown = readable_value(topic, Record(topic, 0, 0, key, value, (), 0))
    if "unreadable" in (shown if isinstance(shown, dict) else {}):
        shown["unreadable"], printed = "", {**printed, "unreadable": ""}
    assert shown == printed


def test_keys_are_readable() -> None:
    path = keys.path(1, bytes(16), bytes(16))
    assert readable_key("registry", path) == keys.printed(path)
    assert readable_key("registry", b"topic/state") == "topic/state"
    assert readable_key("events", None) == ""
    assert readable_key("journal", b"01JD") == "01JD"


def test_lag_is_what_the_state_has_not_decided(kafka: str) -> None:
    log = LogOnKafka(kafka, "steplog-tests-lag")
    try:
        log.put("events", 1, *[(b"k", b"{}")] * 5)
        log.put("inbox", 1, (b"", b"x"))
        log.put("registry", 0, (b"owner/1", encoding.encode_owner("n1")), (b"node/n1", b"\x91\xa3h:1"))
        log.put("state", 1, (keys.position("events"), keys.number(1)), (keys.position("inbox"), keys.number(1)))
        turns = [Redo(1, number, 0, number, {keys.position("events"): keys.number(number)}) for number in (2, 3)]
        log.put("redo", 0, *[(b"1", msgspec.msgpack.encode(redo)) for redo in turns])
        idle, busy = log.read("topics", "lag")["partitions"]
        assert (idle["owner"], idle["events"], idle["history"]) == (None, {"position": 0, "end": 0, "waiting": 0}, None)
        assert (busy["owner"], busy["address"], busy["is_member"]) == ("n1", "h:1", False)
        assert busy["events"] == {"position": 3, "end": 6, "waiting": 2}  # the mark of a transaction is no record
        assert busy["inbox"] == {"position": 1, "end": 2, "waiting": 0}
        told = log.steplog("topics", "lag")
        assert told.stderr == "2 waiting in all\n"
        assert "n1 (gone)" in told.stdout
    finally:
        log.close()


@pytest.mark.spec("FAULT-B4")
def test_a_transaction_that_hangs_open_is_named_with_whose_it_is(kafka: str) -> None:
    log = LogOnKafka(kafka, "steplog-tests-hanging")
    try:
        log.put("registry", 0, (b"owner/0", encoding.encode_owner("n0")), (b"owner/1", encoding.encode_owner("n1")))
        log.put("redo", 0, (b"0", msgspec.msgpack.encode(Redo(0, 1, 0, 1, {}))))
        ids = [f"steplog-tests-hanging.n1.{n}" for n in (0, 1)]
        hanging, young = open_transaction(kafka, ids[0]), open_transaction(kafka, ids[1])
        before_ms = round(time.time() * 1000) - 60_000
        turn = msgspec.msgpack.encode(Redo(1, 1, 0, 1, {}))
        hanging.produce(log.layout.name("redo"), turn, b"1", partition=0, timestamp=before_ms)
        hanging.produce(log.layout.name("inbox"), b"x", partition=0, timestamp=before_ms)
        young.produce(log.layout.name("events"), b"{}", partition=0)
        assert not hanging.flush(ANSWER_S)
        assert not young.flush(ANSWER_S)
        log.put("redo", 0, (b"0", msgspec.msgpack.encode(Redo(0, 2, 0, 2, {}))))
        done = log.steplog("topics", "lag", "--json")
        assert done.code == 1, done.stderr
        inbox, redo = json.loads(done.stdout)["hanging"]
        assert (inbox["topic"], inbox["partition"], inbox["offset"], inbox["hidden"]) == ("inbox", 0, 0, 1)
        assert (redo["topic"], redo["partition"], redo["offset"], redo["hidden"]) == ("redo", 0, 2, 3)
        assert [each["nodes"] for each in (inbox, redo)] == [["n1"]] * 2
        assert redo["transactional_ids"] == ids
        assert redo["open_ms"] >= 60_000
        told = log.steplog("topics", "lag")
        assert told.code == 1
        assert f"txn.hanging: {log.layout.name('redo')} [0]: a transaction of n1 ({', '.join(ids)})" in told.stdout
        hanging.abort_transaction()
        young.abort_transaction()  # else it would be old soon
        until_s = time.monotonic() + ANSWER_S
        while log.steplog("topics", "lag", "--json").code:
            assert time.monotonic() < until_s, "it was ended"
    finally:
        log.close()


def open_transaction(servers: str, transactional_id: str) -> Producer:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0, "transactional.id": transactional_id})
    producer.init_transactions(ANSWER_S)
    producer.begin_transaction()
    return producer


def test_the_commands_that_read_a_log_read_one_on_kafka(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = LogOnKafka(kafka, "steplog-tests-commands")
    written = RecordedPartition(tmp_path_factory.mktemp("log") / "log.db")
    try:
        run_id = written.finish()
        put_journal(log, written)
        audited = log.read("audit")
        assert (audited["ok"], audited["accepted"], audited["completed"]) == (True, 1, 1)
        assert audited["log"] == log.address.url
        assert [run["run_id"] for run in log.read("runs", "list")["runs"]] == [run_id]
        assert log.read("runs", "show", run_id[-6:])["run"]["state"] == "completed"
        letters = open_dead(log.address.url)
        letters.park(
            [Letter(entry=Entry(topic="in", partition=0, offset=1, reason="no text", parked_ms=5), value=b"?")]
        )
        letters.close()
        assert [letter["id"] for letter in log.read("dead", "list")["letters"]] == ["in/0/1"]
        assert log.read("topics", "tail", "dead")["records"][0]["value"]["reason"] == "no text"
        lines = log.steplog("topics", "tail", "journal", "-n", "100").stdout
        assert run_id in lines
        assert "completed in" in lines
        assert log.steplog("audit", "--deep").code == 2
        here = tmp_path_factory.mktemp("here")
        (here / "steplog.toml").write_text(f'[log]\nurl = "{log.address.url}"\n')
        found = steplog(
            "runs", "list", "--json", cwd=here, environment={"STEPLOG_URL": "", "STEPLOG_SERVER__PORT": "9"}
        )
        assert json.loads(found.stdout)["runs"][0]["run_id"] == run_id
        assert f"read from {log.address.url}" in found.stderr
    finally:
        written.close()
        log.close()


def put_journal(log: LogOnKafka, written: RecordedPartition) -> None:
    for _, events in written.log.events:
        log.put("events", 0, *[(b"", event) for event in events])
    for _, records in written.log.journal:
        log.put("journal", 0, *[(b"", record) for record in records])


def test_a_log_that_is_not_there_or_is_a_file_is_said_to_be_so(kafka: str) -> None:
    absent = steplog("topics", "list", "--log", f"kafka://{kafka}/nobody")
    assert (absent.code, absent.stderr.split(",")[0]) == (4, f"error[not_found]: {kafka} has no topic nobody.events")
    file = steplog("topics", "list", "--log", "sqlite:steplog.db")
    assert file.code == 2
    assert "has no topics: they are of a log on Kafka" in file.stderr
