"""Every golden log folds to what it did when it was recorded, and its open runs go on."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from steplog import Event
from steplog.history.audit import audit

from .recording import HERE, folded, node, on_users_loop

NAMES = sorted(path.stem for path in HERE.glob("*.db"))


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copy(HERE / f"{name}.db", folder / "steplog.db"))


def test_there_are_golden_logs() -> None:
    assert NAMES


@pytest.mark.spec("FAULT-H5")
@pytest.mark.parametrize("name", NAMES)
def test_it_folds_to_what_was_recorded(name: str, tmp_path: Path) -> None:
    """A later release may know more of a run, and nothing else."""
    now, then = folded(copied(name, tmp_path)), json.loads((HERE / f"{name}.json").read_text(encoding="utf8"))
    for kind, rows in then.items():
        assert len(now[kind]) == len(rows)
        for mine, recorded in zip(now[kind], rows, strict=True):
            assert {field: mine[field] for field in recorded} == recorded


@pytest.mark.spec("FAULT-H5")
@pytest.mark.parametrize("name", NAMES)
def test_its_open_runs_go_on(name: str, tmp_path: Path) -> None:
    path = copied(name, tmp_path)
    before = {run["function"]: run["id"] for run in folded(path)["runs"] if run["ended_ms"] is None}

    async def body() -> None:
        async with node(path) as running:
            again = Event(name="golden/placed", data={"order": "o2"}, id="placed-1")
            assert len(await running.send(again)) == 1
            await running.send(Event(name="golden/paid", data={"order": "o1", "by": "card"}))
            async with asyncio.timeout(10):
                while outputs(path)[before["golden-wait-for-event"]] is None:
                    await asyncio.sleep(0.02)

    on_users_loop(body())
    assert outputs(path)[before["golden-wait-for-event"]] == [42, {"order": "o1", "by": "card"}]
    left = {run["function"] for run in folded(path)["runs"] if run["ended_ms"] is None}
    assert {"golden-wait-for-signal", "golden-sleep"} <= left
    report = audit(path, is_deep=True)
    assert report.is_clean, report


def outputs(path: Path) -> dict[str, object]:
    return {run["id"]: run["output"] for run in folded(path)["runs"]}
