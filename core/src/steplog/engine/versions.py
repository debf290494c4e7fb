"""The versions of functions: a number that counts the configurations in which each was registered (FN-22)."""

import msgspec

from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.functions import FunctionSpec


class _Registered(msgspec.Struct, array_like=True):
    """The value of ``function/…``: the newest configuration, and its number."""

    number: int
    configuration: FunctionSpec


_decoder = msgspec.json.Decoder(_Registered)


class Versions:
    """Numbers the configurations of functions, from 1. They stay when a function goes, and count on when it is back."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._numbers: dict[tuple[int, str], int] = {}  # of what is registered, by environment and function

    def of(self, env: int, function: FunctionSpec) -> int:
        """The number of a registered function's configuration: the one of before, unless it has changed since."""
        known = self._numbers.get((env, function.id))
        if known is None:
            known = self._numbers[env, function.id] = self._register(env, function)
        return known

    def _register(self, env: int, function: FunctionSpec) -> int:
        configuration = msgspec.structs.replace(function, version=None)  # the app's says nothing of the function
        key = keys.function(env, function.id)
        value = self._draft.state.get(key)
        before = None if value is None else _decoder.decode(value)
        if before is not None and before.configuration == configuration:
            return before.number
        number = 1 if before is None else before.number + 1
        self._draft.state.put(key, encode(_Registered(number, configuration)))
        return number
