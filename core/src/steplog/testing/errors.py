"""What a test is told when it cannot go on. Each says which step it is about and what to do."""

from steplog.errors import SteplogError


class UnusedStubs(SteplogError):
    """``step_stubs`` name steps that no run called."""

    code = "unused_stubs"


class UnstubbedStepError(SteplogError):
    """A step that waits for somebody else wants a stub (PY-56)."""

    code = "unstubbed_step"

    def __init__(self, step_id: str) -> None:
        super().__init__(f"step {step_id} is not stubbed")
        self.step_id = step_id


class NotTriggered(SteplogError):
    """The event did not start the function."""

    code = "not_triggered"


class NoProgress(SteplogError):
    """Something takes real time, or never ends."""

    code = "no_progress"


class RunNotEnded(SteplogError):
    """The result of a run was asked for that goes on."""

    code = "run_not_ended"
