"""The topics of a log on Kafka: what each holds and how long, made at the first start and checked at every other."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from steplog.engine.ids import SLOTS
from steplog.errors import LogUnavailable, TopicsInvalid

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo

EVENTS, INBOX, STATE, REDO, JOURNAL = "events", "inbox", "state", "redo", "journal"
REGISTRY, DEAD = "registry", "dead"
OUTSIDE = "/"  # before the name of a topic that is not the log's

DAY_MS = 86_400_000
TOMBSTONES_MS = 7 * DAY_MS  # for how long a deleted key can be seen: caches are younger than half of that
MESSAGE_BYTES = 8 << 20  # an output of 4 MB, sealed and written as base64, and what stands around it
MOST_REPLICAS = 3
ADMIN_S = 10.0
NO_OFFSET = -1001  # of the client library

SHARING = 8  # partitions of the log that write to one of redo and journal: what a transaction costs is its places

_FOREVER = "-1"
_STATE = {
    "cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES_MS), "segment.bytes": str(64 << 20),
    "min.cleanable.dirty.ratio": "0.1", "max.compaction.lag.ms": "600000",
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, str]] = {
    EVENTS: {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
    INBOX: {"cleanup.policy": "delete", "retention.ms": _FOREVER},  # what was handled is deleted by its owner
    STATE: _STATE,
    REDO: {"cleanup.policy": "delete", "retention.ms": _FOREVER},  # what nobody needs is deleted by the owners
    JOURNAL: {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
    REGISTRY: _STATE,
    DEAD: {"cleanup.policy": "compact"},  # until somebody deals with it
}
_MATTER = ("cleanup.policy",)  # of a topic that is there: with another one it would lose what is needed
_FOUNDATIONS = (EVENTS, INBOX, STATE, REDO)  # losing one of them is losing work


class Layout(NamedTuple):
    """How the topics of one log are named and cut."""

    prefix: str
    partitions: int

    def name(self, topic: str) -> str:
        """The name of a topic on the cluster."""
        return topic[1:] if topic.startswith(OUTSIDE) else f"{self.prefix}.{topic}"

    def count(self, topic: str) -> int:
        """How many partitions one of the log's topics has."""
        match topic:
            case "registry":
                return 1
            case "redo" | "journal":
                return shared(self.partitions)
        return self.partitions


