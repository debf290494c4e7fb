"""Events that end more waits than one turn may: they go on in later turns, in the order in which they were accepted.

While one is here, every event that is waited for comes here too, so no later event overtakes it. What is written is
the event's place in the log and how far it has come; its body is read from the log after a start.
"""

from collections import deque
from typing import Any

import msgspec

from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.recent import EventLog
from steplog.engine.records import Place, event_seen


class Mailed(msgspec.Struct, kw_only=True):
    """An event that has not been held against all waits."""

    env: int
    name: str
    place: Place
    event: Any  # as expressions see it
    beyond: bytes = b""  # the key of the last wait that it was held against


class Mail:
    """The events that go on, the oldest first."""

    def __init__(self, draft: Draft, log: EventLog) -> None:
        self._draft, self._log = draft, log
        self._waiting: deque[Mailed] = deque()

    def recover(self) -> None:
        """Read what is not done yet."""
        for key, value in self._draft.state.owned(bytes([keys.MAIL])):
            place = turn, index = keys.mail_place(key)
            env, name, beyond = _decoder.decode(value)
            ((_, bodies),) = self._log.accepted(turn, turn)
            self._waiting.append(
                Mailed(env=env, name=name, place=place, event=event_seen(bodies[index]), beyond=beyond)
            )

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    @property
    def waiting(self) -> deque[Mailed]:
        """All of it, in order."""
        return self._waiting

    def add(self, mailed: Mailed) -> None:
        """Let an event go on in the next turn."""
        self._waiting.append(mailed)
        self.put(mailed)

    def put(self, mailed: Mailed) -> None:
        """Write how far an event has come."""
        value = encode((mailed.env, mailed.name, mailed.beyond))
        self._draft.state.put(keys.mail(*mailed.place), value)

    def remove_first(self) -> None:
        """The oldest event is done."""
        self._draft.state.delete(keys.mail(*self._waiting.popleft().place))


_decoder = msgspec.json.Decoder(tuple[int, str, bytes])
