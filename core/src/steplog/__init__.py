"""steplog: durable functions on Kafka, or on one SQLite file.

An app owns functions, events start them, steps make their parts durable. Everything an author needs is here; the rest
of the package may change any day.
"""

from typing import TYPE_CHECKING, Any

from steplog.app import App
from steplog.context import Context, ContextSync
from steplog.durations import Duration
from steplog.errors import (
    EventDataInvalid,
    EventRefused,
    InvokeTimeout,
    NonRetriableError,
    NotFound,
    Refused,
    RetryAfterError,
    RunFailed,
    ServerUnreachable,
    StepError,
    SteplogError,
)
from steplog.event import Event, EventType
from steplog.functions import Function, FunctionFailed, TriggerCron, TriggerEvent
from steplog.group import Group
from steplog.step import CurrentStep, ProducedRecord, Signal, Step, current_step
from steplog.step_sync import StepSync

if TYPE_CHECKING:
    from steplog.client import Client

__version__ = "0.1.0"

__all__ = [
    "App",
    "Client",
    "Context",
    "ContextSync",
    "CurrentStep",
    "Duration",
    "Event",
    "EventDataInvalid",
    "EventRefused",
    "EventType",
    "Function",
    "FunctionFailed",
    "Group",
    "InvokeTimeout",
    "NonRetriableError",
    "NotFound",
    "ProducedRecord",
    "Refused",
    "RetryAfterError",
    "RunFailed",
    "ServerUnreachable",
    "Signal",
    "Step",
    "StepError",
    "StepSync",
    "SteplogError",
    "TriggerCron",
    "TriggerEvent",
    "current_step",
]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for (PEP 562): who runs functions need not have it."""
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from steplog.client import Client

    return Client
