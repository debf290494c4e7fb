"""Functions: what an author declares, checked when it is declared."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Literal, get_args, overload

import msgspec
from typing_extensions import TypeVar

from steplog.cel import compile_filter
from steplog.codec import Decode, decoder_of
from steplog.durations import Duration, milliseconds
from steplog.engine.cron import parse_cron
from steplog.engine.functions import CronTrigger, EventTrigger, FunctionSpec, Trigger
from steplog.engine.ids import text_problem
from steplog.engine.operations import ErrorInfo
from steplog.errors import ConfigInvalid, CronInvalid, ExpressionInvalid, native_name
from steplog.event import INVOKED, A, Event, EventType, Triggering, data_problem, name_problem

MOST_RETRIES = 20  # LIMW-02
MOST_TRIGGERS = 10  # FN-06

DF = TypeVar("DF", contravariant=True)
RF = TypeVar("RF", covariant=True)
CatchUp = Literal["last", "skip", "all"]
CATCH_UPS = get_args(CatchUp)


class TriggerEvent(Triggering[A]):
    """Starts a function for every event of this name, or of a name that fits this pattern (FN-08).

    ``expression`` is CEL over ``event``; events for which it is false start nothing (FN-04).
    """

    @overload
    def __init__(self: "TriggerEvent[dict[str, Any]]", event: str, expression: str | None = None) -> None: ...
    @overload
    def __init__(self, event: EventType[A], expression: str | None = None) -> None: ...
    def __init__(self, event: Any, expression: str | None = None) -> None:
        self.event_type: EventType[A] | None = event if isinstance(event, EventType) else None
        self.event: str = event.name if isinstance(event, EventType) else event
        self.expression = expression


class TriggerCron(Triggering[dict[str, Any]]):
    """Starts a function at the ticks of a cron, ``[TZ=Europe/Paris ]0 3 * * *`` (FN-05).

    ``jitter`` delays each run by up to so much. ``catch_up`` says which of the ticks that were missed while nothing ran
    start a run afterwards: the last one, none, or all.
    """

    def __init__(self, cron: str, *, jitter: Duration | None = None, catch_up: CatchUp = "last") -> None:
        self.cron, self.jitter, self.catch_up = cron, jitter, catch_up


AnyTrigger = str | Triggering[Any]


class FunctionFailed(msgspec.Struct, frozen=True, kw_only=True):
    """The data of ``inngest/function.failed``: what an ``on_failure`` handler is called with (ERR-13, ERR-14).

    ``event`` is what started the run that failed (ERR-17), ``events`` all that did.
    """

    error: ErrorInfo
    event: Event[Any]
    function_id: str
    run_id: str
    events: list[Event[Any]] = []

    def __post_init__(self) -> None:
        if not self.events:
            msgspec.structs.force_setattr(self, "events", [self.event])
        error = msgspec.structs.replace(self.error, name=native_name(self.error.name))
        msgspec.structs.force_setattr(self, "error", error)


FAILED = EventType("inngest/function.failed", FunctionFailed)


class Function(Generic[DF, RF]):
    """A durable function. ``@app.function`` makes it; ``id`` is qualified with the app's: ``<app>-<function>``.

    ``event_types`` are those of the events that it is called with; empty where all data are plain objects.
    """

    def __init__(
        self, handler: Callable[..., Any], spec: FunctionSpec, *, event_types: tuple[EventType[Any], ...]
    ) -> None:
        self.handler, self.spec = handler, spec
        self.event_types = () if all(each.is_plain for each in event_types) else event_types
        self.takes_step = _takes(handler, 2)  # PY-22
        self.is_async = inspect.iscoroutinefunction(handler)  # plain ``def`` runs in a thread

    @property
    def id(self) -> str:
        """``<app>-<function>``: what it is known by everywhere."""
        return self.spec.id

    @property
    def name(self) -> str:
        """What people read: the id without the app's, unless a name was given."""
        return self.spec.name

    @functools.cached_property
    def decode_output(self) -> Decode:
        """Reads what it returned from JSON, by its return annotation; for those that invoke it (SDK-07)."""
        return decoder_of(self.handler)

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[RF]:
        """Call the handler as it is, without durability; for tests of plain logic."""
        result: Awaitable[RF] = self.handler(*args, **kwargs)
        return result


