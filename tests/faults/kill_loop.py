"""Kills processes of a server at random while runs go through it (fault A7)."""

import random
import threading
import time
from pathlib import Path

import msgspec

from .oracles import Follower, assert_adds_up, assert_bodies, assert_never_after_its_record, stored_events
from .sender import Sender
from .server import Part, Server, rss_bytes, until

PARTS: tuple[Part, ...] = ("functions", "engine", "history", "all")
SHIP_BODIES, SHIP_STEPS = 4, 5  # of shop.py
GROUP = 10  # events a request
LEFT_S = 60  # after the end no run is open longer than this
SERVICE_S = 10  # from the start of a process to its first answer


class KillLoop(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    runs: int
    kills: dict[Part, int]
    slowest_start_s: float
    ended_after_s: float
    bodies_again: int
    refused: int
    unanswered: int
    rss_mb: list[int]  # engine and functions, every second, of the part without kills


def kill_loop(
    folder: Path, *, seed: int, runs: int, seconds: float, pause_s: tuple[float, float], calm_s: float = 0
) -> KillLoop:
    """Spread runs over some seconds, of which the last ``calm_s`` see no kill; check everything at the end."""
    chance, kills = random.Random(seed), dict.fromkeys(PARTS, 0)
    rss_mb: list[int] = []
    with Server(folder) as server:
        slowest_s = server.start()
        sender = Sender(server)
        sending = threading.Thread(target=_send, args=(sender, runs, seconds), daemon=True)
        sending.start()
        try:
            over_s = time.monotonic() + seconds - calm_s
            while time.monotonic() < over_s:
                time.sleep(min(chance.uniform(*pause_s), max(over_s - time.monotonic(), 0)))
                part = chance.choice(PARTS)
                server.kill(part)
                kills[part] += 1
                if part != "history":
                    slowest_s = max(slowest_s, server.start())
            while sending.is_alive():
                sending.join(1)
                if calm_s:
                    rss_mb.append((rss_bytes(server.pid("engine")) + rss_bytes(server.pid("functions"))) >> 20)
        finally:
            sender.is_over = True
            sending.join()
        over_s = time.monotonic()
        follower = Follower(server.log)
        until(lambda: follower.count() >= runs, within_s=LEFT_S, why=f"{follower.ended} of {runs} runs have ended")
        ended_s = time.monotonic() - over_s
        assert server.stop() == 0
    assert slowest_s < SERVICE_S
    report = assert_adds_up(server.log)
    assert (report.accepted >= runs, report.completed, report.failed, report.open) == (True, runs, 0, 0)
    assert report.planned_steps == report.recorded_steps == runs * SHIP_STEPS
    assert set(sender.accepted) <= stored_events(server.log)
    begun = assert_bodies(server.effects, faults=sum(kills.values()), bodies=runs * SHIP_BODIES)
    assert_never_after_its_record(server.log, server.effects)
    return KillLoop(
        runs=runs, kills=kills, slowest_start_s=slowest_s, ended_after_s=ended_s, refused=sender.refused,
        bodies_again=begun.total() - len(begun), unanswered=sender.unanswered, rss_mb=rss_mb,
    )  # fmt: skip


def _send(sender: Sender, runs: int, seconds: float) -> None:
    began_s = time.monotonic()
    for first in range(0, runs, GROUP):
        time.sleep(max(began_s + seconds * first / runs - time.monotonic(), 0))
        sender.send(range(first, min(first + GROUP, runs)))
