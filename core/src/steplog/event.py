"""Events as authors see them, and the types of their data."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, Generic, overload

import msgspec
from typing_extensions import TypeIs, TypeVar

from steplog.codec import Decode, decode_plain, decoder, describe_misfit
from steplog.engine.events import MAX_NAME_CHARACTERS
from steplog.engine.ids import text_problem
from steplog.errors import ConfigInvalid, EventDataInvalid, EventInvalid

D = TypeVar("D", default=dict[str, Any], covariant=True)
A = TypeVar("A", default=dict[str, Any])

INVOKED = "inngest/function.invoked"  # the event of a run that was invoked (EVT-18)
_PLAIN: Any = dict[str, Any]


class Event(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """Something that happened.

    ``id`` makes sending repeatable: one id starts a function once in 24 hours (EVT-14). ``ts`` is in milliseconds; a
    future one delays the runs that the event starts (EVT-06). Of a received event both are always set.
    """

    name: str
    data: D = msgspec.field(default_factory=dict)  # type: ignore[assignment] # an object without fields
    id: str | None = None
    ts: int | None = None
    v: str | None = None
    user: dict[str, Any] | None = None


class Triggering(Generic[A]):
    """What starts a function with data of this type: the root of event types, and of triggers."""


class EventType(Triggering[A]):
    """A name of events and the type of their data: a dataclass, a msgspec struct or a pydantic model (EVT-23).

    It stands wherever the name of an event does, and what is received is read as this type. Calling it makes an event.
    A name that ends in ``/*`` or ``.*`` is a pattern of names, for triggers (SDK-02).

    Raises ``ConfigInvalid`` with every problem.
    """

    @overload
    def __init__(self: "EventType[dict[str, Any]]", name: str) -> None: ...
    @overload
    def __init__(self, name: str, data_type: type[A]) -> None: ...
    def __init__(self, name: str, data_type: Any = _PLAIN) -> None:
        wrong_name = name_problem(name)
        problems = [None if wrong_name is None else f"name {wrong_name}", data_problem(data_type)]
        if any(problems):
            raise ConfigInvalid(f"event type {name}", [problem for problem in problems if problem])
        self.name = name
        self.data_type: type[A] = data_type
        frame = sys._getframe(1)
        self.source = f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}"  # where it is written
        self._decode: Decode | None = decode_plain if data_type == _PLAIN else None

    def __repr__(self) -> str:
        return f"EventType({self.name!r}, {self.type_name})"

    def __call__(
        self, data: A, *, id: str | None = None, ts: int | None = None, v: str | None = None,  # noqa: A002 - the field
        user: dict[str, Any] | None = None,
    ) -> Event[A]:  # fmt: skip
        """Make an event with this name. Raises ``EventInvalid`` where the name is a pattern."""
        if self.is_pattern:
            raise EventInvalid(f"{self.name} is a pattern of names; give an event the name it has")
        return Event(name=self.name, data=data, id=id, ts=ts, v=v, user=user)

    @property
    def is_plain(self) -> bool:
        """Whether the data is any JSON object."""
        return self.data_type in (_PLAIN, dict)

    @property
    def is_pattern(self) -> bool:
        """Whether it covers several names."""
        return self.name.endswith("*")

    @property
    def type_name(self) -> str:
        """The data type's name, for messages."""
        return getattr(self.data_type, "__name__", None) or str(self.data_type)

    def matches(self, event: Event[Any]) -> TypeIs[Event[A]]:
        """Whether an event that this function received has this name, or one that the pattern covers."""
        return self.covers(event.name)

    def covers(self, name: str) -> bool:
        """Whether a name is this one, or fits this pattern (FN-08)."""
        return name == self.name or (self.is_pattern and name.startswith(self.name[:-1]))

    def decode(self, data: bytes) -> A:
        """Read an event's data from JSON. Raises ``EventDataInvalid`` where it does not fit the type."""
        try:
            value: A = self._decoder()(data)
        except Exception as error:  # user code: a type's own checks may raise anything
            raise EventDataInvalid(self.name, self.type_name, describe_misfit(error, "data")) from error
        return value

    def check(self, data: bytes) -> str | None:
        """Say what is wrong with JSON that is to be data of this type, as ``data.total: expected int, got str``."""
        try:
            self.decode(data)
        except EventDataInvalid as error:
            return error.problem
        return None

    def _decoder(self) -> Decode:
        """Made when it is first needed: by then all names in the type's annotations are known."""
        if self._decode is None:
            self._decode = decoder(self.data_type)
        return self._decode


def name_problem(name: object) -> str | None:
    """Say what is wrong with the name, or pattern of names, of events that somebody listens to (EVT-08, FN-08)."""
    if not isinstance(name, str) or not name:
        return f"is {name!r}; give the name of an event"
    problem = text_problem(name)
    if problem is not None:
        return problem
    if len(name) > MAX_NAME_CHARACTERS:
        return f"has {len(name)} characters, the limit is {MAX_NAME_CHARACTERS}"
    before, star, after = name.partition("*")
    if not star or (not after and before.endswith(("/", "."))):
        return None
    stem = before[: max(before.rfind("/"), before.rfind(".")) + 1]
    hint = f"; did you mean {stem + '*'!r}?" if stem else ""
    return f"is {name!r}: * stands only at the end, directly after / or .{hint}"


def data_problem(data_type: Any) -> str | None:
    """Say what is wrong with a type of data, as far as it can be told before all its names are known."""
    try:
        decoder(data_type)(b"{}")
    except msgspec.ValidationError as error:
        if str(error).startswith("Expected `"):  # it takes no object, whatever is in it
            return f"data type is {data_type!r}; give a class whose JSON is an object"
    except TypeError as error:
        return f"data type is {data_type!r}: {error}"
    except Exception:  # noqa: BLE001, S110 - user code: a name that is not known yet, or a check of the type's own
        pass
    return None


class _Stored(msgspec.Struct):
    """What a function sees of an event on the log."""

    name: str
    data: dict[str, Any]
    id: str
    ts: int
    v: str | None = None
    user: dict[str, Any] | None = None


class _StoredRaw(msgspec.Struct):
    """The same, its data as it stands there."""

    name: str
    data: msgspec.Raw
    id: str
    ts: int
    v: str | None = None
    user: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Stored).decode
_decode_raw = msgspec.json.Decoder(_StoredRaw).decode
_split = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
Types = Sequence[EventType[Any]]


def find_type(name: str, types: Iterable[EventType[Any]]) -> EventType[Any] | None:
    """Find the type of an event by its name: the one of this very name, else the first whose pattern covers it."""
    covering = [each for each in types if each.covers(name)]
    exact = [each for each in covering if each.name == name]
    return next(iter(exact or covering), None)


def read_event(body: bytes, types: Types = ()) -> Event[Any]:
    """Read an event's record on the log, its data as the type that its name has among some.

    Raises ``EventDataInvalid``.
    """
    if not types:
        stored = _decode(body)
        return Event(name=stored.name, data=stored.data, id=stored.id, ts=stored.ts, v=stored.v, user=stored.user)
    raw = _decode_raw(body)
    data = _read_data(raw.name, bytes(raw.data), types)
    return Event(name=raw.name, data=data, id=raw.id, ts=raw.ts, v=raw.v, user=raw.user)


def read_match(body: bytes, types: Types) -> Event[Any] | None:
    """Read what a wait for an event recorded: the event, or ``null`` when its time was up."""
    return None if body == b"null" else read_event(body, types)


def read_matches(body: bytes, types: Types) -> tuple[Event[Any], ...] | None:
    """Read what a wait for several events recorded: an array of them, or ``null`` when its time was up."""
    bodies = _split(body)
    return None if bodies is None else tuple(read_event(bytes(each), types) for each in bodies)


def _read_data(name: str, data: bytes, types: Types) -> Any:
    found = find_type(name, types)
    if found is not None:
        return found.decode(data)
    return _read_invoked(data, types) if name == INVOKED else decode_plain(data)


def _read_invoked(data: bytes, types: Types) -> Any:
    """Whoever invokes a function gives it the data of one of its triggers: the first type that takes it."""
    problems = []
    for each in sorted(types, key=lambda each: each.is_plain):  # any object is a plain one
        problem = each.check(data)
        if problem is None:
            return each.decode(data)
        problems.append(problem)
    wanted = " or ".join(each.type_name for each in types)
    raise EventDataInvalid(INVOKED, wanted, "; or ".join(problems))