class FunctionSync(Function[DF, RF]):
    """A function that is plain ``def``."""

    def __call__(self, *args: Any, **kwargs: Any) -> RF:  # type: ignore[override] # nothing has to be awaited
        """Call the handler as it is, without durability; for tests of plain logic."""
        result: RF = self.handler(*args, **kwargs)
        return result


def declare(
    handler: Callable[..., Any], *, app_id: str, version: str | None, fn_id: Any, name: Any, trigger: Any, retries: Any,
    on_failure: Callable[..., Any] | None = None, strict: Any = False, invoked_with: Any = None,
) -> list[Function[Any, Any]]:  # fmt: skip
    """Make a function, and the one that handles its failures if there is such a handler (PY-21).

    ``invoked_with`` is the type of the data of a function without triggers.

    Raises ``ConfigInvalid`` with every problem.
    """
    problems = _head_problems(fn_id, name)
    triggers, event_types = _read_triggers(trigger, problems)
    problem = retries_problem(retries)
    problems += [problem] if problem else []
    if not isinstance(strict, bool):
        problems.append(f"strict is {strict!r}; it must be True or False")
    problems += _handler_problems(handler)
    if on_failure is not None:
        problems += [f"on_failure: {problem}" for problem in _handler_problems(on_failure)]
        if inspect.iscoroutinefunction(on_failure) != inspect.iscoroutinefunction(handler):
            problems.append("on_failure is plain def and the function async, or the reverse; write both alike")
    if trigger is None and invoked_with is not None:
        problem = data_problem(invoked_with)
        problems += [f"the handler's {problem}"] if problem else []
        event_types = () if problem else (EventType(INVOKED, invoked_with),)
    full_id = f"{app_id}-{fn_id}"
    if problems:
        raise ConfigInvalid(f"function {full_id}", problems)
    spec = FunctionSpec(
        id=full_id, app=app_id, name=name or fn_id, triggers=triggers, version=version, retries=retries,
        is_strict=strict,
    )  # fmt: skip
    function = _make(handler, spec, event_types)
    return [function] if on_failure is None else [function, _failure_function(function, on_failure)]


def retries_problem(retries: object) -> str | None:
    """Say what is wrong with how often something is tried again."""
    if isinstance(retries, int) and not isinstance(retries, bool) and 0 <= retries <= MOST_RETRIES:
        return None
    return f"retries is {retries!r}; it must be a number from 0 to {MOST_RETRIES}"


def _failure_function(function: Function[Any, Any], handler: Callable[..., Any]) -> Function[Any, Any]:
    """The companion that the engine starts when a function has failed."""
    of = function.spec
    spec = FunctionSpec(
        id=f"{of.id}-failure", app=of.app, name=f"{of.name} (failure)", version=of.version, retries=0,
        failure_of=of.id,
    )  # fmt: skip
    return _make(handler, spec, (FAILED,))


def _make(
    handler: Callable[..., Any], spec: FunctionSpec, event_types: tuple[EventType[Any], ...]
) -> Function[Any, Any]:
    kind: type[Function[Any, Any]] = Function if inspect.iscoroutinefunction(handler) else FunctionSync
    return kind(handler, spec, event_types=event_types)


def _head_problems(fn_id: object, name: object) -> list[str]:
    problems = []
    if not isinstance(fn_id, str):
        problems.append(f"id is {fn_id!r}; give text")
    elif not fn_id:
        problems.append("id is empty")
    else:
        problem = text_problem(fn_id)
        problems += [f"id {problem}"] if problem else []
    if name is not None and not isinstance(name, str):
        problems.append(f"name is {name!r}; give text")
    return problems


