"""Where files are: logs as they are named by ``--log``, and what lies beside them."""

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


def dead_path(log: Path) -> Path:
    """The dead letters beside a log: ``steplog.dead.db`` for ``steplog.db``."""
    return log.with_suffix(".dead.db")
