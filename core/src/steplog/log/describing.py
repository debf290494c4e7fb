"""What a cluster says of a topic that steps produce to (``Broker.describe``). Blocks: it belongs in a thread."""

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType

from steplog.log.broker import BrokerError, Target

ANSWER_S = 10.0
DEFAULT_RECORD_BYTES = 1_048_588  # Kafka's own, where this process may not ask


def describe_topic(admin: AdminClient, topic: str) -> Target | None:
    """Look at a topic; None where there is none.

    Raises ``BrokerError`` where no answer comes, or where this process may not write it.
    """
    try:
        asked = admin.describe_topics(
            TopicCollection([topic]), include_authorized_operations=True, request_timeout=ANSWER_S
        )
        described = asked[topic].result(ANSWER_S)
    except TimeoutError as error:
        raise BrokerError(f"no broker answers within {ANSWER_S:g} s") from error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise BrokerError(error.args[0].str()) from error
    operations = described.authorized_operations
    if operations is not None and AclOperation.WRITE not in operations and AclOperation.ALL not in operations:
        raise BrokerError("this process may not write it")
    settings = _settings(admin, topic)
    return Target(
        partitions=len(described.partitions),
        record_bytes=int(settings.get("max.message.bytes") or DEFAULT_RECORD_BYTES),
        is_compacted="compact" in settings.get("cleanup.policy", ""),
    )


def _settings(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=ANSWER_S)[resource].result(ANSWER_S)
    except TimeoutError as error:
        raise BrokerError(f"no broker answers within {ANSWER_S:g} s") from error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return {}
        raise BrokerError(error.args[0].str()) from error
    return {name: entry.value for name, entry in found.items() if entry.value is not None}
