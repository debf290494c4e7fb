"""Apps: named sets of functions."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, overload

from steplog.context import Context
from steplog.errors import ConfigInvalid
from steplog.functions import Function, TriggerEvent
from steplog.step import Step

R = TypeVar("R")
_Data = dict[str, Any]


class _Decorator(Protocol):
    """What ``@app.function(…)`` returns."""

    @overload
    def __call__(self, handler: Callable[[Context[_Data]], Awaitable[R]], /) -> Function[_Data, R]: ...
    @overload
    def __call__(self, handler: Callable[[Context[_Data], Step], Awaitable[R]], /) -> Function[_Data, R]: ...


class App:
    """A named set of functions that are deployed together.

    ``app_id`` is part of every function's id: changing it makes them new functions. ``version`` is shown with each run.
    """

    def __init__(self, app_id: str, *, version: str | None = None) -> None:
        if not app_id or not isinstance(app_id, str):
            raise ConfigInvalid("App", [f"app_id is {app_id!r}; give a short name, as in App('shop')"])
        self.id, self.version = app_id, version
        self.functions: dict[str, Function[Any, Any]] = {}

    def function(
        self, fn_id: str | None = None, *, trigger: str | TriggerEvent, name: str | None = None, retries: int = 4
    ) -> _Decorator:
        """Declare a function.

        ``fn_id`` is the handler's name with hyphens unless given; ``trigger`` the name of the event that starts it;
        ``retries`` how often a step, or the function's own code, is tried again after its first attempt (ERR-02, 0…20).

        Raises ``ConfigInvalid`` with every problem, where it is written.
        """

        def declare(handler: Callable[..., Awaitable[Any]]) -> Function[Any, Any]:
            short_id = getattr(handler, "__name__", "").replace("_", "-") if fn_id is None else fn_id
            function: Function[Any, Any] = Function(
                handler, app_id=self.id, version=self.version, fn_id=short_id, name=name or short_id, trigger=trigger,
                retries=retries,
            )  # fmt: skip
            if function.id in self.functions:
                raise ConfigInvalid(f"app {self.id}", [f"two functions have the id {short_id!r}"])
            self.functions[function.id] = function
            return function

        return declare
