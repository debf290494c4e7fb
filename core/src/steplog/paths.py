"""Where logs and histories are: as ``--log`` and ``--history`` name them, and what lies beside a log's file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from steplog.errors import ConfigInvalid

DEV_LOG = "sqlite:.steplog/dev.db"
START_LOG = "sqlite:steplog.db"
MEMORY_LOG = "memory:"
KAFKA_LOG = "kafka://127.0.0.1:9092"
PREFIX = "steplog"  # of topics
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")


def log_problem(url: str) -> str | None:
    """Why an address names no log: neither ``sqlite:PATH`` nor ``kafka://…`` nor ``memory:``."""
    scheme, _, rest = url.partition(":")
    if (scheme == "sqlite" and rest) or url == MEMORY_LOG:
        return None
    if is_kafka(url):
        try:
            KafkaAddress.parse(url)
        except ConfigInvalid:
            return f"is no log on Kafka; write kafka://HOST:PORT,HOST:PORT/PREFIX, as {KAFKA_LOG}/shop"
        return None
    return f"is no log that this version knows; write sqlite:PATH, as {START_LOG}, or kafka://HOST:PORT"


def log_path(url: str) -> Path:
    """Read ``sqlite:PATH``. Raises ``ConfigInvalid`` for any other log."""
    problem = log_problem(url)
    if url == MEMORY_LOG:
        problem = f"has no file: it is gone when its process ends; write sqlite:PATH, as {START_LOG}"
    elif is_kafka(url):
        problem = f"has no file: it is on Kafka; write sqlite:PATH, as {START_LOG}"
    if problem is not None:
        raise ConfigInvalid("--log", [f"{url!r} {problem}"])
    return Path(url.partition(":")[2])


def history_path(log: Path) -> Path:
    """The history beside a log: ``steplog.history.db`` for ``steplog.db``."""
    return log.with_suffix(".history.db")


class KafkaAddress(NamedTuple):
    """A log on Kafka: ``kafka://HOST:PORT,HOST:PORT/PREFIX``. Parameters are settings of the client."""

    servers: str
    prefix: str = PREFIX
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address. Raises ``ConfigInvalid``."""
        parts = urlsplit(url)
        prefix = parts.path.strip("/") or PREFIX
        if parts.scheme != "kafka" or not parts.netloc or "@" in parts.netloc or not _TOPIC.fullmatch(prefix):
            raise ConfigInvalid("--log", [f"{masked(url)!r} is no log on Kafka; write {KAFKA_LOG}/PREFIX"])
        return cls(parts.netloc, prefix, tuple(parse_qsl(parts.query)))

    @property
    def url(self) -> str:
        """The address again."""
        query = f"?{urlencode(self.settings)}" if self.settings else ""
        return f"kafka://{self.servers}/{self.prefix}{query}"

    def topic(self, name: str) -> str:
        """The topic's name on the cluster."""
        return f"{self.prefix}.{name}"


def with_settings(url: str, settings: Mapping[str, str]) -> str:
    """The address of a log on Kafka with further settings of the client; its own parameters win."""
    address = KafkaAddress.parse(url)
    return address._replace(settings=tuple({**settings, **dict(address.settings)}.items())).url


HIDDEN = "***"
POSTGRES = ("postgresql://", "postgres://")
_PASSWORD = re.compile(
    r"(//[^/?#@:]*:)[^@/?#]*(?=@)|([?&][^=&#]*(?:password|passphrase|secret|\.pem)=)[^&#]*", re.IGNORECASE
)


def file_url(path: Path) -> str:
    """Name a file: ``sqlite:PATH``."""
    return f"sqlite:{path}"


def file_path(url: str) -> Path:
    """Read ``sqlite:PATH``."""
    return Path(url.removeprefix("sqlite:"))


def is_kafka(url: str) -> bool:
    """Whether a log is on Kafka."""
    return url.startswith("kafka:")


def is_postgres(url: str) -> bool:
    """Whether a history is in PostgreSQL."""
    return url.startswith(POSTGRES)


def has_password(url: str) -> bool:
    """Whether an address holds a secret itself."""
    return _PASSWORD.search(url) is not None


def history_problem(url: str) -> str | None:
    """Why an address names no history: neither ``sqlite:PATH`` nor ``postgresql://…``."""
    scheme, _, rest = url.partition(":")
    if (scheme == "sqlite" and rest) or (is_postgres(url) and rest != "//"):
        return None
    return "is no history; write sqlite:PATH, or postgresql://USER@HOST/DATABASE"


def masked(url: str) -> str:
    """An address to print: without its passwords."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", url)


def dead_path(log: Path) -> Path:
    """The dead letters beside a log: ``steplog.dead.db`` for ``steplog.db``."""
    return log.with_suffix(".dead.db")
