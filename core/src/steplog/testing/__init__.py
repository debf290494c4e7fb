"""Tests of functions: in process, in virtual time, over the real engine (docs/testing.md).

``Testbed`` is the fixture ``testbed``'s type; ``trigger`` runs a function once without an engine.
"""

from steplog.drivers.loop import UsersLoop
from steplog.errors import RunFailed
from steplog.testing.errors import NoProgress, NotTriggered, RunNotEnded, UnstubbedStepError, UnusedStubs
from steplog.testing.oneshot import Status, Triggered, trigger
from steplog.testing.stubs import Timeout
from steplog.testing.testbed import Testbed
from steplog.testing.views import Produced, RunView, StepView

__all__ = [
    "NoProgress",
    "NotTriggered",
    "Produced",
    "RunFailed",
    "RunNotEnded",
    "RunView",
    "Status",
    "StepView",
    "Testbed",
    "Timeout",
    "Triggered",
    "UnstubbedStepError",
    "UnusedStubs",
    "UsersLoop",
    "trigger",
]
