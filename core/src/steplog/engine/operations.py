"""What a function asks for: one vocabulary for every driver, with the names of the wire protocol (execution.md §7)."""

import re

import msgspec

from steplog.engine.ids import text_problem
from steplog.errors import SteplogError

MOST_SIGNAL_CHARACTERS = 256
_TOPIC = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}")


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it is recorded and shown (ERR-18)."""

    name: str
    message: str
    stack: str | None = None
    cause: "ErrorInfo | None" = None


def error_info(error: SteplogError) -> ErrorInfo:
    """An error of steplog's own, as it is recorded."""
    return ErrorInfo(name=type(error).__name__, message=str(error))


class EventOut(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An event that a step sends; checked already."""

    name: str
    data: bytes  # JSON, an object
    id: str | None = None
    ts: int | None = None
    v: str | None = None
    user: bytes | None = None  # JSON


class StepRun(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step's body returned."""

    data: bytes  # JSON
    started_ms: int
    ended_ms: int


class StepError(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step's body raised."""

    error: ErrorInfo
    started_ms: int
    ended_ms: int
    final: bool = False  # trying again cannot help
    retry_after_ms: int | None = None  # from now on; asked for by the body
    retries: int | None = None  # of this step; None: the function's


class Sleep(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A pause: until a time, or for a while from when it is decided."""

    until_ms: int | None = None
    for_ms: int = 0


class SendEvent(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Events to accept in the same commit as the step's record."""

    events: tuple[EventOut, ...]


class WaitForEvent(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Wait for an event of one of these names, or for one of each; ``if_exp`` is CEL over ``event`` and ``async``.

    ``is_since_trigger``: events that came after the one that started the run count, else those from now on.
    """

    events: tuple[str, ...]
    timeout_ms: int
    all_of: bool = False
    if_exp: str | None = None
    is_since_trigger: bool = False


class WaitForSignal(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Wait for a signal by its name. At most one step waits for one: it fails, or ``replaces`` the one that waits."""

    signal: str
    timeout_ms: int
    replaces: bool = False


class SendSignal(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Resume the step that waits for a signal, if there is one."""

    signal: str
    data: bytes  # JSON


class Produce(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A record for a topic that is not steplog's, in the same commit as the step's record."""

    topic: str
    key: bytes | None
    value: bytes | None  # None: a tombstone
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None  # None: by the key, as Kafka's clients choose

    @property
    def size_bytes(self) -> int:
        """What it takes, without the few bytes that Kafka adds."""
        headers = sum([len(name.encode()) + len(value) for name, value in self.headers])
        return len(self.key or b"") + len(self.value or b"") + headers


class InvokeFunction(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Start one function and wait for its result."""

    function: str  # qualified
    data: bytes  # JSON
    timeout_ms: int
    user: bytes | None = None  # JSON
    v: str | None = None


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """A step that was not begun, because its run has lost its process too often."""


Operation = (
    StepRun | StepError | Sleep | SendEvent | WaitForEvent | WaitForSignal | SendSignal | Produce | InvokeFunction
    | Lost
)  # fmt: skip


def signal_problem(name: object) -> str | None:
    """Say what is wrong with the name of a signal."""
    problem = text_problem(name)
    if problem is None and not 0 < len(str(name)) <= MOST_SIGNAL_CHARACTERS:
        return f"has {len(str(name))} characters, it must have 1 to {MOST_SIGNAL_CHARACTERS}"
    return problem


def topic_problem(name: object) -> str | None:
    """Say why Kafka would take no topic of this name."""
    if isinstance(name, str) and _TOPIC.fullmatch(name):
        return None
    return f"is {name!r:.100}, it must have 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
