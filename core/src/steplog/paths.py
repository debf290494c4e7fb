"""Where logs and histories are: as ``--log`` and ``--history`` name them, and what lies beside a log's file."""

import re
from pathlib import Path

from steplog.errors import ConfigInvalid

DEV_LOG = "sqlite:.steplog/dev.db"
START_LOG = "sqlite:steplog.db"
MEMORY_LOG = "memory:"


def log_problem(url: str) -> str | None:
    """Why an address names no log: neither ``sqlite:PATH`` nor ``memory:``."""
    scheme, separator, rest = url.partition(":")
    if (scheme == "sqlite" and rest) or url == MEMORY_LOG:
        return None
    if scheme == "kafka" and separator:
        return f"needs Kafka, which will come in a later version; write sqlite:PATH, as {START_LOG}"
    return f"is no log that this version knows; write sqlite:PATH, as {START_LOG}"


def log_path(url: str) -> Path:
    """Read ``sqlite:PATH``. Raises ``ConfigInvalid`` for any other log."""
    problem = log_problem(url)
    if url == MEMORY_LOG:
        problem = f"has no file: it is gone when its process ends; write sqlite:PATH, as {START_LOG}"
    if problem is not None:
        raise ConfigInvalid("--log", [f"{url!r} {problem}"])
    return Path(url.partition(":")[2])


def history_path(log: Path) -> Path:
    """The history beside a log: ``steplog.history.db`` for ``steplog.db``."""
    return log.with_suffix(".history.db")


HIDDEN = "***"
POSTGRES = ("postgresql://", "postgres://")
_PASSWORD = re.compile(r"(//[^/?#@:]*:)[^@/?#]*(?=@)|([?&][^=&#]*(?:password|secret)=)[^&#]*", re.IGNORECASE)


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