def shared(partitions: int) -> int:
    """How many partitions redo and journal have in a log of so many: partition *p* writes to *p* modulo that."""
    return max(1, partitions // SHARING)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What is there once the topics were made or checked."""

    cluster_id: str
    topic_ids: dict[str, str]  # by topic: another one under the same name has another id
    message_bytes: int  # the largest record that every topic takes
    is_new: bool  # all of them were made just now


def prepare(admin: "AdminClient", layout: Layout, replication: int | None) -> Found:
    """Make the topics that are missing, check those that are there.

    ``replication`` None: three where the cluster has as many brokers. Raises ``TopicsInvalid`` for topics that this log
    cannot go on with, ``LogUnavailable`` where the cluster does not answer.
    """
    if not 1 <= layout.partitions <= SLOTS:
        raise TopicsInvalid([f"kafka.partitions is {layout.partitions}, it must be from 1 to {SLOTS}"])
    cluster = admin.list_topics(timeout=ADMIN_S)
    there = {topic: cluster.topics.get(layout.name(topic)) for topic in SETTINGS}
    missing = [topic for topic, found in there.items() if found is None]
    counted = there[EVENTS]  # it has as many as the log
    wrong = [
        f"{layout.name(topic)} has {len(found.partitions)} partitions, a log of {layout.partitions} has "
        f"{layout.count(topic)}: every key has its partition, so the count cannot change; set kafka.partitions "
        f"{'as it was' if counted is None else f'= {len(counted.partitions)}'}, or move the log with steplog migrate"
        for topic, found in there.items()
        if found is not None and len(found.partitions) != layout.count(topic)
    ]
    lost = [topic for topic in missing if topic in _FOUNDATIONS]
    if lost and len(missing) < len(SETTINGS):
        names = ", ".join(map(layout.name, lost))
        verb = "is" if len(lost) == 1 else "are"
        wrong.append(f"{names} {verb} missing, though other topics of this log are there: what they held is gone")
    if wrong:
        raise TopicsInvalid(wrong)
    if missing:
        make(admin, layout, missing, replication or min(MOST_REPLICAS, len(cluster.brokers)))
    else:
        _wait_for_leaders(admin, layout, list(SETTINGS))  # another node may have made them just now
    settings = _settings(admin, layout)
    _check(layout, settings)
    ids = _topic_ids(admin, layout)
    limits = [int(found["max.message.bytes"]) for found in settings.values()]
    return Found(
        cluster_id=str(cluster.cluster_id), topic_ids=ids, message_bytes=min(limits),
        is_new=len(missing) == len(SETTINGS),
    )  # fmt: skip


def make(admin: "AdminClient", layout: Layout, topics: Sequence[str], replication: int) -> None:
    """Make some of a log's topics; returns when they answer. Raises ``TopicsInvalid``."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    common = {"max.message.bytes": str(MESSAGE_BYTES), "min.insync.replicas": str(max(1, replication - 1))}
    wanted = [
        NewTopic(
            layout.name(topic), num_partitions=layout.count(topic), replication_factor=replication,
            config={**SETTINGS[topic], **common},
        )
        for topic in topics
    ]  # fmt: skip
    for name, made in admin.create_topics(wanted, operation_timeout=ADMIN_S, request_timeout=ADMIN_S).items():
        try:
            made.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # by another node at the same moment
                raise TopicsInvalid([f"{name} cannot be made: {error.args[0].str()}"]) from error
    _wait_for_leaders(admin, layout, topics)


def _wait_for_leaders(admin: "AdminClient", layout: Layout, topics: Sequence[str]) -> None:
    """A topic that was just made answers a moment later."""
    from confluent_kafka import KafkaException, TopicPartition

    waited = [TopicPartition(layout.name(topic), p) for topic in topics for p in range(layout.count(topic))]
    until_s = time.monotonic() + ADMIN_S
    while waited:
        admin.list_topics(timeout=ADMIN_S)  # or it goes on asking whom it has asked before
        answers = offsets(admin, waited)
        waited = []
        for partition, answer in answers.items():
            try:
                offset_in(answer.result())
            except KafkaException:
                if time.monotonic() > until_s:
                    raise
                waited.append(partition)
        time.sleep(0.05 if waited else 0)


def offsets(
    admin: "AdminClient", partitions: "Sequence[TopicPartition]", at_ms: int | None = None
) -> "dict[TopicPartition, Future[ListOffsetsResultInfo]]":
    """Ask where partitions end, behind everything that was written, committed or not; or where they were at a time."""
    from confluent_kafka.admin import OffsetSpec

    untyped: Any = OffsetSpec
    spec = untyped.latest() if at_ms is None else untyped.for_timestamp(at_ms)
    return admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ADMIN_S)


def offset_in(answer: "ListOffsetsResultInfo") -> int:
    """The offset that an answer has. Raises ``KafkaException`` for one without.

    Of a broker that dies before it answers, the client library (2.16) makes a success that says nothing.
    """
    from confluent_kafka import KafkaError, KafkaException

    if answer.offset == NO_OFFSET:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "the leader went away before it answered"))
    return int(answer.offset)


def _settings(admin: "AdminClient", layout: Layout) -> dict[str, dict[str, str]]:
    from confluent_kafka.admin import ConfigResource

    resources = {topic: ConfigResource(ConfigResource.Type.TOPIC, layout.name(topic)) for topic in SETTINGS}
    found = admin.describe_configs(list(resources.values()), request_timeout=ADMIN_S)
    return {
        topic: {name: str(entry.value) for name, entry in found[resource].result().items()}
        for topic, resource in resources.items()
    }


def _check(layout: Layout, settings: Mapping[str, Mapping[str, str]]) -> None:
    wrong = [
        f"{layout.name(topic)} has {key} = {settings[topic][key]}, it must be {SETTINGS[topic][key]}: "
        f"kafka-configs.sh --alter --topic {layout.name(topic)} --add-config {key}={SETTINGS[topic][key]}"
        for topic in SETTINGS
        for key in _MATTER
        if settings[topic][key] != SETTINGS[topic][key]
    ]
    if wrong:
        raise TopicsInvalid(wrong)


def _topic_ids(admin: "AdminClient", layout: Layout) -> dict[str, str]:
    from confluent_kafka import TopicCollection

    names = {layout.name(topic): topic for topic in SETTINGS}
    found = admin.describe_topics(TopicCollection(list(names)), request_timeout=ADMIN_S)
    return {names[name]: str(description.result().topic_id) for name, description in found.items()}


def checked_ids(before: Mapping[str, str], found: Found, layout: Layout) -> None:
    """Refuse topics that were made anew behind our back: their records are gone (FAULT-B10)."""
    wrong = [
        f"{layout.name(topic)} was deleted and made again since this log was last used: what it held is gone"
        for topic in _FOUNDATIONS
        if topic in before and before[topic] != found.topic_ids[topic]
    ]
    if wrong:
        raise TopicsInvalid(wrong)


def unavailable(reason: object) -> LogUnavailable:
    """The error of a cluster that does not answer."""
    return LogUnavailable(f"Kafka: {reason}")
