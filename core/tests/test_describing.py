"""What a real broker says of the topics that steps produce to."""

import pytest
from confluent_kafka.admin import AdminClient

from steplog.log import describing
from steplog.log.broker import BrokerError, Target
from steplog.log.describing import DEFAULT_RECORD_BYTES, describe_topic

from .topics import Topics


def test_a_topic_is_described_as_it_is(topics: Topics) -> None:
    admin = AdminClient({"bootstrap.servers": topics.brokers})
    plain = topics.make("plain", 3)
    small = topics.make("small", 1, **{"max.message.bytes": "5000", "cleanup.policy": "compact,delete"})
    assert describe_topic(admin, plain) == Target(3, DEFAULT_RECORD_BYTES)
    assert describe_topic(admin, small) == Target(1, 5_000, is_compacted=True)
    assert describe_topic(admin, topics.name("nowhere")) is None


def test_a_broker_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "ANSWER_S", 0.3)
    with pytest.raises(BrokerError):
        describe_topic(AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 2}), "ledger")
