"""Functions: what an author declares, checked when it is declared."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic

from typing_extensions import TypeVar

from steplog.engine.events import MAX_NAME_CHARACTERS
from steplog.engine.functions import EventTrigger, FunctionSpec
from steplog.errors import ConfigInvalid

MOST_RETRIES = 20  # LIMW-02

DF = TypeVar("DF", contravariant=True)
RF = TypeVar("RF", covariant=True)


class TriggerEvent:
    """Starts a function for every event of this exact name."""

    def __init__(self, event: str) -> None:
        self.event = event


class Function(Generic[DF, RF]):
    """A durable function. ``@app.function`` makes it; ``id`` is qualified with the app's: ``<app>-<function>``."""

    def __init__(
        self, handler: Callable[..., Awaitable[RF]], *, app_id: str, version: str | None, fn_id: str, name: str,
        trigger: str | TriggerEvent, retries: int,
    ) -> None:  # fmt: skip
        event = trigger.event if isinstance(trigger, TriggerEvent) else trigger
        self.handler, self.name = handler, name
        self.takes_step = _check(handler, app_id, fn_id, event, retries)
        self.spec = FunctionSpec(
            id=f"{app_id}-{fn_id}", app=app_id, triggers=(EventTrigger(event),), version=version, retries=retries
        )

    @property
    def id(self) -> str:
        return self.spec.id

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[RF]:
        """Call the handler as it is, without durability; for tests of plain logic."""
        return self.handler(*args, **kwargs)


def _check(handler: object, app_id: str, fn_id: object, event: object, retries: object) -> bool:
    """Raise ``ConfigInvalid`` with every problem. Returns whether the handler takes ``(ctx, step)`` (PY-22)."""
    problems = []
    if not isinstance(fn_id, str):
        problems.append(f"id is {fn_id!r}; give text")
    elif not fn_id:
        problems.append("id is empty")
    if not isinstance(event, str) or not event:
        problems.append(f"trigger is {event!r}; give the name of an event")
    elif len(event) > MAX_NAME_CHARACTERS:
        problems.append(f"trigger has {len(event)} characters, the limit is {MAX_NAME_CHARACTERS}")
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MOST_RETRIES:
        problems.append(f"retries is {retries!r}; it must be a number from 0 to {MOST_RETRIES}")
    takes_step = False
    handler_name = getattr(handler, "__qualname__", handler)
    if not inspect.iscoroutinefunction(handler):
        problems.append(f"{handler_name} is not an async function; write async def")
    else:
        signature = inspect.signature(handler)
        takes_step = _takes(signature, 2)
        if not takes_step and not _takes(signature, 1):
            problems.append(f"{handler_name}{signature} is called with (ctx), or (ctx, step)")
    if problems:
        raise ConfigInvalid(f"function {app_id}-{fn_id}", problems)
    return takes_step


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
