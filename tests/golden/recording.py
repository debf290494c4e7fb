"""Golden logs: what a release has written, kept to show that later ones read it and go on with it (P11, FAULT-H5).

``python -m tests.golden NAME`` records one; it is kept as it is from then on, and each change of what is written adds
another.
"""

import asyncio
import json
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from steplog import Event
from steplog.drivers.loop import UsersLoop
from steplog.history.offline import open_offline
from steplog.log.sqlite import SqliteLog
from steplog.node import Node, NodeConfig
from steplog.paths import file_url

HERE = Path(__file__).parent
OPEN = {"golden-wait-for-event", "golden-wait-for-signal", "golden-sleep"}


def node(log_path: Path) -> Node:
    """A node of the app over a log. The app's file has no folder in tracebacks: they are in the log."""
    shop = ModuleType("shop")
    exec(compile((HERE / "shop.py").read_text(encoding="utf8"), "shop.py", "exec"), vars(shop))
    return Node([shop.app], lambda: SqliteLog(log_path), NodeConfig())


def on_users_loop(body: Any) -> Any:
    """Run a coroutine as ``steplog dev`` runs functions."""
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        return runner.run(body)


async def until_only_open(running: Node, log_path: Path) -> None:
    """Return when every run has ended but those that wait for something that does not come by itself."""
    async with asyncio.timeout(10):
        while {run["function"] for run in folded(log_path)["runs"] if run["ended_ms"] is None} != OPEN:
            await asyncio.sleep(0.02)


def folded(log_path: Path) -> dict[str, list[dict[str, Any]]]:
    """What the journal of a log says, in the words of the history: runs, their steps with attempts, events."""
    with open_offline(file_url(log_path), file_url(log_path.with_name("none.history.db"))) as history:
        runs = sorted(history.runs(limit=100).runs, key=lambda run: (run.function, run.id))
        steps = [step for run in runs for step in history.steps(run.id)]
        events = sorted(history.events(limit=100).events, key=lambda event: event.internal_id)
    text = msgspec.json.encode({"runs": runs, "steps": steps, "events": events})
    return msgspec.json.decode(text, type=dict[str, list[dict[str, Any]]])


def record(name: str) -> None:
    """Write a golden log and what it folds to."""
    path = HERE / f"{name}.db"
    path.unlink(missing_ok=True)

    async def body() -> None:
        async with node(path) as running:
            await running.send(Event(name="golden/placed", data={"order": "o1", "text": "é🦆"}, id="placed-1"))
            await running.send(Event(name="golden/placed", data={"order": "o1", "text": "é🦆"}, id="placed-1"))
            await until_only_open(running, path)

    on_users_loop(body())
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("VACUUM")
    connection.close()
    for beside in HERE.glob(f"{name}.db?*"):
        beside.unlink()
    text = json.dumps(folded(path), indent=1, sort_keys=True, ensure_ascii=False)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf8")
    for beside in HERE.glob(f"{name}.db?*"):
        beside.unlink()
