"""Where the dead letters of a log are, by the log's address."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from steplog.dead.letters import DeadLetters
from steplog.dead.sqlite import SqliteDeadLetters
from steplog.paths import dead_path, log_path

PREFIX = "steplog"  # of topics, where the address names none


def open_dead(url: str, options: Mapping[str, Any] | None = None) -> DeadLetters:
    """Open the letters of a log: ``sqlite:PATH``, or ``kafka://HOST:PORT[,…]/PREFIX`` with options for its client.

    Raises ``ConfigInvalid`` for any other address.
    """
    if url.startswith("kafka://"):
        from steplog.dead.kafka import KafkaDeadLetters  # for those whose log is there

        parts = urlsplit(url)
        topic = f"{parts.path.strip('/') or PREFIX}.dead"
        return KafkaDeadLetters(topic, {"bootstrap.servers": parts.netloc, **(options or {})})
    return SqliteDeadLetters(dead_path(log_path(url)))
