"""Apps: named sets of functions."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from steplog.context import Context, ContextSync, data_type_of
from steplog.engine.ids import text_problem
from steplog.errors import ConfigInvalid
from steplog.event import INVOKED, EventType, Triggering
from steplog.functions import AnyTrigger, Function, FunctionFailed, FunctionSync, declare
from steplog.step import Step
from steplog.step_sync import StepSync

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
_OnFailure: TypeAlias = (
    Callable[[Context[FunctionFailed]], Awaitable[object]]
    | Callable[[Context[FunctionFailed], Step], Awaitable[object]]
    | Callable[[ContextSync[FunctionFailed]], object]
    | Callable[[ContextSync[FunctionFailed], StepSync], object]
)


class _Decorator(Protocol[A]):
    """What ``@app.function(trigger=…)`` returns: it takes handlers of the trigger's data."""

    @overload
    def __call__(self, handler: Callable[[Context[A]], Awaitable[R]], /) -> Function[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[Context[A], Step], Awaitable[R]], /) -> Function[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[ContextSync[A]], R], /) -> FunctionSync[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[ContextSync[A], StepSync], R], /) -> FunctionSync[A, R]: ...


class _Invoked(Protocol):
    """What ``@app.function()`` returns without a trigger: the handler says what data it is invoked with."""

    @overload
    def __call__(self, handler: Callable[[Context[A]], Awaitable[R]], /) -> Function[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[Context[A], Step], Awaitable[R]], /) -> Function[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[ContextSync[A]], R], /) -> FunctionSync[A, R]: ...
    @overload
    def __call__(self, handler: Callable[[ContextSync[A], StepSync], R], /) -> FunctionSync[A, R]: ...


class App:
    """A named set of functions that are deployed together.

    ``app_id`` is part of every function's id: changing it makes them new functions. ``version`` is shown with each run.
    ``event_types`` are those that its functions' triggers name, by the events' names (EVT-23), and those that are
    given: of events that functions wait for, so that ``events.validate = "refuse"`` knows them too.

    Raises ``ConfigInvalid`` with every problem.
    """

    def __init__(self, app_id: str, *, version: str | None = None, event_types: Sequence[EventType[Any]] = ()) -> None:
        if not app_id or not isinstance(app_id, str):
            raise ConfigInvalid("App", [f"app_id is {app_id!r}; give a short name, as in App('shop')"])
        problems = _listing_problems(event_types)
        problem = text_problem(app_id)
        if problem is not None:
            problems.append(f"app_id {problem}")
        known = {} if problems else _with_types({}, event_types, problems)
        if problems:
            raise ConfigInvalid(f"app {app_id!r}", problems)
        self.id, self.version = app_id, version
        self.functions: dict[str, Function[Any, Any]] = {}
        self.event_types: dict[str, EventType[Any]] = known

    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: Triggering[A],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[A]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: str | Sequence[str],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[dict[str, Any]]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: Sequence[Triggering[A]],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[A]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: tuple[Triggering[A], Triggering[B]],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[A | B]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: tuple[Triggering[A], Triggering[B], Triggering[C]],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[A | B | C]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: tuple[Triggering[A], Triggering[B], Triggering[C], Triggering[D]],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[A | B | C | D]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: Sequence[AnyTrigger],
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Decorator[Any]: ...  # fmt: skip
    @overload
    def function(
        self, fn_id: str | None = None, *, trigger: None = None,
        name: str | None = None, retries: int = 4, on_failure: _OnFailure | None = None, strict: bool = False,
    ) -> _Invoked: ...  # fmt: skip
    def function(
        self, fn_id: str | None = None, *, trigger: AnyTrigger | Sequence[AnyTrigger] | None = None,
        name: str | None = None, retries: int = 4, on_failure: Callable[..., Any] | None = None, strict: bool = False,
    ) -> Any:  # fmt: skip
        """Declare a function.

        ``fn_id`` is the handler's name with hyphens unless given. ``trigger`` is what starts it: the name of an event,
        an ``EventType``, a ``TriggerEvent``, a ``TriggerCron``, or up to 10 of these (FN-06); without one it is only
        invoked. ``retries`` is how often a step, or the function's own code, is tried again after its first attempt
        (ERR-02, 0…20). ``on_failure`` is called once when the function has failed for good (ERR-13). ``strict`` fails a
        run whose recorded steps the function no longer makes, or makes in another order, instead of a warning (CON-35).

        Raises ``ConfigInvalid`` with every problem, where it is written.
        """

        def register(handler: Callable[..., Any]) -> Function[Any, Any]:
            declared = declare(
                handler, app_id=self.id, version=self.version, name=name, trigger=trigger, retries=retries,
                fn_id=getattr(handler, "__name__", "").replace("_", "-") if fn_id is None else fn_id,
                on_failure=on_failure, strict=strict, invoked_with=data_type_of(handler) if trigger is None else None,
            )  # fmt: skip
            self._add(declared)
            return declared[0]

        return register

    def _add(self, declared: list[Function[Any, Any]]) -> None:
        """Take a function and its companion, or neither."""
        prefix = f"{self.id}-"
        problems = [
            f"two functions have the id {function.id.removeprefix(prefix)!r}"
            for function in declared
            if function.id in self.functions
        ]
        event_types = _with_types(self.event_types, declared[0].event_types, problems)
        if problems:
            raise ConfigInvalid(f"app {self.id}", problems)
        self.functions.update((function.id, function) for function in declared)
        self.event_types = event_types


def _listing_problems(event_types: object) -> list[str]:
    if not isinstance(event_types, Sequence) or isinstance(event_types, str):
        return [f"event_types is {event_types!r}; give a list of EventType"]
    return [
        f"event_types[{index}] is {each!r}; give an EventType whose name is no pattern"
        for index, each in enumerate(event_types)
        if not isinstance(each, EventType) or each.is_pattern
    ]


def _with_types(
    known: dict[str, EventType[Any]], more: Sequence[EventType[Any]], problems: list[str]
) -> dict[str, EventType[Any]]:
    """Add the types of events; that one of them has two is added to ``problems``."""
    every = dict(known)
    for each in more:
        if each.is_plain or each.name == INVOKED:
            continue
        first = every.setdefault(each.name, each)
        if first.data_type != each.data_type:
            problems.append(
                f"event {each.name} has two types: {first.type_name} ({first.source}) and {each.type_name} "
                f"({each.source})"
            )
    return every
