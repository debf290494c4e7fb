"""Questions to the history. It is read only, from any thread; each answer is of one moment.

The history follows the log by some milliseconds: ``wait_for`` the position of a write to read it.
"""

import time
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from steplog.engine.ids import encode_ulid, ulid
from steplog.engine.operations import ErrorInfo
from steplog.engine.records import RunRef, Skip, StepRef
from steplog.errors import NotFound
from steplog.history import schema
from steplog.history.position import Position
from steplog.history.store import Reader, Values, open_reader
from steplog.history.views import (
    RUN_STATES,
    AttemptView,
    DeadView,
    EventFilter,
    EventPage,
    EventView,
    RunCount,
    RunFilter,
    RunPage,
    RunState,
    RunView,
    StepView,
    WaitsFor,
)

PAGE = 100  # rows at most
SHOWN = 5  # ids, where one was ambiguous

ULID_CHARACTERS = 26

_ALL_RUNS, _ALL_EVENTS = RunFilter(), EventFilter()


class History:
    """A history that another process writes. Its methods raise ``HistoryUnavailable`` where it cannot be read."""

    def __init__(self, reader: Reader) -> None:
        self.name = reader.name
        self._reader = reader
        self._reading = reader.reading

    def position(self) -> Position:
        """Everything in the log up to here is in the history."""
        with self._reading() as read:
            rows = read("SELECT place, position FROM positions")
        return Position.of({values["place"]: values["position"] for values in rows})

    def wait_for(self, position: Position, timeout_s: float) -> bool:
        """Wait until the history has a position; false where it has not when the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not self.position().covers(position):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(self._reader.poll_s, left_s))
        return True

    # --- runs

    def run(self, run_id: str) -> RunView:
        """Read one run. Raises ``NotFound``."""
        with self._reading() as read:
            rows = read(f"{_SELECT_RUN} WHERE id = ?", (run_id,))
        if not rows:
            raise NotFound(f"there is no run {run_id}; steplog runs list shows those there are")
        return _run(rows[0])

    def find_run(self, suffix: str) -> RunView:
        """Read the run whose id ends so, as printed. Raises ``NotFound`` where that is none, or not one alone."""
        return self.run(self._find("run", "runs", "id", suffix))

    def runs(self, where: RunFilter = _ALL_RUNS, *, limit: int = 20, cursor: str | None = None) -> RunPage:
        """Read runs, newest first, at most 100."""
        limit = max(1, min(limit, PAGE))
        condition = _Condition.of_runs(where, cursor)
        query = f"{_SELECT_RUN} WHERE {{}} ORDER BY id DESC LIMIT {limit + 1}"
        rows: list[Values] = []
        with self._reading() as read:
            for state in dict.fromkeys(where.states) or (
                None,
            ):  # one by one, so that each is read in order of an index
                each = condition.and_state(state)
                rows += read(query.format(each.text), each.values)
        rows.sort(key=lambda values: values["id"], reverse=True)
        runs = tuple([_run(values) for values in rows[:limit]])
        return RunPage(runs=runs, cursor=runs[-1].id if len(rows) > limit else None)

    def runs_of_event(self, internal_id: str) -> tuple[RunView, ...]:
        """Read the runs that an event started, in the order in which it did. Raises ``NotFound``."""
        ids = [ref.run for ref in self.event(internal_id).runs]
        with self._reading() as read:
            rows = read(_SELECT_RUNS.format(", ".join("?" * len(ids))), ids) if ids else []
        by_id = {values["id"]: _run(values) for values in rows}
        return tuple([by_id[id_] for id_ in ids if id_ in by_id])

    def counts(self, *, env: str | None = None) -> tuple[RunCount, ...]:
        """Count runs by function and state, in this order. What does not occur is left out."""
        with self._reading() as read:
            rows = read(_COUNTS)
        apps: dict[tuple[str, str], str] = {}
        found: dict[tuple[str, str], dict[RunState, int]] = {}
        for row in rows:
            key, state, runs = (row["env"], row["function"]), row["state"], row["runs"]
            if env not in (None, row["env"]):
                continue
            states = found.setdefault(key, {"completed": 0})
            if state:
                states[state] = runs
                states["completed"] -= runs
            else:
                apps[key] = row["app"]
                states["completed"] += runs
        return tuple(
            [
                RunCount(env=key[0], app=apps.get(key, ""), function=key[1], state=state, runs=states[state])
                for key, states in sorted(found.items())
                for state in RUN_STATES
                if states.get(state, 0) > 0
            ]
        )

    # --- steps

    def steps(self, run_id: str) -> tuple[StepView, ...]:
        """Read a run's steps in the order of their start. None for a run that is not known."""
        with self._reading() as read:
            rows = read("SELECT * FROM steps WHERE run = ?", (run_id,))
            for run in read("SELECT env, steps FROM runs WHERE id = ?", (run_id,)):
                rows += [_row_of(step, run_id, run["env"]) for step in _decode_whole(run["steps"])]
            attempts = read("SELECT * FROM attempts WHERE run = ? ORDER BY seq", (run_id,))
        of_step: dict[str, list[Values]] = {}
        for attempt in attempts:
            of_step.setdefault(attempt["step"], []).append(attempt)
        of_step.pop("", None)  # the function's own
        steps = [_step(values, of_step.pop(values["id"], [])) for values in rows]
        steps += [_late_step(late) for late in of_step.values()]
        return tuple(sorted(steps, key=lambda step: (step.started_ms, step.seq)))

    def attempts(self, run_id: str) -> tuple[AttemptView, ...]:
        """Read a run's attempts, those of its function's own code among them, in the order of their ends."""
        with self._reading() as read:
            rows = read("SELECT * FROM attempts WHERE run = ? ORDER BY seq", (run_id,))
        return tuple([_attempt(values) for values in rows])

    # --- events

    def event(self, internal_id: str) -> EventView:
        """Read one event. Raises ``NotFound``."""
        with self._reading() as read:
            rows = read(f"{_SELECT_EVENT} WHERE internal_id = ?", (internal_id,))
        if not rows:
            raise NotFound(f"there is no event {internal_id}; steplog events list shows those there are")
        return _event(rows[0])

    def find_event(self, suffix: str) -> EventView:
        """Read the event whose internal id ends so. Raises ``NotFound`` where that is none, or not one alone."""
        return self.event(self._find("event", "events", "internal_id", suffix))

    def events(self, where: EventFilter = _ALL_EVENTS, *, limit: int = 20, cursor: str | None = None) -> EventPage:
        """Read events, newest first, at most 100."""
        limit = max(1, min(limit, PAGE))
        condition = _Condition.of_events(where, cursor)
        with self._reading() as read:
            rows = read(
                f"{_SELECT_EVENT} WHERE {condition.text} ORDER BY internal_id DESC LIMIT {limit + 1}", condition.values
            )
        events = tuple([_event(values) for values in rows[:limit]])
        return EventPage(events=events, cursor=events[-1].internal_id if len(rows) > limit else None)

    # --- the projection

    def dead(self, *, limit: int = PAGE) -> tuple[DeadView, ...]:
        """Read what could not be read or applied, newest first."""
        with self._reading() as read:
            rows = read("SELECT * FROM dead ORDER BY position DESC LIMIT ?", (limit,))
        return tuple([DeadView(**values) for values in rows])

    def close(self) -> None:
        """Close it."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _find(self, what: str, table: str, column: str, suffix: str) -> str:
        """Find the one id that ends so."""
        wanted = suffix.lstrip("….").upper()
        if len(wanted) == ULID_CHARACTERS:
            return wanted
        if not wanted:
            raise NotFound(f"an empty text names no {what}; give the last characters of its id")
        begin = ULID_CHARACTERS - len(wanted) + 1
        query = f"SELECT {column} FROM {table} WHERE substr({column}, ?) = ? LIMIT {SHOWN + 1}"  # noqa: S608 - ours
        with self._reading() as read:
            found: list[str] = [row[column] for row in read(query, (max(begin, 1), wanted))]
        if not found:
            raise NotFound(
                f"there is no {what} whose id ends with {wanted}; steplog {what}s list shows those there are"
            )
        if len(found) > 1:
            more = ", …" if len(found) > SHOWN else ""
            raise NotFound(
                f"more than one {what} has an id that ends with {wanted}; give more characters: "
                f"{', '.join(found[:SHOWN])}{more}"
            )
        return found[0]


class _Condition(NamedTuple):
    """A WHERE clause and its parameters."""

    text: str
    values: list[str | int]

    @classmethod
    def of_runs(cls, where: RunFilter, cursor: str | None) -> Self:
        return cls.all_of(
            ("env = ?", where.env),
            ("function = ?", where.function),
            ("app = ?", where.app),
            ("id >= ?", _first_id(where.since_ms)),
            ("id < ?", _first_id(where.until_ms)),
            ("id < ?", cursor),
        )

    @classmethod
    def of_events(cls, where: EventFilter, cursor: str | None) -> Self:
        return cls.all_of(
            ("events.env = ?", where.env),
            ("name = ?", where.name),
            ("received_ms >= ?", where.since_ms),
            ("received_ms < ?", where.until_ms),
            ("internal_id < ?", cursor),
        )

    @classmethod
    def all_of(cls, *terms: tuple[str, str | int | None]) -> Self:
        """Every term that has a value."""
        given = [(text, value) for text, value in terms if value is not None]
        return cls(" AND ".join(["TRUE", *[text for text, _ in given]]), [value for _, value in given])

    def and_state(self, state: RunState | None) -> "_Condition":
        """Narrow it to a state, with the term that the index of open runs asks for."""
        if state is None:
            return self
        narrowed = f"{self.text} AND state = ?"
        if state != "completed":
            narrowed += f" AND {schema.OPEN_RUN}"
        return _Condition(narrowed, [*self.values, state])


def _first_id(ms: int | None) -> str | None:
    """The least ULID of a time."""
    return None if ms is None else encode_ulid(ulid(max(ms, 0), bytes(10)))


class WholeStep(msgspec.Struct, frozen=True, array_like=True):
    """A completed step in the row of its run."""

    id: str
    name: str
    op: str
    attempt: int
    seq: int
    started_ms: int
    ended_ms: int
    output: msgspec.Raw


def _row_of(step: WholeStep, run_id: str, env: str) -> Values:
    """The row that the step would have, had it been written before the end of its run."""
    absent = {"until_ms": None, "retry_at_ms": None, "error": None, "waits_for": None}
    values = msgspec.structs.asdict(step)
    return {"run": run_id, "env": env, "state": "completed", **values, **absent, "output": str(step.output, "utf8")}


def _run(values: Values) -> RunView:
    return RunView(**_decoded(values) | {"events": _decode_ids(values["events"])})


def _attempt(values: Values) -> AttemptView:
    shown = {name: value for name, value in _decoded(values).items() if name not in ("run", "seq", "env")}
    return AttemptView(**shown)


def _step(values: Values, attempts: list[Values]) -> StepView:
    waits_for = values["waits_for"]
    shown = _decoded(values) | {"waits_for": None if waits_for is None else _decode_waits_for(waits_for)}
    return StepView(**shown, attempts=tuple([_attempt(each) for each in attempts]))


def _late_step(attempts: list[Values]) -> StepView:
    """A step of which nothing is recorded but answers that came when the run had ended."""
    last = attempts[-1]
    return StepView(
        run=last["run"], id=last["step"], env=last["env"], name=last["name"], op=last["op"], state="late",
        attempt=last["attempt"], seq=attempts[0]["seq"], started_ms=attempts[0]["at_ms"], ended_ms=last["at_ms"],
        until_ms=None, retry_at_ms=None, output=None, error=None, waits_for=None,
        attempts=tuple([_attempt(each) for each in attempts]),
    )  # fmt: skip


def _event(values: Values) -> EventView:
    user = values["user"]
    return EventView(
        **values
        | {
            "user": None if user is None else msgspec.Raw(user),
            "data": msgspec.Raw(values["data"]),
            "is_duplicate": bool(values["is_duplicate"]),
            "runs": _decode_runs(values["runs"]),
            "skipped": _decode_skipped(values["skipped"]),
            "resumed": _decode_resumed(values["resumed"]),
        }
    )


def _decoded(values: Values) -> Values:
    """Decode what most tables have."""
    output, error = values["output"], values["error"]
    return values | {
        "output": None if output is None else msgspec.Raw(output),
        "error": None if error is None else _decode_error(error),
    }


_decode_whole = msgspec.json.Decoder(list[WholeStep]).decode
_decode_ids = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_runs = msgspec.json.Decoder(tuple[RunRef, ...]).decode
_decode_skipped = msgspec.json.Decoder(tuple[Skip, ...]).decode
_decode_resumed = msgspec.json.Decoder(tuple[StepRef, ...]).decode
_decode_waits_for = msgspec.json.Decoder(WaitsFor).decode
_decode_error = msgspec.json.Decoder(ErrorInfo).decode

_NEXT_STEP = f"""
    CASE WHEN state IN ('running', 'waiting') THEN (
        SELECT {{}} FROM steps WHERE run = runs.id AND steps.{schema.OPEN_STEP}
        ORDER BY coalesce(until_ms, steps.retry_at_ms) LIMIT 1
    ) END"""  # noqa: S608 - ours
_RUN_COLUMNS = ", ".join([name for name in RunView.__struct_fields__ if not name.startswith("next_")])
_SELECT_RUN = f"""
    SELECT {_RUN_COLUMNS}, {_NEXT_STEP.format("name")} AS next_step,
        {_NEXT_STEP.format("coalesce(until_ms, steps.retry_at_ms)")} AS next_ms,
        {_NEXT_STEP.format("steps.state")} AS next_state
    FROM runs"""  # noqa: S608 - ours
_SELECT_RUNS = f"{_SELECT_RUN} WHERE id IN ({{}})"
_SELECT_EVENT = """
    SELECT internal_id, events.env, id, name, ts_ms, received_ms, source, v, "user", data,
        coalesce(routings.is_duplicate, events.is_duplicate) AS is_duplicate,
        coalesce(events.runs, routings.runs, '[]') AS runs,
        coalesce(routings.skipped, events.skipped) AS skipped, coalesce(routings.resumed, events.resumed) AS resumed
    FROM events LEFT JOIN routings ON event = internal_id AND events.runs IS NULL"""
_COUNTS = f"""
    SELECT env, function, app, '' AS state, runs FROM functions
    UNION ALL SELECT env, function, '', state, count(*) FROM runs WHERE {schema.OPEN_RUN} GROUP BY env, function, state
    """  # noqa: S608 - ours


def open_history(history: str) -> History:
    """Open a history by its address: ``sqlite:PATH`` or ``postgresql://…``."""
    return History(open_reader(history))
