"""Where files are: logs as they are named by ``--log``, and what lies beside them."""

from pathlib import Path

from steplog.errors import ConfigInvalid

DEV_LOG = "sqlite:.steplog/dev.db"
START_LOG = "sqlite:steplog.db"


def log_path(url: str) -> Path:
    """Read ``sqlite:PATH``. Raises ``ConfigInvalid`` for any other log."""
    scheme, separator, rest = url.partition(":")
    if scheme != "sqlite" or not separator or not rest:
        problem = f"{url!r} is no log that this version knows; write sqlite:PATH, as sqlite:steplog.db"
        raise ConfigInvalid("--log", [problem])
    return Path(rest)


def history_path(log: Path) -> Path:
    """The history beside a log: ``steplog.history.db`` for ``steplog.db``."""
    return log.with_suffix(".history.db")
