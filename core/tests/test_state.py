"""The ordered state against a plain dict: any order of writes, pops, slices and crashes."""

import asyncio
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.engine.state import Limits, Slice, State
from steplog.log.memory import MemoryLog, MemoryTable

PLAIN, GROUPED = keys.RUN, keys.WAIT
KINDS = (PLAIN, keys.TIMER, keys.QUEUE, GROUPED)
OWNER_BYTES = 2  # of a key here: kind and owner, then a part of it

numbers = st.integers(0, 31)
owners = st.integers(0, 3)
kinds = st.sampled_from(KINDS)
values = st.binary(max_size=2)


def key_of(kind: int, owner: int, number: int) -> bytes:
    return bytes([kind, owner, number])


class StateModel(RuleBasedStateMachine):
    """``current`` is what the state must hold, ``durable`` what a crash must leave."""

    @initialize(
        pending_keys=st.integers(0, 5),
        pending_turns=st.integers(1, 6),
        redo_bytes=st.sampled_from((60, 1_000_000)),
        young_turns=st.integers(1, 4),
        held_bytes=st.sampled_from((0, 100, 1_000_000)),
        slice_keys=st.integers(1, 3),
        head_keys=st.integers(2, 4),
    )
    def open(self, **limits: int) -> None:
        self.limits = Limits(**limits)
        self.log = MemoryLog()
        self.current: dict[bytes, bytes] = {}
        self.durable: dict[bytes, bytes] = {}
        self.load()

    def load(self) -> None:
        loaded = asyncio.run(self.log.load())
        assert isinstance(loaded.table, MemoryTable)
        self.table = loaded.table
        self.turn = loaded.turn
        self.state = State(self.table, self.limits, grouped=((GROUPED, 2),))
        self.current = dict(self.durable)
        self.sealed: tuple[Slice, dict[bytes, bytes]] | None = None
        self.last_write: dict[bytes, int] = {}

    # --- writes

    @rule(kind=kinds, owner=owners, number=numbers, value=values)
    def put(self, kind: int, owner: int, number: int, value: bytes) -> None:
        self.write(key_of(kind, owner, number), value)

    @rule(kind=kinds, owner=owners, numbers=st.sets(numbers, max_size=20))
    def put_many(self, kind: int, owner: int, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.write(key_of(kind, owner, number), b"")

    @rule(kind=kinds, owner=owners, number=numbers)
    def delete(self, kind: int, owner: int, number: int) -> None:
        self.write(key_of(kind, owner, number), None)

    @rule(kind=kinds, nth=st.integers(0, 40))
    def delete_present(self, kind: int, nth: int) -> None:
        present = sorted(key for key in self.current if key[0] == kind)
        if present:
            self.write(present[nth % len(present)], None)

    @rule(kind=st.sampled_from((keys.TIMER, keys.QUEUE)), count=st.integers(1, 12))
    def pop(self, kind: int, count: int) -> None:
        for _ in range(count):
            first = self.state.first(kind)
            assert first == min((key for key in self.current if key[0] == kind), default=None)
            if first is None:
                return
            self.write(first, None)

    def write(self, key: bytes, value: bytes | None) -> None:
        self.last_write[key[:OWNER_BYTES]] = self.turn + 1
        if value is None:
            self.state.delete(key)
            self.current.pop(key, None)
        else:
            self.state.put(key, value, new=key not in self.current)
            self.current[key] = value

    # --- reads

    @rule(kind=kinds, owner=owners, number=numbers)
    def get(self, kind: int, owner: int, number: int) -> None:
        key = key_of(kind, owner, number)
        assert self.state.get(key) == self.current.get(key)

    @rule(kind=kinds, owner=st.none() | owners, limit=st.integers(1, 12))
    def scan(self, kind: int, owner: int | None, limit: int) -> None:
        prefix = bytes([kind]) if owner is None else bytes([kind, owner])
        expected = sorted((key, value) for key, value in self.current.items() if key.startswith(prefix))
        assert self.state.scan(prefix, limit) == expected[:limit]

    @rule(owner=owners, limit=st.integers(1, 12), beyond=st.none() | numbers)
    def group(self, owner: int, limit: int, beyond: int | None) -> None:
        prefix = bytes([GROUPED, owner])
        after = b"" if beyond is None else key_of(GROUPED, owner, beyond)
        expected = sorted(key for key in self.current if key.startswith(prefix) and key > after)
        assert self.state.group(prefix, limit, beyond=after) == expected[:limit]

    # --- turns: what is decided between seal and commit belongs to the next one

    @precondition(lambda self: self.sealed is None)
    @rule()
    def seal(self) -> None:
        self.turn += 1
        self.sealed = (self.state.seal(self.turn), dict(self.current))

    @precondition(lambda self: self.sealed is not None)
    @rule()
    def commit(self) -> None:
        self.write_log()
        self.state.landed()
        self.check_owners()

    @rule(is_written=st.booleans())
    def crash(self, is_written: bool) -> None:
        if self.sealed is not None and is_written:
            self.write_log()
        self.load()
        assert self.table.scan(b"\0", b"\xff", 1 << 30) == sorted(self.durable.items())

    def write_log(self) -> None:
        assert self.sealed is not None
        part, self.durable = self.sealed
        self.sealed = None
        turn = Turn(number=self.turn, now_ms=self.turn, state=part, records=[], events=[])
        asyncio.run(self.log.commit(turn))

    def check_owners(self) -> None:
        """What was last written before the oldest pending turn is read from the table alone."""
        oldest = self.state.oldest_turn
        for owner, last in self.last_write.items():
            if last <= self.turn and (oldest is None or last < oldest):
                assert self.state.owned(owner) == sorted((k, v) for k, v in self.current.items() if k.startswith(owner))

    @invariant()
    def heads_show_the_least_key(self) -> None:
        if not hasattr(self, "state"):
            return
        for kind in (keys.TIMER, keys.QUEUE):
            assert self.state.first(kind) == min((key for key in self.current if key[0] == kind), default=None)


StateModel.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestState = StateModel.TestCase


# --- the traps, one by one


class CountingTable(MemoryTable):
    """Counts the rows that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_read = 0

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        rows = super().scan(start, stop, limit)
        self.rows_read += len(rows)
        return rows

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        found = super().keys(start, stop, limit)
        self.rows_read += len(found)
        return found


def turn(state: State, table: MemoryTable, number: int) -> Slice:
    """Seal a turn and let its slice land."""
    part = state.seal(number)
    for key, value in part.flush:
        table.write(key, value)
    state.landed()
    return part


def queue_key(number: int) -> bytes:
    return keys.queue(keys.run(0, number.to_bytes(16, "big")))


def test_the_first_key_is_found_at_once_behind_the_window() -> None:
    table = CountingTable()
    for number in range(100):
        table.write(queue_key(number), b"")
    state = State(table, Limits(head_keys=4))
    assert state.first(keys.QUEUE) == queue_key(0)
    assert table.rows_read == 4


def test_popping_reads_every_row_once() -> None:
    table = CountingTable()
    for number in range(1_000):
        table.write(queue_key(number), b"")
    state = State(table, Limits(pending_keys=50, slice_keys=10, head_keys=64))
    for number in range(1_000):
        key = state.first(keys.QUEUE)
        assert key == queue_key(number)
        state.delete(key)
        state.put(queue_key(5_000 + number), b"", new=True)  # beyond the window
        turn(state, table, number + 1)
    assert table.rows_read <= 1_000 + 64 + 50, "deleted rows, still in the table, are not walked over again"


def test_a_key_that_was_born_and_dies_pending_never_reaches_the_table() -> None:
    table, key = MemoryTable(), keys.run(0, bytes(16))
    state = State(table, Limits(pending_keys=0, slice_keys=1))
    state.put(key, b"1", new=True)
    state.delete(key)
    part = turn(state, table, 1)
    assert (part.changes, part.flush) == ({key: None}, [])


def test_a_key_that_the_table_has_leaves_a_tombstone() -> None:
    table, key = MemoryTable(), keys.run(0, bytes(16))
    table.write(key, b"0")
    state = State(table, Limits(pending_keys=0, slice_keys=1))
    state.put(key, b"1")
    state.delete(key)
    assert turn(state, table, 1).flush == [(key, None)]
    assert table.get(key) is None


def test_the_redo_is_cut_only_below_the_oldest_pending_key() -> None:
    table = MemoryTable()
    state = State(table, Limits(pending_keys=2, slice_keys=1, pending_turns=100))
    a, b, c = (keys.run(0, bytes([n]) * 16) for n in range(3))
    state.put(a, b"1", new=True)
    assert turn(state, table, 1).redo_from == 1
    state.put(b, b"1", new=True)
    assert turn(state, table, 2).redo_from == 1
    state.put(a, b"2")  # stays where it entered
    state.put(c, b"1", new=True)
    part = turn(state, table, 3)
    assert (part.flush, part.redo_from) == ([(a, b"2")], 2)


def test_the_redo_of_short_lives_is_short() -> None:
    table = MemoryTable()
    state = State(table)
    state.put(queue_key(0), b"", new=True)
    for number in range(1, 100):
        state.put(queue_key(number), b"", new=True)
        state.delete(queue_key(number - 1))
        assert turn(state, table, number).redo_from == number


def test_a_key_that_waits_too_many_turns_goes_to_the_table() -> None:
    table = MemoryTable()
    state = State(table, Limits(pending_keys=1_000, pending_turns=4))
    key = keys.run(0, bytes(16))
    state.put(key, b"1", new=True)
    parts = [turn(state, table, number) for number in range(1, 7)]
    assert [part.flush for part in parts] == [[]] * 5 + [[(key, b"1")]]
    assert [part.redo_from for part in parts] == [1] * 5 + [7]


def test_a_key_below_too_much_redo_goes_to_the_table() -> None:
    table = MemoryTable()
    state = State(table, Limits(redo_bytes=1_100, slice_keys=1))
    key, other = keys.run(0, bytes(16)), keys.run(0, bytes([1] * 16))
    state.put(key, b"1", new=True)
    parts = []
    for number in range(1, 6):
        state.put(other, b"x" * 300)
        parts.append(turn(state, table, number))
    assert [part.redo_from for part in parts] == [1, 1, 1, 5, 5]
    assert parts[3].flush == [(key, b"1"), (other, b"x" * 300)]


def test_a_key_that_outlives_the_others_of_its_time_holds_up_no_redo() -> None:
    table = MemoryTable()
    state = State(table, Limits(young_turns=2, held_bytes=500))
    key = keys.run(0, bytes(16))
    state.put(key, b"1", new=True)
    parts = []
    for number in range(1, 8):
        other = keys.run(0, bytes([number] * 16))
        state.put(other, b"x" * 100, new=True)
        if number > 1:
            state.delete(keys.run(0, bytes([number - 1] * 16)))
        parts.append(turn(state, table, number))
    assert [part.flush for part in parts] == [[]] * 3 + [[(key, b"1")]] + [[]] * 3
    assert [part.redo_from for part in parts] == [1, 1, 1, 4, 5, 6, 7]


def test_a_key_put_again_after_its_slice_is_not_taken_for_new() -> None:
    table = MemoryTable()
    state = State(table, Limits(pending_keys=0, slice_keys=1))
    key = keys.run(0, bytes(16))
    state.put(key, b"1", new=True)
    turn(state, table, 1)
    state.put(key, b"2")
    state.delete(key)
    turn(state, table, 2)
    assert table.get(key) is None


def test_a_window_that_has_grown_gives_up_its_far_end_and_finds_it_again() -> None:
    table = MemoryTable()
    state = State(table, Limits(pending_keys=5, slice_keys=5, head_keys=2))
    assert state.first(keys.QUEUE) is None  # from now on the window knows of everything
    for number in range(40):
        state.put(queue_key(number), b"", new=True)
        turn(state, table, number + 1)
    for number in range(30, 40):  # some far, some in the table
        state.delete(queue_key(number))
        turn(state, table, number + 20)
    for number in range(30):
        assert state.first(keys.QUEUE) == queue_key(number)
        state.delete(queue_key(number))
    assert state.first(keys.QUEUE) is None


def test_a_window_that_gives_up_its_far_end_still_knows_what_the_table_lacks() -> None:
    table = MemoryTable()
    state = State(table, Limits(pending_keys=0, head_keys=2))
    assert state.first(keys.QUEUE) is None  # the window is complete: what is put is in it
    for number in range(8):
        state.put(queue_key(number), b"")
        turn(state, table, number + 1)
    for number in (8, 9):  # the window is too long now, and these are not in the table
        state.put(queue_key(number), b"")
    found = []
    while (key := state.first(keys.QUEUE)) is not None:
        found.append(key)
        state.delete(key)
    assert found == [queue_key(number) for number in range(10)]


def test_a_put_below_the_window_is_the_next_to_pop() -> None:
    table = MemoryTable()
    for number in range(10, 30):
        table.write(queue_key(number), b"")
    state = State(table, Limits(head_keys=4))
    assert state.first(keys.QUEUE) == queue_key(10)
    state.put(queue_key(5), b"", new=True)
    state.put(queue_key(25), b"", new=True)
    assert state.first(keys.QUEUE) == queue_key(5)


def test_a_scan_sees_what_is_on_its_way_to_the_table() -> None:
    table = MemoryTable()
    table.write(queue_key(1), b"")
    state = State(table, Limits(pending_keys=0, slice_keys=1))
    state.put(queue_key(2), b"", new=True)
    state.delete(queue_key(1))
    state.seal(1)  # not landed
    assert [key for key, _ in state.scan(bytes([keys.QUEUE]), 5)] == [queue_key(2)]
    assert state.first(keys.QUEUE) == queue_key(2)
    assert state.get(queue_key(1)) is None
