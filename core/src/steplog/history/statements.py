"""How the projection writes, as SQL that SQLite and PostgreSQL both run.

Each statement takes rows of numbered values, ``?1`` and so on. It is written once and run in two forms: with the values
of one row, or, in PostgreSQL, over a table into which many rows were copied (``staged``). Where rows are many, 0 and ""
stand for NULL: ``sqlite3`` takes 0.5 µs to bind a None, as long as all else of a column.
"""

import re

from steplog.history.schema import OPEN_STEP

UNCHANGED = -1

_VALUE = re.compile(r"\?([0-9]+)")
_TYPES = {"t": "text", "i": "bigint"}


class Statement:
    """A statement, and the types of its values: ``t`` text, ``i`` a whole number.

    ``[values` and ``]`` stand around what one row is made of, ``[where]`` before the condition that finds it.
    """

    def __init__(self, name: str, types: str, text: str) -> None:
        self.name = name
        self.types = types.replace(" ", "")
        row = text.replace("[where]", "WHERE").replace("[values", "VALUES (").replace("]", ")")
        self.sqlite = row.replace("greatest(", "max(")
        self.postgres = _VALUE.sub(self._parameter, row)
        self.postgres_staged = _VALUE.sub(r"s.c\1", self._staged(text))

    def stage(self) -> str:
        """Make the table that many rows are copied into. It is empty again after each transaction."""
        columns = ", ".join([f"c{n} {_TYPES[kind]}" for n, kind in enumerate(self.types, 1)])
        return f"CREATE TEMPORARY TABLE staged_{self.name} ({columns}) ON COMMIT DELETE ROWS"

    def _staged(self, text: str) -> str:
        rows = f"FROM staged_{self.name} AS s"
        return text.replace("[where]", f"{rows} WHERE").replace("[values", "SELECT").replace("]", f" {rows}")

    def _parameter(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return f"${number}::{_TYPES[self.types[number - 1]]}"


def _all(count: int) -> str:
    return ", ".join([f"?{n}" for n in range(1, count + 1)])


_HAS_WAITING_STEP = f"EXISTS (SELECT 1 FROM steps WHERE run = ?1 AND {OPEN_STEP} AND state = 'waiting')"  # noqa: S608 - ours
_RETRY_AT = f"nullif(CASE WHEN ?6 = {UNCHANGED} THEN retry_at_ms ELSE ?6 END, 0)"

UPSERT_STEP = Statement(
    "open_steps", "tttttt iiiiii ttt", f"""
    INSERT INTO steps [values {_all(15)}]
    ON CONFLICT (run, id) DO UPDATE SET
        op = excluded.op, state = excluded.state, attempt = excluded.attempt, ended_ms = excluded.ended_ms,
        until_ms = excluded.until_ms, retry_at_ms = excluded.retry_at_ms, error = excluded.error""",
)  # fmt: skip
COMPLETE_STEP = Statement(
    "completed_steps", "ttttt iiii t", """
    INSERT INTO steps (run, id, env, name, op, state, attempt, seq, started_ms, ended_ms, output)
    [values ?1, ?2, ?3, ?4, ?5, 'completed', ?6, ?7, ?8, ?9, ?10]
    ON CONFLICT (run, id) DO UPDATE SET
        op = excluded.op, state = excluded.state, attempt = excluded.attempt, ended_ms = excluded.ended_ms,
        retry_at_ms = NULL, output = excluded.output, error = NULL""",  # seq and started_ms stay those of the first
)  # fmt: skip
INSERT_ATTEMPT = Statement("attempts", "ti tttt it iiiii tt", f"INSERT INTO attempts [values {_all(15)}]")
INSERT_EVENT = Statement(
    "events", "tttt ii tttt i ttt", """
    INSERT INTO events
    [values ?1, ?2, ?3, ?4, ?5, ?6, ?7, nullif(?8, ''), nullif(?9, ''), ?10, ?11, nullif(?12, ''), ?13, ?14]
    ON CONFLICT DO NOTHING""",  # an event that comes again with its seed has the same id
)  # fmt: skip
INSERT_ROUTING = Statement(
    "routings", "tt i ttt", f"INSERT INTO routings [values {_all(6)}] ON CONFLICT DO NOTHING"
)  # fmt: skip
INSERT_DEAD = Statement("dead", "it ttt i", f"INSERT INTO dead [values {_all(6)}]")
INSERT_RUN = Statement(
    "runs", "ttttt i tt iiiiii ttt", f"""
    INSERT INTO runs [values
        ?1, ?2, ?3, ?4, nullif(?5, ''), ?6, ?7,
        CASE WHEN ?8 <> 'running' THEN ?8 WHEN {_HAS_WAITING_STEP} THEN 'waiting' ELSE ?8 END,
        ?9, nullif(?10, 0), nullif(?11, 0), nullif(?12, 0), ?13, nullif(?14, 0), nullif(?15, ''), nullif(?16, ''), ?17
    ]""",
)  # fmt: skip
UPDATE_RUN = Statement(
    "changed_runs", "tt iiii ttt", f"""
    UPDATE runs SET
        state = CASE
            WHEN ?2 <> 'running' THEN ?2 WHEN {_RETRY_AT} IS NOT NULL OR {_HAS_WAITING_STEP} THEN 'waiting' ELSE ?2 END,
        started_ms = coalesce(started_ms, nullif(?3, 0)), ended_ms = nullif(?4, 0),
        generation = greatest(generation, ?5), retry_at_ms = {_RETRY_AT}, output = nullif(?7, ''),
        error = nullif(?8, ''), steps = ?9
    [where] id = ?1""",  # noqa: S608 - ours
)  # fmt: skip
COUNT_RUNS = Statement(
    "functions", "ttt i", """
    INSERT INTO functions [values ?1, ?2, ?3, ?4]
    ON CONFLICT (env, function) DO UPDATE SET runs = functions.runs + excluded.runs""",
)  # fmt: skip

STATEMENTS = (
    UPSERT_STEP, COMPLETE_STEP, INSERT_ATTEMPT, INSERT_EVENT, INSERT_ROUTING, INSERT_DEAD, INSERT_RUN, UPDATE_RUN,
    COUNT_RUNS,
)  # fmt: skip
