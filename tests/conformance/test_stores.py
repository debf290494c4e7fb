"""P12, below the engine: what is committed is found again, whole and in order, and nothing else, on every log."""

import random

import pytest

from steplog.engine import keys
from steplog.engine.processor import Turn
from steplog.engine.state import Limits, State

from .conftest import STORES, WITHOUT_COPY
from .stores import Store, commit, content, turn

A, B, C = (keys.run(0, bytes([n]) * 16) for n in range(3))


def test_an_empty_log_is_loaded_empty(store: Store) -> None:
    for _ in range(2):
        loaded = store.load()
        assert (loaded.turn, loaded.now_ms, content(loaded)) == (0, 0, {})
        store.crash()
    assert store.journal() == []


@pytest.mark.spec("ARCH-13")
@pytest.mark.parametrize("store", [*STORES, WITHOUT_COPY], indirect=True)
def test_what_was_committed_is_loaded_after_a_crash(store: Store) -> None:
    store.load()
    commit(store, 1, {A: b"1", B: b"1"})
    commit(store, 2, {A: b"2", B: None, C: b""})
    store.crash()
    loaded = store.load()
    assert (loaded.turn, loaded.now_ms) == (2, 20)
    assert content(loaded) == {A: b"2", C: b""}
    assert [loaded.table.get(key) for key in (A, B, C)] == [b"2", None, b""]


def test_the_journal_has_every_record_once_in_the_order_of_the_turns(store: Store) -> None:
    store.load()
    commit(store, 1, {}, count=2)
    commit(store, 2, {A: b"1"})
    store.crash()
    store.load()
    commit(store, 3, {}, count=1)
    assert [(record["turn"], record["n"]) for record in store.journal()] == [(1, 0), (1, 1), (3, 0)]


def test_of_a_turn_that_failed_nothing_is_there(store: Store) -> None:
    store.load()
    commit(store, 1, {A: b"1"}, count=1)
    store.fail(turn(store, 2, {A: b"2", B: b"1"}, {B: b"1"}, redo_from=2, count=2))
    store.crash()
    loaded = store.load()
    assert (loaded.turn, loaded.now_ms, content(loaded)) == (1, 10, {A: b"1"})
    commit(store, 2, {C: b"1"}, count=1)
    store.crash()
    assert content(store.load()) == {A: b"1", C: b"1"}
    assert [record["turn"] for record in store.journal()] == [1, 2]


def test_the_redo_is_replayed_over_slices(store: Store) -> None:
    store.load()
    commit(store, 1, {A: b"1", B: b"1"})
    commit(store, 2, {A: b"2", C: b"1"}, {A: b"2", B: b"1"}, redo_from=2)
    commit(store, 3, {B: None})
    store.crash()
    assert content(store.load()) == {A: b"2", C: b"1"}


@pytest.mark.parametrize("store", [*STORES, WITHOUT_COPY], indirect=True)
def test_what_was_deleted_stays_deleted(store: Store) -> None:
    """Whether the table had it, and whether the redo or a slice says so."""
    store.load()
    commit(store, 1, {A: b"1", B: b"1", C: b"1"}, {A: b"1", B: b"1"})
    commit(store, 2, {A: None})
    store.crash()
    assert content(store.load()) == {B: b"1", C: b"1"}
    commit(store, 3, {B: None, C: None}, {A: None, B: None})
    for _ in range(2):
        store.crash()
        assert content(store.load()) == {}
    commit(store, 4, {}, {C: None}, redo_from=5)
    store.crash()
    assert content(store.load()) == {}


def test_turn_and_time_are_known_when_the_whole_redo_is_cut(store: Store) -> None:
    store.load()
    commit(store, 1, {A: b"1"}, {A: b"1"}, redo_from=2)
    for number in range(2, 20):
        commit(store, number, {}, redo_from=number + 1)
    store.crash()
    loaded = store.load()
    assert (loaded.turn, loaded.now_ms, content(loaded)) == (19, 190, {A: b"1"})


def test_a_loaded_log_goes_on(store: Store) -> None:
    for number in range(1, 6):
        store.crash()
        loaded = store.load()
        assert (loaded.turn, loaded.now_ms) == (number - 1, number * 10 - 10)
        commit(store, number, {A: b"%d" % number})
    assert content(store.load()) == {A: b"5"}


def test_the_table_is_read_in_order_between_bounds(store: Store) -> None:
    store.load()
    commit(store, 1, {key: key[-1:] for key in (C, A, B)})
    store.crash()
    table = store.load().table
    assert [key for key, _ in table.scan(A, C, 10)] == [A, B]
    assert [key for key, _ in table.scan(A, C, 1)] == [A]
    assert [key for key, _ in table.scan(B, keys.after(C), 10)] == [B, C]
    assert table.scan(C + b"\0", bytes([keys.NODE]), 10) == []
    for bounds in ((A, C, 10), (A, C, 1), (B, keys.after(C), 10), (C + b"\0", b"\xff", 10)):
        assert table.keys(*bounds) == [key for key, _ in table.scan(*bounds)]


def test_many_owners_are_read_at_once(store: Store) -> None:
    owners = [keys.run(0, n.to_bytes(16, "big")) for n in range(300)]
    store.load()
    commit(store, 1, {key: b"1" for run in owners[::2] for key in (run, keys.run_event(run, 0))})
    store.crash()
    table = store.load().table
    for count in (0, 1, 2, 3, 300):
        assert [[key for key, _ in rows] for rows in table.read(owners[:count])] == [
            [run, keys.run_event(run, 0)] if n % 2 == 0 else [] for n, run in enumerate(owners[:count])
        ]


@pytest.mark.parametrize(
    ("store", "seed", "turns"),
    [(name, seed, 120) for name in ("memory", "sqlite") for seed in range(6)]
    + [("kafka", 0, 40), (WITHOUT_COPY, 1, 40)],
    indirect=["store"],
)
def test_a_state_over_it_survives_any_crash(store: Store, seed: int, turns: int) -> None:
    chance = random.Random(seed)
    limits = Limits(pending_keys=chance.randrange(6), slice_keys=1, pending_turns=chance.randrange(1, 80), head_keys=2)
    expected: dict[bytes, bytes] = {}
    loaded = store.load()
    state = State(loaded.table, limits)
    for number in range(1, turns):
        for _ in range(chance.randrange(4)):
            key = bytes([chance.choice((keys.RUN, keys.TIMER)), chance.randrange(12)])
            if chance.random() < 0.4:
                state.delete(key)
                expected.pop(key, None)
            else:
                value = chance.randbytes(2)
                state.put(key, value, new=key not in expected)
                expected[key] = value
        store.commit(Turn(number=number, now_ms=number, state=state.seal(number), records=[], events=[]))
        state.landed()
        assert state.first(keys.TIMER) == min((k for k in expected if k[0] == keys.TIMER), default=None)
        if chance.random() < 0.1:
            store.crash()
            loaded = store.load()
            assert content(loaded) == expected
            assert loaded.turn == number
            state = State(loaded.table, limits)
