"""Every error that steplog raises: what happened, with which value, and what to do.

``code`` is part of the API; ``docs/errors.md`` has an entry for each.
"""

from datetime import datetime, timedelta
from typing import ClassVar


class SteplogError(Exception):
    """The root of steplog's errors."""

    code: ClassVar[str] = "steplog_error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1  # of a command that ends with it


class ConfigInvalid(SteplogError):
    """Something was declared in a way that cannot work. Lists every problem, not the first."""

    code = "config_invalid"
    exit_code = 2

    def __init__(self, what: str, problems: list[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{count} in {what}", *problems]))
        self.problems = problems


class CronInvalid(SteplogError):
    """A cron cannot be read, or would never fire."""

    code = "cron_invalid"
    exit_code = 2

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"cron {text!r}: {problem}")
        self.text, self.problem = text, problem


class ExpressionInvalid(SteplogError):
    """An expression cannot be compiled. Shows the place: ``line`` and ``column`` count from 1."""

    code = "expression_invalid"
    exit_code = 2

    def __init__(self, text: str, offset: int, problem: str) -> None:
        begin = text.rfind("\n", 0, offset) + 1
        self.text, self.problem = text, problem
        self.line, self.column = text.count("\n", 0, offset) + 1, offset - begin + 1
        shown = text[max(begin, offset - 60) :].partition("\n")[0][:100].replace("\t", " ")
        caret = " " * min(offset - begin, 60) + "^"
        super().__init__(f"line {self.line}, column {self.column}: {problem}\n    {shown}\n    {caret}")


class EvaluationError(SteplogError):
    """An expression has no value for this event: wrong types, a missing field, too large a number, too much work."""

    code = "evaluation_error"


class EventInvalid(SteplogError):
    """An event breaks a rule of the event format."""

    code = "event_invalid"
    exit_code = 5


class EventTooLarge(SteplogError):
    """An event exceeds what the log accepts."""

    code = "event_too_large"
    exit_code = 5

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"Event is over the max size: it is {size_bytes} bytes, the limit is {limit_bytes}; "
            "store the payload elsewhere and send its address"
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class EventDataInvalid(SteplogError):
    """An event's data does not fit the type that a function declares for it; trying again cannot help."""

    code = "event_data_invalid"

    def __init__(self, event: str, type_name: str, problem: str) -> None:
        super().__init__(f"the data of event {event} does not fit {type_name}: {problem}")
        self.event, self.type_name, self.problem = event, type_name, problem


class LogUnavailable(SteplogError):
    """The log cannot be read or written at the moment."""

    code = "log_unavailable"
    retryable = True
    exit_code = 3


class HistoryUnavailable(LogUnavailable):
    """The history cannot be read or written at the moment. Runs go on, and nothing is lost: it is made from the log."""

    code = "history_unavailable"


class EngineEnded(SteplogError):
    """The engine's process ended by itself."""

    code = "engine_ended"
    exit_code = 3


class LogCorrupt(SteplogError):
    """A row of the log does not match its checksum."""

    code = "log_corrupt"
    exit_code = 3

    def __init__(self, path: str, where: str) -> None:
        super().__init__(
            f"{path}: {where} does not match its checksum, so the file was changed or damaged; "
            "nothing was written to it. Restore it from a backup, or move it away to start with an empty log"
        )
        self.path, self.where = path, where


class LogTruncated(SteplogError):
    """Records on Kafka that are still needed are gone: their topic was cut, or made anew (FAULT-B10)."""

    code = "log_truncated"
    exit_code = 3


class TopicsInvalid(SteplogError):
    """Topics on Kafka that this log cannot go on with. ``problems`` has a line for each."""

    code = "topics_invalid"
    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{count} with the topics", *problems]))
        self.problems = problems


class NodeReplaced(SteplogError):
    """Another process of the same name has taken this one's place in the cluster."""

    code = "node_replaced"
    exit_code = 3

    def __init__(self, node: str) -> None:
        super().__init__(
            f"another process with the node name {node} has started on this log, and this one ends: it decides nothing "
            "any more, and nothing is lost. Where both are meant to run, give each a name of its own: kafka.node"
        )
        self.node = node


class LogLocked(SteplogError):
    """Another process writes this log."""

    code = "log_locked"
    exit_code = 3

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(
            f"{path} is being written by {holder}; a log has one writer at a time. "
            "Stop that process, or give this one a log of its own with --log sqlite:OTHER.db"
        )
        self.path, self.holder = path, holder


class LogMoved(SteplogError):
    """A log that ``steplog migrate`` moves, or has moved, elsewhere: no engine starts on it."""

    code = "log_moved"
    exit_code = 3


class MigrationRefused(SteplogError):
    """A log cannot be moved as it was asked for. Nothing has changed."""

    code = "migration_refused"
    exit_code = 2


class Overloaded(SteplogError):
    """More is waiting than the node takes; send again later."""

    code = "overloaded"
    retryable = True
    exit_code = 3


class TypesUnavailable(SteplogError):
    """Nobody says at the moment whether an event's data fit their type; nothing of the request was accepted."""

    code = "types_unavailable"
    retryable = True
    exit_code = 3


class PortInUse(SteplogError):
    """The address to listen on is taken."""

    code = "port_in_use"
    exit_code = 2


class ServerUnreachable(SteplogError):
    """No steplog server answers."""

    code = "server_unreachable"
    retryable = True
    exit_code = 3


class NotFound(SteplogError):
    """No run, event, function or file has this name."""

    code = "not_found"
    exit_code = 4


class Refused(SteplogError):
    """The server understood the request and refused it."""

    code = "refused"
    exit_code = 5


class Unauthorized(Refused):
    """The server does not know the key that was shown, or was shown none."""

    code = "unauthorized"


class EventRefused(Refused):
    """The server takes none, or not all, of the events of a call (PY-11).

    ``ids`` are the internal ids of those before the first that it refused; they are accepted. ``index`` is the place of
    that one in the call, from 0; None where the request was refused as a whole.
    """

    code = "event_refused"

    def __init__(self, message: str, *, ids: list[str], index: int | None, reason: str) -> None:
        super().__init__(message)
        self.ids, self.index, self.reason = ids, index, reason


class RunFailed(SteplogError):
    """A function that was invoked has failed: ``name``, ``message`` and ``stack`` are those of the run's error.

    Where a limit was exceeded, ``__cause__`` is the error of steplog that says so, such as ``StateSizeExceeded``.
    """

    code = "run_failed"

    def __init__(self, function: str, run_id: str, *, name: str, message: str, stack: str | None = None) -> None:
        super().__init__(f"{function} failed, run {run_id}: {f'{name}: {message}' if message else name}")
        self.function, self.run_id = function, run_id
        self.name, self.message, self.stack = name, message, stack
        _explain(self, name, message)


class InvokeTimeout(SteplogError):
    """A function that was invoked has not ended in time. Its run goes on; ``run_id`` is None where none began yet."""

    code = "invoke_timeout"

    def __init__(self, function: str, run_id: str | None, timeout_s: float) -> None:
        where = "its run has not begun" if run_id is None else f"its run goes on: steplog runs show {run_id}"
        super().__init__(f"{function} has not ended within {timeout_s:g} s; {where}")
        self.function, self.run_id, self.timeout_s = function, run_id, timeout_s


class NonRetriableError(SteplogError):
    """Raise it to say that trying again cannot help.

    Inside a step the step fails now, in the function the run fails now (ERR-07).
    """

    code = "non_retriable_error"


class RetryAfterError(SteplogError):
    """Raise it to set the time of the next attempt (ERR-08). It adds no attempt.

    ``retry_after`` is a duration (``timedelta``, or milliseconds as ``int``) or a ``datetime`` with a zone. The next
    attempt comes after at least 1 s and at most 24 h (LIMW-01).
    """

    code = "retry_after_error"
    retryable = True

    def __init__(self, message: str, retry_after: timedelta | int | datetime) -> None:
        super().__init__(message)
        if isinstance(retry_after, datetime) and retry_after.tzinfo is None:
            raise ValueError("retry_after is a datetime without a zone; give it one, as in datetime.now(UTC)")
        self.retry_after = retry_after


class StepError(SteplogError):
    """A step has failed for good: all its attempts, or one that said that trying again cannot help (ERR-09).

    Catch it to go on without the step; uncaught it fails the run. ``name`` is that of the exception. Where a limit was
    exceeded, ``__cause__`` is the error of steplog that says so, such as ``OutputTooLarge``.
    """

    code = "step_errored"

    def __init__(self, message: str, name: str = "StepError", stack: str | None = None) -> None:
        super().__init__(message)
        self.message, self.name, self.stack = message, name, stack
        _explain(self, name, message)


class ProduceUnsupported(SteplogError):
    """``step.produce`` was called where the log is not on Kafka."""

    code = "produce_unsupported"

    def __init__(self) -> None:
        super().__init__(
            "step.produce needs a log on Kafka: it writes in the same transaction as the step's record; "
            "with another log, produce in step.run with a client of your own"
        )


class TopicUnknown(SteplogError):
    """``step.produce`` names a topic, or a partition of one, that does not exist; the step is tried again."""

    code = "topic_unknown"
    retryable = True


class RecordRefused(SteplogError):
    """A topic does not take the record of ``step.produce``; the step is tried again."""

    code = "record_refused"
    retryable = True


class RecordTooLarge(SteplogError):
    """``step.produce`` was given more than its topic takes."""

    code = "record_too_large"

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the record for topic {topic} is {size_bytes} bytes, the topic takes {limit_bytes} (max.message.bytes); "
            "store the payload elsewhere and send its address"
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class OutputUnserializable(SteplogError):
    """A step or function returned something that JSON cannot hold."""

    code = "output_unserializable"


class OutputTooLarge(SteplogError):
    """A step or function returned more than the limit."""

    code = "output_too_large"
    wire_name: ClassVar[str] = "output_too_large"

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{what} returned {size_bytes} bytes, the limit is {limit_bytes}; store it elsewhere and return its address"
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class StepLimitExceeded(SteplogError):
    """A run has made more steps than the limit."""

    code = "step_limit_exceeded"
    wire_name: ClassVar[str] = "InngestErrFunctionOverflowed"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The function run exceeded the step limit of {limit} steps. Split it: let it send events that start "
            "others, or do more in one step."
        )
        self.limit = limit


