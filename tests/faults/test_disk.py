"""The disk loses what was not synced, or is full (faults C2 and C3)."""

import random
import re
from pathlib import Path

import pytest

from .disk import Writers
from .oracles import Follower, assert_adds_up, assert_bodies, assert_whole, stored_events
from .power import cut_power
from .server import Answer, Server, until

CUTS = 50


@pytest.mark.spec("FAULT-C2", "DUR-01")
def test_no_answered_event_is_lost_when_the_power_is_cut(tmp_path: Path, disk: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    done = cut_power(tmp_path, disk, seed=seed, cuts=CUTS)
    print(done)
    assert done.lost_sectors > CUTS, "what was not synced was lost"


@pytest.mark.spec("FAULT-C2")
def test_the_cut_finds_a_log_that_does_not_sync(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(AssertionError, match=r"events were answered and are gone|the log is"):
        cut_power(tmp_path, disk, seed=1, cuts=20, synchronous="NORMAL")


@pytest.mark.spec("FAULT-C3")
def test_a_full_disk_refuses_events_until_there_is_space_again(tmp_path: Path, disk: Path) -> None:
    full = tmp_path / "full"
    folder = tmp_path / "disk"
    folder.mkdir()
    environment = {"LD_PRELOAD": str(disk), "DISK_FOLDER": str(folder), "DISK_FULL": str(full)}
    with Server(folder, around=tmp_path, environment=environment) as server:
        server.start()
        sent = [server.post(orders(0, 20))]
        full.touch()
        refused = until(lambda: (answer := server.post(orders(20, 40))).status != 200 and answer)
        assert isinstance(refused, Answer)
        assert refused.status in (503, 507)
        assert not refused.ids
        assert re.search("disk is full|nothing was accepted", refused.error)
        assert full.with_suffix(".fired").exists()
        until(lambda: re.search("log unavailable: .*: database or disk is full", server.printed()))
        server.get("/v1/runs?limit=1")  # what is there can be read
        full.unlink()
        again = until(lambda: (answer := server.post(orders(20, 60))).status == 200 and answer)
        assert isinstance(again, Answer)
        sent.append(again)
        assert [len(answer.ids) for answer in sent] == [20, 40]
        follower = Follower(server.log)
        until(lambda: follower.count() >= 60)
        assert server.stop() == 0
    assert_whole(server.log)
    report = assert_adds_up(server.log)
    assert (report.completed, report.failed, report.open) == (60, 0, 0)
    assert stored_events(server.log) == {f"order-{n}" for n in range(60)}
    assert_bodies(server.effects, faults=1, bodies=60 * 4)


def orders(first: int, end: int) -> list[dict[str, object]]:
    return [{"name": "order", "id": f"order-{n}", "data": {"n": n}} for n in range(first, end)]


@pytest.mark.spec("FAULT-C3")
def test_a_commit_that_meets_a_full_disk_leaves_nothing_behind(tmp_path: Path, disk: Path) -> None:
    """At any operation: of the log's making, of a commit, of writing the WAL back."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with Writers(disk) as writers:
        for number in range(6):
            folder, durable = tmp_path / str(number), tmp_path / f"durable-{number}"
            folder.mkdir()
            durable.mkdir()
            first = chance.randrange(60, 250)
            ended = writers.run(
                folder=folder, durable=durable, answered=tmp_path / f"answered-{number}", name="a", orders=20,
                waits_for_runs=20, full_from=first, full_upto=first + chance.choice((1, 2, 3)),
            )  # fmt: skip
            assert (ended["code"], ended["operations"] > first) == (0, True), "it went on, and the fault fired"
            assert_whole(folder / "log.db")
            report = assert_adds_up(folder / "log.db")
            assert (report.completed, report.open) == (20, 0)


@pytest.mark.spec("FAULT-C3")
def test_a_full_disk_at_the_start_is_named(tmp_path: Path, disk: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    full = tmp_path / "full"
    full.touch()
    environment = {"LD_PRELOAD": str(disk), "DISK_FOLDER": str(folder), "DISK_FULL": str(full)}
    with Server(folder, around=tmp_path, environment=environment) as server:
        assert server.spawn().wait(20) == 3
        assert "error[log_unavailable]" in server.printed()
        full.unlink()
        server.start()
        assert server.post(orders(0, 1)).status == 200
