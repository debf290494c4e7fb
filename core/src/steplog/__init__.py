"""steplog: durable functions on Kafka, or on one SQLite file.

An app owns functions, events start them, steps make their parts durable. Everything an author needs is here; the rest
of the package may change any day.
"""

from steplog.app import App
from steplog.context import Context, ContextSync
from steplog.durations import Duration
from steplog.errors import EventDataInvalid, NonRetriableError, RetryAfterError, StepError, SteplogError
from steplog.event import Event, EventType
from steplog.functions import Function, FunctionFailed, TriggerCron, TriggerEvent
from steplog.group import Group
from steplog.step import CurrentStep, Signal, Step, current_step
from steplog.step_sync import StepSync

__version__ = "0.1.0"

__all__ = [
    "App",
    "Context",
    "ContextSync",
    "CurrentStep",
    "Duration",
    "Event",
    "EventDataInvalid",
    "EventType",
    "Function",
    "FunctionFailed",
    "Group",
    "NonRetriableError",
    "RetryAfterError",
    "Signal",
    "Step",
    "StepError",
    "StepSync",
    "SteplogError",
    "TriggerCron",
    "TriggerEvent",
    "current_step",
]
