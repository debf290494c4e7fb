"""A copy of the live log is restored, as ``docs/operations.md`` says (faults C4 and C6)."""

import shutil
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from steplog.engine import records
from steplog.history.audit import audit

from .oracles import Follower, assert_adds_up, back_up, journal, last_commit, stored_events, turns
from .server import Server, until


def orders(first: int, end: int) -> list[dict[str, object]]:
    return [{"name": "order", "id": f"order-{n}", "data": {"n": n}} for n in range(first, end)]


def send(server: Server, first: int, end: int) -> None:
    for n in range(first, end, 10):
        assert server.post(orders(n, n + 10)).status == 200


@pytest.mark.spec("FAULT-C6", "FAULT-C4")
def test_a_restored_log_says_once_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with Server(tmp_path) as server:
        server.start()
        send(server, 0, 50)
        back_up(server.log, copy)
        assert_adds_up(copy)
        follower = Follower(server.log)
        until(lambda: follower.count() == 50)
        send(server, 50, 80)
        until(lambda: follower.count() == 80)
        assert server.stop() == 0
        newest = last_commit(server.log)
        runs = {r.run for r in journal(server.log) if isinstance(r, records.RunScheduled)}
        with server.log.open("r+b") as file:
            file.write(bytes(4096))
        assert server.spawn().wait(20) == 3
        assert f"error[log_corrupt]: {server.log}" in server.printed()
        assert "Restore it from a backup" in server.printed()

        for suffix in ("-wal", "-shm"):
            server.log.with_name(f"log.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, server.log)
        old = last_commit(server.log)
        assert old < newest
        server.start()
        (restored,) = [turn for turn in turns(server.log) if turn.restored is not None]
        assert restored.restored is not None
        assert (restored.restored.first, restored.restored.last) == (old + 1, newest)
        assert restored.position == newest + 1
        warning = f"restored from a backup: commits {old + 1}–{newest} are missing"
        assert server.printed().count(warning) == 1
        follower = Follower(server.log)
        until(lambda: follower.count() == 50)
        send(server, 50, 100)
        until(lambda: follower.count() == 100)
        until(lambda: len(server.get("/v1/runs?limit=100")) == 100)
        listed = server.get("/v1/runs?limit=100")
        assert Counter(run["status"] for run in listed) == {"Completed": 100}
        assert server.stop() == 0

        server.start()
        assert server.printed().count(warning) == 1, "once"
        assert server.stop() == 0
    report = audit(server.log, is_deep=True)
    assert not report.is_clean
    assert msgspec.structs.replace(report, missing=0).is_clean
    assert audit(server.log, round(time.time() * 1000)).is_clean
    assert (report.completed, report.open, report.missing) == (100, 0, newest - old)
    assert stored_events(server.log) == {f"order-{n}" for n in range(100)}
    again = {r.run for r in journal(server.log) if isinstance(r, records.RunScheduled)}
    assert len(again & runs) == 50, "what is sent again starts runs of its own"
