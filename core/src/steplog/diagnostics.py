"""What steplog's processes log, on standard error: lines for people, or JSON lines for programs that collect them.

Nothing of user code's own logging is touched: what it configures takes precedence, in its process.
"""

import logging
import sys
import time
from datetime import UTC, datetime

import msgspec


def log_to_stderr(*, as_json: bool) -> None:
    """Write records that no other handler of this process takes; of steplog's own those from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.lastResort = handler
    logging.getLogger("steplog").setLevel(logging.INFO)


def wants_json(*, is_dev: bool) -> bool:
    """Whether records go to a program: those of ``start`` where standard error is no terminal."""
    return not is_dev and not sys.stderr.isatty()


class Lines(logging.Formatter):
    """``14:09:02  WARNING log unavailable …  reason: disk full``; tracebacks below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = ", ".join(f"{name}: {value}" for name, value in _facts(record).items())
        return f"{at}  {record.levelname} {record.message}{f'  ({facts})' if facts else ''}"


class JsonLines(logging.Formatter):
    """One object a record: ``at``, ``level``, ``logger``, ``message``, the record's facts, and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return msgspec.json.encode(line | _facts(record) | error, enc_hook=str).decode()


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What was given beside the message: ``extra={"fields": …}``, and the run that a function logs for."""
    run_id = getattr(record, "run_id", None)
    return ({} if run_id is None else {"run_id": run_id}) | dict(getattr(record, "fields", {}))
