"""Which keys of a connector are parked: behind a record that is no event, the later ones of its key wait.

So what becomes of a key's records keeps their order. A record without a key has no order with others, and holds nobody
up. Pure; what is parked is read from the dead letters.
"""

from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Iterator

from steplog.dead.letters import Entry

KeyOf = tuple[str, bytes]  # topic and key


class Parking:
    """The letters of one connector, by key."""

    def __init__(self, connector: str, entries: Iterable[Entry] = ()) -> None:
        self._ids: set[str] = set()
        self._queues: dict[KeyOf, list[Entry]] = {}  # in the order of their topic
        self._keyless: dict[str, Entry] = {}
        for entry in entries:
            if entry.connector == connector:
                self.add(entry)

    def has(self, id_: str) -> bool:
        """Whether a letter is parked."""
        return id_ in self._ids

    def blocker(self, topic: str, key: bytes | None) -> str | None:
        """The letter that a record of this key has to wait for."""
        queue = None if key is None else self._queues.get((topic, key))
        return None if queue is None else queue[0].id

    def add(self, entry: Entry) -> None:
        """Park a letter, or note that something else is known of it."""
        self.remove(entry)
        self._ids.add(entry.id)
        if entry.key is None:
            self._keyless[entry.id] = entry
        else:
            insort(self._queues.setdefault((entry.topic, entry.key), []), entry, key=_place)

    def remove(self, entry: Entry) -> None:
        """It was replayed, or dropped."""
        if entry.id not in self._ids:
            return
        self._ids.remove(entry.id)
        if entry.key is None:
            del self._keyless[entry.id]
            return
        queue = self._queues[entry.topic, entry.key]
        del queue[bisect_left(queue, entry.place, key=_place)]
        if not queue:
            del self._queues[entry.topic, entry.key]

    def due(self, owned: Container[tuple[str, int]]) -> Iterator[list[Entry]]:
        """What is to be replayed now in some partitions: letters of one key in order, or one without a key.

        That is a first one of its key for which somebody has asked, or which waited for one that is gone; and the
        next ones, up to one that is there for a fault of its own.
        """
        for queue in list(self._queues.values()):
            letters = []
            for entry in queue:
                if not _is_released(entry) or (entry.topic, entry.partition) not in owned:
                    break
                letters.append(entry)
            if letters:
                yield letters
        for entry in list(self._keyless.values()):
            if _is_released(entry) and (entry.topic, entry.partition) in owned:
                yield [entry]


def _place(entry: Entry) -> tuple[str, str, int, int]:
    return entry.place


def _is_released(entry: Entry) -> bool:
    """Whether nothing but those before it keeps a letter where it is."""
    return entry.state == "retry" or entry.behind is not None
