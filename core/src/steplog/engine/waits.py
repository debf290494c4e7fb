"""Which steps may wait for an event: an index of waits by event name, path and value (design: flow.md, *Waits*).

From ``async.data.id == event.data.id`` comes the path ``data.id`` and the value that the run's own event has there. An
event is looked into at the paths that waits for its name use, and meets the waits with its value. A wait without such
an equality stands under the name alone. The index finds candidates; the step decides.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from steplog.cel import EVENT_AND_ASYNC, Filter, compile_filter, value_at
from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.ids import hash16, slot_of
from steplog.engine.messages import EventOffered, Origin, WaitArmed, WaitForgotten
from steplog.errors import EvaluationError

MOST_PATHS = 16  # of a name; further waits stand under the name alone
MOST_FILTERS = 10_000  # compiled ones that are kept

Path = tuple[str, ...]
_path_decoder = msgspec.json.Decoder(tuple[str, Path])
_registered_decoder = msgspec.json.Decoder(tuple[int, str, Path])


class Spot(NamedTuple):
    """Where in the index a wait stands for events of one name."""

    name: str
    path: Path
    value: bytes  # a hash; ``NO_PATH`` without a path
    key: bytes


class Waits:
    """The index of all steps that wait for an event."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._paths: dict[tuple[int, str], dict[Path, bytes]] = {}  # of each name, with its part of the key
        self._filters: dict[str, Filter] = {}

    def recover(self, env: int) -> None:
        """Read which paths are in use."""
        for _, value in self._draft.state.owned(keys.paths(env)):
            name, path = _path_decoder.decode(value)
            self._paths.setdefault((env, name), {})[path] = path_hash(path)

    @property
    def is_used(self) -> bool:
        """Whether any step has ever waited for an event."""
        return bool(self._paths)

    def is_waited_for(self, env: int, name: str) -> bool:
        """Whether a step waits, or has waited, for events of a name."""
        return (env, name) in self._paths

    def filter(self, text: str) -> Filter:
        """Compile a condition, or find it compiled. Raises ``ExpressionInvalid``."""
        found = self._filters.get(text)
        if found is None:
            if len(self._filters) >= MOST_FILTERS:
                self._filters.clear()
            found = self._filters[text] = compile_filter(text, EVENT_AND_ASYNC)
        return found

    def arm(self, run_key: bytes, step: bytes, names: tuple[str, ...], if_exp: str | None, event: Any) -> list[Spot]:
        """Let events of some names find a step; returns where they do. ``event`` started the run."""
        made = self.spots(run_key, step, names, if_exp, event)
        for spot in made:
            if self._is_here(spot.key):
                self._draft.state.put(spot.key, b"", new=True)
            else:
                self._draft.send(slot_of_place(spot.key), WaitArmed(key=spot.key))
        return made

    def spots(self, run_key: bytes, step: bytes, names: tuple[str, ...], if_exp: str | None, event: Any) -> list[Spot]:
        """Where events of some names find a step, or would."""
        env, found = keys.env_of(run_key), list[Spot]()
        for name in dict.fromkeys(names):
            path, value = self._place(env, name, if_exp, event)
            key = keys.wait(keys.waits(env, _name_hash(name), path_hash(path), value), run_key, step)
            found.append(Spot(name, path, value, key))
        return found

    def candidates(self, env: int, name: str, event: Any, most: int, *, beyond: bytes = b"") -> list[bytes]:
        """The keys of the first ``most`` waits, in order, that an event may end: of those greater than ``beyond``.

        Those are the ones that stand in this partition; ``offer`` tells the others.
        """
        here = [prefix for prefix in sorted(self._prefixes(env, name, event)) if self._is_here(prefix)]
        return self.standing(here, most, beyond=beyond)

    def standing(self, prefixes: Sequence[bytes], most: int, *, beyond: bytes = b"") -> list[bytes]:
        """The keys of the first ``most`` waits, in order, at places of the index: of those greater than ``beyond``."""
        found: list[bytes] = []
        for prefix in prefixes:
            if len(found) < most:  # the turn may have done enough before the first
                found += self._draft.state.group(prefix, most - len(found), beyond=beyond)
        return found

    def offer(self, env: int, name: str, event: Any, origin: Origin) -> None:
        """Tell the places of the index that are in other partitions of an event."""
        for prefix in self._prefixes(env, name, event) if self._draft.home.partitions > 1 else ():
            if not self._is_here(prefix):
                offered = EventOffered(prefix=prefix, name=name, event=encode(event), origin=origin)
                self._draft.send(slot_of_place(prefix), offered)

    def leave(self, key: bytes, run_key: bytes, step: bytes) -> None:
        """Let events no longer find a step."""
        if self._is_here(key):
            self._draft.state.delete(key)
        else:
            self._draft.send(slot_of_place(key), WaitForgotten(key=key, run=run_key, step=step))

    def learn(self, value: bytes) -> None:
        """Take note of a path that another partition has registered."""
        env, name, path = _registered_decoder.decode(value)
        self._paths.setdefault((env, name), {}).setdefault(path, path_hash(path))

    def armed(self, message: WaitArmed) -> None:
        """A step of another partition waits."""
        self._draft.state.put(message.key, b"", new=True)

    def forgotten(self, message: WaitForgotten) -> None:
        """It does not any more."""
        self._draft.state.delete(message.key)

    def _is_here(self, key: bytes) -> bool:
        """Whether a place of the index is in this partition."""
        return self._draft.home.partitions == 1 or self._draft.is_here(slot_of_place(key))

    def _prefixes(self, env: int, name: str, event: Any) -> list[bytes]:
        """The places of the index where steps may stand that an event ends."""
        return places_of(env, name, event, self._paths.get((env, name), {}))

    def _place(self, env: int, name: str, if_exp: str | None, event: Any) -> tuple[Path, bytes]:
        """Where in the index a wait stands, registering its path."""
        known = self._paths.setdefault((env, name), {})
        for equality in self.filter(if_exp).equalities if if_exp else ():
            try:
                value = _hash(equality.value(event))
            except EvaluationError:
                continue
            if value is not None and (equality.path in known or len(known) < MOST_PATHS):
                self._register(env, name, equality.path)
                return equality.path, value
        self._register(env, name, ())
        return (), keys.NO_PATH

    def _register(self, env: int, name: str, path: Path) -> None:
        known = self._paths.setdefault((env, name), {})
        if path not in known:
            known[path] = path_hash(path)
            key = keys.path(env, _name_hash(name), known[path])
            self._draft.state.put(key, encode((name, path)))
            self._draft.registered.append((key, encode((env, name, path))))


def places_of(env: int, name: str, event: Any, paths: Mapping[Path, bytes]) -> list[bytes]:
    """The places of the index where steps may stand that an event ends. ``paths``: of its name, with their hashes."""
    found: list[bytes] = []
    name_hash = _name_hash(name)
    for path, hash_ in paths.items():
        value = value_hash(event, path) if path else keys.NO_PATH
        if value is not None:
            found.append(keys.waits(env, name_hash, hash_, value))
    return found


def value_hash(event: Any, path: Path) -> bytes | None:
    """The index's part of what an event has at a path; None where it has nothing."""
    return _hash(value_at(event, path))


def slot_of_place(key: bytes) -> int:
    """The slot of a place in the index, or of a wait that stands there."""
    return slot_of(hash16(key[: keys.WAIT_PREFIX_BYTES]))


def _name_hash(name: str) -> bytes:
    return hash16(name.encode("utf8", "surrogatepass"))


def path_hash(path: Path) -> bytes:
    """A path's part of the key."""
    return hash16(encode(path)) if path else keys.NO_PATH


def _hash(value: str | None) -> bytes | None:
    """The index's part of a value, which is canonical text; None for one that equals nothing."""
    return None if value is None else hash16(value.encode("utf8", "surrogatepass"))