class StateSizeExceeded(SteplogError):
    """A run has recorded more bytes than the limit."""

    code = "state_size_exceeded"
    wire_name: ClassVar[str] = "InngestErrStateOverflowed"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The run's state is {size_bytes} bytes, the limit is {limit_bytes}; store large results elsewhere"
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class StepOutsideRun(SteplogError):
    """``current_step()`` was called where no step runs."""

    code = "step_outside_run"


_LIMITS = {kind.__name__: kind for kind in (OutputTooLarge, StepLimitExceeded, StateSizeExceeded)}
_NATIVE_NAMES = {kind.wire_name: name for name, kind in _LIMITS.items()}


def wire_name(name: str) -> str:
    """The name that an error has over the wire and in ``output``: SDKs compare it (GAP-20)."""
    return _LIMITS[name].wire_name if name in _LIMITS else name


def native_name(name: str) -> str:
    """The name of the class here, where an error came with the wire's."""
    return _NATIVE_NAMES.get(name, name)


def _explain(failure: Exception, name: str, text: str) -> None:
    """Make the error again that was recorded, with its text, where a limit was exceeded."""
    if name in _LIMITS:
        failure.__cause__ = error_of(_LIMITS[name].code, text)


def error_of(code: str, text: str) -> SteplogError:
    """Make an error again that another process had."""
    kind = _by_code(SteplogError).get(code, SteplogError)
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def _by_code(kind: type[SteplogError]) -> dict[str, type[SteplogError]]:
    found = {kind.code: kind}
    for below in kind.__subclasses__():
        found |= _by_code(below)
    return found


class Interrupt(BaseException):
    """Closes a live run: raised at its awaits, so that ``finally`` blocks run. It goes on later, from its records."""
