"""Questions to the history: lists with filters and cursors, ids by their last characters, counts."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steplog.engine.effects import Dispatch
from steplog.engine.functions import EngineConfig
from steplog.errors import LogUnavailable, NotFound
from steplog.history.queries import History
from steplog.history.views import EventFilter, RunCount, RunFilter, RunPage, RunState

from .history_log import RecordedPartition, open_history, open_projector
from .partition import DAY, MINUTE, NOON, function, raised, the

STATES: tuple[RunState, ...] = ("scheduled", "queued", "running", "waiting", "completed", "failed")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedPartition]:
    """Twelve completed runs of f and a failed one a minute, then one of g in each other state."""
    folder = tmp_path_factory.mktemp("log")
    log = RecordedPartition(folder / "log.db", function("f"), function("g"), config=EngineConfig(live_runs=2))
    for index in range(13):
        if index == 6:
            log.post(raised(the(Dispatch, log.send("f")), final=True))
        else:
            log.finish(steps=1)
        log.now_ms += MINUTE
    log.send("g", ts_ms=NOON + DAY)
    log.now_ms += MINUTE
    log.live("g")
    log.now_ms += 1
    log.start("g")
    log.now_ms += 1
    log.send("g")
    yield log
    log.close()


@pytest.fixture(scope="module")
def history(log: RecordedPartition, new_history: Callable[[], str]) -> Iterator[History]:
    address = new_history()
    with open_projector(log.path, address) as projector:
        projector.catch_up()
    with open_history(address) as history:
        yield history


def ids(page: RunPage) -> list[str]:
    return [run.id for run in page.runs]


def test_runs_come_newest_first_page_by_page(history: History) -> None:
    everything = ids(history.runs(limit=100))
    assert len(everything) == 17
    assert everything == sorted(everything, reverse=True)
    found: list[str] = []
    cursor = None
    while True:
        page = history.runs(limit=5, cursor=cursor)
        found += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.runs) == 5
    assert found == everything


def test_page_that_ends_with_the_last_run_has_no_cursor(history: History) -> None:
    assert history.runs(limit=17).cursor is None
    assert history.runs(limit=16).cursor is not None
    assert len(history.runs(limit=10_000).runs) == 17
    assert len(history.runs(limit=0).runs) == 1


@pytest.mark.parametrize(
    ("states", "count"),
    [(("completed",), 12), (("failed",), 1), (("scheduled",), 1), (("queued",), 1), (("running",), 1),
     (("waiting",), 1), (("failed", "completed"), 13), (STATES, 17), (("failed", "failed"), 1)],
)  # fmt: skip
def test_runs_by_state(history: History, states: tuple[RunState, ...], count: int) -> None:
    found = history.runs(RunFilter(states=states), limit=100)
    assert len(found.runs) == count
    assert ids(found) == [run.id for run in history.runs(limit=100).runs if run.state in states]
    first = history.runs(RunFilter(states=states), limit=1)
    second = history.runs(RunFilter(states=states), limit=100, cursor=first.cursor) if first.cursor else None
    assert ids(first) + (ids(second) if second else []) == ids(found)


def test_runs_by_function_app_environment_and_time(history: History) -> None:
    def count(where: RunFilter) -> int:
        return len(history.runs(where, limit=100).runs)

    assert count(RunFilter(function="a-g")) == 4
    assert count(RunFilter(function="a-g", states=("running", "queued"))) == 2
    assert count(RunFilter(function="a-f", states=("running",))) == 0
    assert count(RunFilter(app="a")) == 17
    assert count(RunFilter(app="b")) == count(RunFilter(env="staging")) == 0
    assert count(RunFilter(env="default")) == 17
    assert count(RunFilter(since_ms=NOON + 2 * MINUTE, until_ms=NOON + 5 * MINUTE)) == 3
    assert count(RunFilter(since_ms=NOON + 2 * MINUTE, until_ms=NOON + 5 * MINUTE, states=("completed",))) == 3
    assert count(RunFilter(until_ms=NOON)) == count(RunFilter(since_ms=NOON + DAY)) == 0


def test_events_by_name_and_time_newest_first(history: History) -> None:
    everything = history.events(limit=100).events
    assert len(everything) == 18  # with that of a failure
    assert [event.received_ms for event in everything] == sorted((e.received_ms for e in everything), reverse=True)
    assert {e.name for e in history.events(EventFilter(name="g")).events} == {"g"}
    first = history.events(EventFilter(name="f", env="default"), limit=10)
    second = history.events(EventFilter(name="f", env="default"), limit=10, cursor=first.cursor)
    assert (len(first.events), len(second.events), second.cursor) == (10, 3, None)
    window = EventFilter(since_ms=NOON + MINUTE, until_ms=NOON + 3 * MINUTE)
    assert [event.received_ms for event in history.events(window).events] == [NOON + 2 * MINUTE, NOON + MINUTE]


def test_counts_by_function_and_state(history: History) -> None:
    def count(function: str, state: RunState, runs: int) -> RunCount:
        return RunCount(env="default", app="a", function=function, state=state, runs=runs)

    expected = (
        count("a-f", "completed", 12), count("a-f", "failed", 1), count("a-g", "scheduled", 1),
        count("a-g", "queued", 1), count("a-g", "running", 1), count("a-g", "waiting", 1),
    )  # fmt: skip
    assert history.counts() == history.counts(env="default") == expected
    assert history.counts(env="staging") == ()


def test_ids_may_be_given_by_their_last_characters(history: History) -> None:
    run = history.runs().runs[3]
    event = history.event(run.events[0])
    for text in (run.id, run.id[-8:], run.id[-8:].lower(), f"…{run.id[-8:]}"):
        assert history.find_run(text) == run
    assert history.find_event(event.internal_id[-5:]) == event


def test_unknown_and_ambiguous_ids_are_errors_that_say_so(history: History) -> None:
    prefix = history.runs().runs[0].id[:20]
    with pytest.raises(NotFound, match="there is no run whose id ends with 0QQQQ; steplog runs list shows"):
        history.find_run("0qqqq")
    with pytest.raises(NotFound, match=f"there is no run {prefix}000000"):
        history.find_run(f"{prefix}000000")
    with pytest.raises(NotFound, match="there is no event 01X"):
        history.event("01X")
    with pytest.raises(NotFound, match="an empty text names no run"):
        history.find_run("…")
    with pytest.raises(NotFound, match="there is no run whose id ends with %"):
        history.find_run("%")
    ends = [run.id[-1] for run in history.runs().runs]
    twice = next(end for end in ends if ends.count(end) > 1)
    with pytest.raises(NotFound, match=f"more than one run has an id that ends with {twice}; give more characters: 01"):
        history.find_run(twice)


def test_unknown_run_has_no_steps(history: History) -> None:
    assert (history.steps("01X"), history.attempts("01X")) == ((), ())
    with pytest.raises(NotFound):
        history.run("01X")
    with pytest.raises(NotFound):
        history.runs_of_event("01X")


def test_history_answers_from_any_thread(history: History) -> None:
    expected, found, errors = history.runs(), list[RunPage](), list[Exception]()

    def ask() -> None:
        try:
            found.extend(history.runs() for _ in range(20))
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [expected] * 80


def test_missing_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="does not exist"):
        open_history(tmp_path / "history.db")


@pytest.mark.parametrize("where", [RunFilter(), RunFilter(function="a-g"), RunFilter(states=("failed",)),
                                   RunFilter(states=("waiting",)), RunFilter(since_ms=NOON)])  # fmt: skip
def test_list_is_read_in_order_of_an_index(log: RecordedPartition, tmp_path: Path, where: RunFilter) -> None:
    with open_projector(log.path, tmp_path / "history.db") as projector:
        projector.catch_up()
    history = open_history(tmp_path / "history.db")
    seen: list[str] = []
    connection = history._reader._connection  # type: ignore[attr-defined]  # it is a file
    connection.set_trace_callback(seen.append)
    history.runs(where)
    connection.set_trace_callback(None)
    query = next(statement for statement in seen if "SELECT" in statement)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    own = [line for line in plan if "runs" in line]
    assert len(own) == 1
    assert not [line for line in plan[: plan.index(own[0]) + 1] if "TEMP B-TREE" in line]
    assert "SCAN" not in own[0] or where == RunFilter()
    history.close()
