"""steplog: durable functions on Kafka, or on one SQLite file.

An app owns functions, events start them, steps make their parts durable. Everything an author needs is here; the rest
of the package may change any day.
"""

from steplog.app import App
from steplog.context import Context
from steplog.durations import Duration
from steplog.errors import NonRetriableError, RetryAfterError, StepError, SteplogError
from steplog.event import Event
from steplog.functions import Function, TriggerEvent
from steplog.step import CurrentStep, Step, current_step

__version__ = "0.1.0"

__all__ = [
    "App",
    "Context",
    "CurrentStep",
    "Duration",
    "Event",
    "Function",
    "NonRetriableError",
    "RetryAfterError",
    "Step",
    "StepError",
    "SteplogError",
    "TriggerEvent",
    "current_step",
]
