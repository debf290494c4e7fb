"""Events that end more waits than one turn may: they go on in later turns, in the order in which they were accepted.

While one is here, every event that is waited for comes here too, so no later event overtakes it. What is written is
the event's place in the log and how far it has come; its body is read from the log after a start. Where the log brings
events, and messages of other partitions do, the body is written as well, once.
"""

from collections import deque
from typing import Any

import msgspec

from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.messages import Origin
from steplog.engine.recent import EventLog
from steplog.engine.records import Place, event_seen

BEHIND = 1 << 32  # in the keys of events that another log had offered: behind the numbers of a turn's own


class Mailed(msgspec.Struct, kw_only=True):
    """An event that has not been held against all waits."""

    env: int
    name: str
    place: Place  # waits that were made behind it are not ended by it
    origin: Origin = (0, 0, 0)
    event: Any  # as expressions see it
    prefix: bytes = b""  # one place of the index, which another partition offers it to; else all that are here
    beyond: bytes = b""  # the key of the last wait that it was held against
    key: bytes = b""


class Mail:
    """The events that go on, the oldest first."""

    def __init__(self, draft: Draft, log: EventLog | None) -> None:
        self._draft, self._log = draft, log
        self._waiting: deque[Mailed] = deque()
        self._added = (0, 0)  # turn, and how many in it

    def recover(self) -> None:
        """Read what is not done yet."""
        state = self._draft.state
        for key, value in state.owned(bytes([keys.MAIL])):
            if key == keys.mail_event(key[: keys.MAIL_BYTES]):
                continue
            env, name, beyond = _decode_progress(value)
            kept = state.get(keys.mail_event(key))
            if kept is None:
                mailed = self._from_log(key, env, name)
            else:
                place, origin, prefix, event = _decode_kept(kept)
                mailed = Mailed(env=env, name=name, place=place, origin=origin, event=event, prefix=prefix, key=key)
            mailed.beyond = beyond
            self._waiting.append(mailed)

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    @property
    def waiting(self) -> deque[Mailed]:
        """All of it, in order."""
        return self._waiting

    def add(self, mailed: Mailed) -> None:
        """Let an event go on in the next turn."""
        draft = self._draft
        if draft.home.events_return or mailed.prefix:
            turn, count = self._added
            self._added = (draft.number, count + 1 if turn == draft.number else 0)
            mailed.key = keys.mail(draft.number, self._added[1] + (0 if draft.home.events_return else BEHIND))
            kept = encode((mailed.place, mailed.origin, mailed.prefix, mailed.event))
            draft.state.put(keys.mail_event(mailed.key), kept, new=True)
        else:
            mailed.key = keys.mail(*mailed.place)
        self._waiting.append(mailed)
        self.put(mailed)

    def put(self, mailed: Mailed) -> None:
        """Write how far an event has come."""
        self._draft.state.put(mailed.key, encode((mailed.env, mailed.name, mailed.beyond)))

    def remove_first(self) -> None:
        """The oldest event is done."""
        mailed = self._waiting.popleft()
        self._draft.state.delete(mailed.key)
        if self._draft.home.events_return or mailed.prefix:
            self._draft.state.delete(keys.mail_event(mailed.key))

    def _from_log(self, key: bytes, env: int, name: str) -> Mailed:
        assert self._log is not None, "where there is none the event is written"
        place = turn, index = keys.mail_place(key)
        ((_, bodies),) = self._log.accepted(turn, turn)
        return Mailed(env=env, name=name, place=place, event=event_seen(bodies[index]), key=key)


_decode_progress = msgspec.json.Decoder(tuple[int, str, bytes]).decode
_decode_kept = msgspec.json.Decoder(tuple[Place, Origin, bytes, dict[str, Any]]).decode
