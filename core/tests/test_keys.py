"""Key order is component order, and no owner's scan meets another owner's key."""

from collections.abc import Callable
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from steplog.engine import keys

envs = st.integers(0, 2**32 - 1)
ids = st.binary(min_size=16, max_size=16)
numbers = st.integers(0, 2**64 - 1)
functions = st.text(max_size=8)
runs = st.builds(keys.run, envs, ids)


def _event(env: int, run: bytes, index: int) -> bytes:
    return keys.run_event(keys.run(env, run), index)


def _step(env: int, run: bytes, step: bytes) -> bytes:
    return keys.run_step(keys.run(env, run), step)


def _timer(due_ms: int, env: int, run: bytes, step: bytes) -> bytes:
    return keys.timer(due_ms, keys.run(env, run), step)


def _queue(received: bytes, env: int, rest: bytes) -> bytes:
    return keys.queue(keys.run(env, received + rest))


def _live(env: int, run: bytes) -> bytes:
    return keys.live(keys.run(env, run))


def _mail_event(turn: int, index: int) -> bytes:
    return keys.mail_event(keys.mail(turn, index))


def _ask(env: int, run: bytes, step: bytes) -> bytes:
    return keys.ask(keys.run(env, run), step)


# every layout: how a key is built from components, in the order in which it is scanned
Components = tuple[int | bytes, ...]
LAYOUTS: dict[str, tuple[Callable[..., bytes], SearchStrategy[Components]]] = {
    "run": (keys.run, st.tuples(envs, ids)),
    "event": (_event, st.tuples(envs, ids, numbers)),
    "step": (_step, st.tuples(envs, ids, ids)),
    "timer": (_timer, st.tuples(numbers, envs, ids, ids)),
    "queue": (_queue, st.tuples(st.binary(min_size=6, max_size=6), envs, st.binary(min_size=10, max_size=10))),
    "live": (_live, st.tuples(envs, ids)),
    "seen": (keys.seen_day, st.tuples(envs, numbers)),
    "mail": (keys.mail, st.tuples(numbers, numbers)),
    "mail's event": (_mail_event, st.tuples(numbers, numbers)),
    "ask": (_ask, st.tuples(envs, ids, ids)),
}

any_key = st.one_of(
    *[
        st.builds(lambda parts, build=build: build(*parts), components)
        for name, (build, components) in LAYOUTS.items()
        if name != "seen"  # a day of them is a prefix, and no key
    ],
    st.builds(keys.seen, envs, numbers, functions, functions),
    st.builds(keys.orphan, functions, runs),
    st.builds(keys.function, envs, functions),
    st.just(keys.DRAINED),
)


@given(st.data(), st.sampled_from(sorted(LAYOUTS)))
def test_keys_sort_like_their_components(data: st.DataObject, name: str) -> None:
    build, components = LAYOUTS[name]
    a, b = data.draw(components), data.draw(components)
    assert (build(*a) < build(*b)) == (a < b)
    assert (build(*a) == build(*b)) == (a == b)


@given(st.lists(any_key, max_size=12), runs)
def test_the_scan_of_a_run_meets_only_what_it_owns(others: list[bytes], run: bytes) -> None:
    own = [run, keys.run_event(run, 0), keys.run_event(run, 2**64 - 1), keys.run_step(run, bytes(16)),
           keys.run_step(run, b"\xff" * 16)]  # fmt: skip
    found = [key for key in {*others, *own} if run <= key < keys.after(run)]
    assert sorted(found) == sorted({*own, *(k for k in others if k[:21] == run)})
    assert min(found) == run, "a run's head is the first of its rows"


@given(any_key, any_key)
def test_a_prefix_is_no_other_owners_prefix(a: bytes, b: bytes) -> None:
    owners = {key[:21] if key[0] == keys.RUN else key for key in (a, b)}
    for one, other in product(owners, owners):
        assert one == other or not other.startswith(one)


@given(envs, st.integers(0, 2**64 - 2), functions, functions)
def test_a_day_of_seen_ids_lies_between_itself_and_the_next(env: int, day: int, function: str, event: str) -> None:
    key = keys.seen(env, day, function, event)
    assert keys.seen_env(env) <= keys.seen_day(env, day) <= key < keys.seen_day(env, day + 1)
    assert key < keys.after(keys.seen_env(env))
    assert keys.seen_day_of(key) == day


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_functions_and_event_ids_do_not_run_together(f: str, i: str, g: str, j: str) -> None:
    assert (keys.seen(0, 1, f, i) == keys.seen(0, 1, g, j)) == ((f, i) == (g, j))


@given(st.binary(min_size=1, max_size=24).filter(lambda p: p.strip(b"\xff") != b""), st.binary(max_size=24), any_key)
def test_after_a_prefix_comes_the_first_key_without_it(prefix: bytes, rest: bytes, other: bytes) -> None:
    stop = keys.after(prefix)
    assert prefix + rest < stop
    assert (prefix <= other < stop) == other.startswith(prefix)


@given(runs, numbers, ids, functions)
def test_owners_are_read_back(run: bytes, number: int, step: bytes, function: str) -> None:
    timer = keys.timer(number, run, step)
    assert (keys.timer_due_ms(timer), keys.timer_owner(timer)) == (number, (run, step))
    assert keys.mail_place(keys.mail(number, number // 2)) == (number, number // 2)
    assert keys.run_of(keys.queue(run)) == run
    assert keys.run_of(keys.live(run)) == run
    assert keys.run_of(keys.orphan(function, run)) == run
    assert keys.orphan(function, run).startswith(keys.orphans(keys.env_of(run), function))
    assert keys.run(keys.env_of(run), keys.run_id_of(run)) == run
    assert keys.is_step(keys.run_step(run, step))
    assert keys.step_of(keys.run_step(run, step)) == step
    assert not keys.is_step(keys.run_event(run, number))
    assert not keys.is_step(run)


@given(st.lists(any_key, max_size=8))
def test_different_keys_print_differently(found: list[bytes]) -> None:
    assert len({keys.printed(key) for key in found}) == len(set(found))
    assert all(keys.printed(key).isprintable() for key in found)


def test_an_unknown_kind_is_printed_too() -> None:
    assert keys.printed(b"\xf0ab") == "0xf0/6162"
