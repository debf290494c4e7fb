"""The server's processes die, or there is one too many (faults A6 to A9)."""

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from steplog.engine import records

from .kill_loop import kill_loop
from .oracles import Follower, assert_adds_up, assert_bodies, calls, journal, stored_events
from .server import Server, rss_bytes, until

SLEEPS, SLEPT_WITHIN_S = 10_000, 30


@pytest.mark.spec("FAULT-A6")
def test_ten_thousand_sleeps_are_due_when_the_server_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.start()
        due_ms = round(time.time() * 1000) + 2_500
        with contextlib.closing(server.connection()) as connection:
            for first in range(0, SLEEPS, 500):
                events = [{"name": "nap", "data": {"due_ms": due_ms + n % 1_000}} for n in range(first, first + 500)]
                assert server.post(events, connection).status == 200
        follower = Follower(server.log)
        until(lambda: follower.count() > 0)
        server.kill()
        woken = follower.count()
        assert 0 < woken < SLEEPS, "the fault fired among the wakes"
        server.start()
        until(lambda: follower.count() >= SLEEPS, within_s=60, why=f"{follower.ended} of {SLEEPS} woke")
        assert server.stop() == 0
    report = assert_adds_up(server.log)
    assert (report.completed, report.open) == (SLEEPS, 0)
    woke = [r for r in journal(server.log) if isinstance(r, records.StepCompleted) and r.op == "Sleep"]
    assert set(Counter(r.run for r in woke).values()) == {1}
    assert len(woke) == SLEEPS
    assert min(r.at for r in woke) >= due_ms
    assert max(r.at for r in woke) < due_ms + (1 + SLEPT_WITHIN_S) * 1_000
    assert_bodies(server.effects, faults=1, bodies=SLEEPS)
    assert min(call.at_ms for call in calls(server.effects)) >= due_ms


@pytest.mark.spec("FAULT-A7")
def test_processes_are_killed_at_random(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    done = kill_loop(tmp_path, seed=seed, runs=1_000, seconds=20, pause_s=(0.2, 2))
    print(done)
    assert sum(done.kills.values()) >= 5
    assert done.unanswered > 0, "kills hit requests"


@pytest.mark.spec("FAULT-A8")
def test_a_burst_that_costs_the_server_its_memory(tmp_path: Path) -> None:
    """A watcher plays the kernel, which kills the largest process when memory is out."""
    answers: Counter[str] = Counter()
    accepted: list[str] = []
    with Server(tmp_path) as server:
        server.start()
        victim = server.pid("engine")
        limit_bytes = rss_bytes(victim) + (32 << 20)
        over = threading.Event()
        fired: list[int] = []

        def watch() -> None:
            while not over.wait(0.002):
                if (rss := rss_bytes(victim)) > limit_bytes:
                    fired.append(rss)
                    os.kill(victim, signal.SIGKILL)
                    return

        def burst(sender: int) -> None:
            with contextlib.closing(server.connection()) as connection:
                for request in range(200):
                    ids = [f"{sender}-{request}-{n}" for n in range(200)]
                    body = json.dumps([{"name": "order.small", "id": id_, "data": {"x": "x" * 200}} for id_ in ids])
                    try:
                        answer = server.post(body.encode(), connection)
                    except (OSError, http.client.HTTPException):
                        answers["none"] += 1
                        return
                    answers[str(answer.status)] += 1
                    if answer.status == 200:
                        accepted.extend(ids)
                    assert answer.status == 200 or not answer.ids

        threads = [threading.Thread(target=burst, args=(sender,)) for sender in range(16)]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        for thread in threads[:-1]:
            thread.join()
        over.set()
        threads[-1].join()
        assert fired, f"the fault fired: {answers}"
        assert set(answers) <= {"200", "429", "503", "none"}
        assert server.ended() == 3
        server.start()
        assert set(accepted) <= stored_events(server.log)
        follower, events = Follower(server.log), len(stored_events(server.log))
        until(lambda: follower.count() >= events, within_s=60, why=f"{follower.ended} of {events} runs have ended")
        assert server.stop() == 0
    report = assert_adds_up(server.log)
    assert (report.accepted, report.open, report.failed) == (events, 0, 0)
    assert report.completed == events


@pytest.mark.spec("FAULT-A9")
def test_a_second_server_on_the_same_log(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.start()
        assert server.post([{"name": "order", "data": {"n": n}} for n in range(50)]).status == 200
        began_s = time.monotonic()
        second = server.spawn()
        assert second.wait(20) == 3
        refused_s = time.monotonic() - began_s
        assert refused_s < 5
        (line,) = [line for line in server.printed().splitlines() if line.startswith("error[")]
        assert line.startswith(f"error[log_locked]: {server.log} is being written by process {server.pid('engine')};")
        assert server.post({"name": "order", "data": {"n": 50}}).status == 200
        follower = Follower(server.log)
        until(lambda: follower.count() == 51)
        assert server.stop() == 0
    assert assert_adds_up(server.log).completed == 51
