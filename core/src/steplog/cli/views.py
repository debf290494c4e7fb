"""What the server answers, as the command line reads it: the same structs, with values decoded."""

from typing import Any

from steplog.server import answers


class Run(answers.Run, frozen=True, kw_only=True):
    """A run."""

    output: Any  # JSON: what the function returned, or the error of a failed run


class Attempt(answers.Attempt, frozen=True, kw_only=True):
    """An attempt."""

    output: Any  # JSON


class Step(answers.Step, frozen=True, kw_only=True):
    """A step with its attempts."""

    output: Any  # JSON
    attempts: list[Attempt]  # type: ignore[assignment]  # only ever read


class Steps(answers.Steps, frozen=True, kw_only=True):
    """The steps of a run, and the attempts of the code between them that failed."""

    steps: list[Step]  # type: ignore[assignment]  # only ever read
    function_attempts: list[Attempt]  # type: ignore[assignment]  # only ever read


class Event(answers.Event, frozen=True, kw_only=True):
    """An event, and what became of it."""

    data: Any  # JSON
    user: Any  # JSON