def _read_triggers(trigger: object, problems: list[str]) -> tuple[tuple[Trigger, ...], tuple[EventType[Any], ...]]:
    """Read one trigger, or several; what is wrong with them is added to ``problems``."""
    if trigger is None:
        return (), ()
    is_single = isinstance(trigger, str | bytes) or not isinstance(trigger, Sequence)
    given: Sequence[Any] = [trigger] if is_single else trigger  # type: ignore[assignment] # then it is one
    if len(given) > MOST_TRIGGERS:
        problems.append(f"there are {len(given)} triggers, the limit is {MOST_TRIGGERS}")
    labels: dict[Trigger, str] = {}
    event_types = []
    for index, each in enumerate(given):
        label = "trigger" if is_single else f"trigger[{index}]"
        read = _read_trigger(each)
        wrong = [read] if isinstance(read, str) else check_trigger(read)
        problems += [f"{label} {problem}" for problem in wrong]
        if isinstance(read, str) or wrong:
            continue
        if read in labels:
            problems.append(f"{label} is the same as {labels[read]}")
        labels.setdefault(read, label)
        event_types += _event_types(each)
    return tuple(labels), tuple(event_types)


def _read_trigger(given: Any) -> Trigger | str:
    """What the engine gets of a trigger, or what is wrong with it."""
    match given:
        case TriggerCron(cron=cron, jitter=jitter, catch_up=catch_up):
            try:
                return CronTrigger(cron, milliseconds(0 if jitter is None else jitter), catch_up)
            except TypeError as error:
                return f"has a wrong jitter: {error}"
        case TriggerEvent(event=event, expression=expression):
            return EventTrigger(event, expression)
        case EventType(name=event):
            return EventTrigger(event)
        case _:
            return EventTrigger(given)


def check_trigger(trigger: Trigger) -> list[str]:
    """Say everything that is wrong with a trigger."""
    match trigger:
        case EventTrigger(event=event, if_exp=if_exp):
            problems = [name_problem(event), None if if_exp is None else _expression_problem(if_exp)]
        case CronTrigger(cron=cron, jitter_ms=jitter_ms, catch_up=catch_up):
            problems = []
            if not isinstance(cron, str) or not cron.strip():
                problems.append(f"has the cron {cron!r}; give one, as '0 3 * * *'")
            else:
                problems.append(_cron_problem(cron))
            if jitter_ms < 0:
                problems.append(f"has a jitter of {jitter_ms} ms; it must not be negative")
            if catch_up not in CATCH_UPS:
                problems.append(f"has catch_up={catch_up!r}; it must be one of {', '.join(CATCH_UPS)}")
    return [problem for problem in problems if problem is not None]


def _expression_problem(text: object) -> str | None:
    if not isinstance(text, str) or not text.strip():
        return f"has the expression {text!r}; give CEL, or leave it out"
    try:
        compile_filter(text)
    except ExpressionInvalid as error:
        return f"has an expression that cannot be read: {error}"
    return None


def _cron_problem(text: str) -> str | None:
    try:
        parse_cron(text)
    except CronInvalid as error:
        return f"has a cron that cannot be used: {error.problem}"
    return None


def _event_types(given: Any) -> list[EventType[Any]]:
    """The type of the events that a trigger names; a plain one keeps a pattern's type off the name."""
    match given:
        case TriggerCron():
            return []
        case EventType():
            return [given]
        case TriggerEvent():
            return [given.event_type or EventType(given.event)]
        case _:
            return [EventType(given)]


def _handler_problems(handler: object) -> list[str]:
    name = getattr(handler, "__qualname__", handler)
    problem = _kind_problem(handler)
    if problem is not None:
        return [f"{name} {problem}"]
    if not _takes(handler, 1) and not _takes(handler, 2):
        return [f"{name}{inspect.signature(handler)} is called with (ctx), or (ctx, step)"]  # type: ignore[arg-type] # checked
    return []


def _kind_problem(handler: object) -> str | None:
    """Say why a handler cannot be run: it is called once, on the loop or in a thread."""
    if not callable(handler) or inspect.isclass(handler):
        return "is not a function"
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        return "is a generator; return the result instead of yielding"
    return None


def _takes(handler: Any, count: int) -> bool:
    try:
        inspect.signature(handler).bind(*[None] * count)
    except TypeError:
        return False
    return True
