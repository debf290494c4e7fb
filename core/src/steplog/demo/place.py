"""Where the demo's log is: a file, or topics of its own on Kafka."""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from steplog.errors import LogUnavailable
from steplog.history.audit import AuditReport, audit, audit_source
from steplog.history.source import open_source
from steplog.paths import KAFKA_LOG, KafkaAddress, file_path, file_url, is_kafka, masked

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

NODE = "demo"  # each engine has the name of the one that was killed, as a process that is started again has
PARTITIONS = 4
PREFIX = "steplog-demo"
ANSWER_S = 10.0


class Place(Protocol):
    """Where the log is."""

    @property
    def url(self) -> str: ...

    @property
    def shown_url(self) -> str:
        """Its address, as people are told of it."""
        ...

    @property
    def shown(self) -> str:
        """The same, with what it is."""
        ...

    @property
    def arguments(self) -> Sequence[str]:
        """What ``steplog start`` needs besides."""
        ...

    def settle(self) -> None:
        """See to it that what a killed engine was writing is committed, or never will be."""
        ...

    def audit(self) -> AuditReport: ...


class FilePlace:
    """A SQLite file: a commit is there when it was made."""

    arguments: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = file_url(path.absolute())

    @property
    def shown_url(self) -> str:
        return file_url(self._path)

    @property
    def shown(self) -> str:
        path = self._path if self._path.is_absolute() else f"./{self._path}"
        return f"{path} (SQLite, fsync on every commit)"

    def settle(self) -> None:
        pass

    def audit(self) -> AuditReport:
        return audit(self._path)


class KafkaPlace:
    """Topics on Kafka."""

    def __init__(self, address: KafkaAddress, data: Path) -> None:
        self._address = address
        self._settings: dict[str, Any] = {
            "bootstrap.servers": address.servers, "log_level": 0, **dict(address.settings)
        }  # fmt: skip
        self.url = address.url
        self.arguments: Sequence[str] = [
            word
            for key, value in (("node", NODE), ("partitions", PARTITIONS), ("data", data.absolute()))
            for word in ("--set", f"kafka.{key}={value}")
        ]

    @property
    def shown_url(self) -> str:
        return masked(self.url)

    @property
    def shown(self) -> str:
        return f"{self.shown_url} (Kafka, {PARTITIONS} partitions, transactions)"

    def settle(self) -> None:
        """Fence the engine that was killed, as another node would: its transaction is ended."""
        from confluent_kafka import KafkaException, Producer

        from steplog.log.client import ALTERNATING

        for number in range(ALTERNATING):
            name = f"{self._address.prefix}.{NODE}.{number}"
            try:
                Producer({**self._settings, "transactional.id": name}).init_transactions(ANSWER_S)
            except KafkaException as error:
                raise self._unavailable(error) from error

    def audit(self) -> AuditReport:
        with closing(open_source(self.url)) as source:
            return audit_source(source)

    def check(self) -> None:
        """Raise ``LogUnavailable`` where no broker answers."""
        from confluent_kafka import KafkaException

        try:
            self._admin().list_topics(timeout=ANSWER_S)
        except KafkaException as error:
            raise self._unavailable(error) from error

    def remove(self) -> None:
        """Delete the topics, and the groups that have no members any more."""
        from steplog.log.topics import SETTINGS

        admin = self._admin()
        there = admin.list_topics(timeout=ANSWER_S).topics
        topics = [name for topic in SETTINGS if (name := self._address.topic(topic)) in there]
        for deleted in admin.delete_topics(topics).values() if topics else ():
            deleted.exception(ANSWER_S)
        groups = [self._address.topic(name) for name in ("engine", "history")]
        for deleted in admin.delete_consumer_groups(groups).values():
            deleted.exception(ANSWER_S)

    def _admin(self) -> "AdminClient":
        from confluent_kafka.admin import AdminClient

        return AdminClient(self._settings)

    def _unavailable(self, error: Exception) -> LogUnavailable:
        return LogUnavailable(
            f"no Kafka broker answers at {self._address.servers}: {error.args[0].str()}\n"
            "  start one: compose/kafka-local, in a checkout        without Kafka: steplog demo"
        )


@contextmanager
def place_of(log: str | None, directory: Path, *, is_kept: bool = False) -> Iterator[Place]:
    """The place that ``--log`` names; by default a file in the demo's directory.

    On Kafka the topics get a prefix that nobody else has, and go when the demo is over, unless they are kept. Raises
    ``LogUnavailable`` where no broker answers.
    """
    if log == "kafka":
        log = KAFKA_LOG
    if log is None or not is_kafka(log):
        yield FilePlace(directory / "log.db" if log is None else file_path(log))
        return
    address = KafkaAddress.parse(log)
    prefix = address.prefix if urlsplit(log).path.strip("/") else PREFIX
    place = KafkaPlace(address._replace(prefix=f"{prefix}-{secrets.token_hex(4)}"), directory / "kafka")
    place.check()
    try:
        yield place
    finally:
        if not is_kept:
            place.remove()
            shutil.rmtree(directory / "kafka", ignore_errors=True)
