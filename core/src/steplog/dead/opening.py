"""Where the dead letters of a log are, by the log's address."""

from steplog.dead.letters import DeadLetters
from steplog.dead.sqlite import SqliteDeadLetters
from steplog.paths import KafkaAddress, dead_path, is_kafka, log_path


def open_dead(url: str) -> DeadLetters:
    """Open the letters of a log: ``sqlite:PATH``, or ``kafka://HOST:PORT[,…]/PREFIX``.

    Raises ``ConfigInvalid`` for any other address.
    """
    if is_kafka(url):
        from steplog.dead.kafka import KafkaDeadLetters  # for those whose log is there

        address = KafkaAddress.parse(url)
        settings = {"bootstrap.servers": address.servers, **dict(address.settings)}
        return KafkaDeadLetters(address.topic("dead"), settings)
    return SqliteDeadLetters(dead_path(log_path(url)))
