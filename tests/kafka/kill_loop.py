"""Kills engine processes of a cluster at random while runs go through it (fault A7).

``python -m tests.kafka.kill_loop --runs 20000 --seconds 60`` does it on a broker of its own, and prints what happened.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from confluent_kafka.admin import AdminClient

from steplog.log.client import SESSION_MS
from steplog.log.topics import Layout, prepare
from tests import servers
from tests.faults.kill_loop import SERVICE_S, SHIP_BODIES, SHIP_STEPS
from tests.faults.oracles import assert_bodies
from tests.faults.sender import Sender
from tests.faults.server import until
from tests.kafka_clients import QUICK

from .fleet import Fleet
from .ledger import Ledger

GROUP = 50  # events a request
LEFT_S = 30  # after the end no run is open longer than this
LEAST = 2  # kills, however long others take
LONG = 0.3  # of the dead are away for longer than their session: others take over


class KillLoop(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    runs: int
    kills: dict[str, int]
    takeovers: int  # kills after which the others got the partitions
    slowest_start_s: float
    ended_after_s: float  # the last run, counted from the last kill or the last event
    bodies_again: int
    refused: int
    unanswered: int
    turns: int


def kill_loop(
    fleet: Fleet, ledger: Ledger, *, seed: int, runs: int, seconds: float, pause_s: tuple[float, float]
) -> KillLoop:
    """Spread runs over some seconds in which processes are killed and started again; check everything at the end."""
    chance, kills, takeovers = random.Random(seed), dict.fromkeys(fleet.nodes, 0), 0
    fleet.start()
    slowest_s = 0.0
    sender = Sender(fleet)
    sending = threading.Thread(target=_send, args=(sender, runs, seconds), daemon=True)
    sending.start()
    try:
        over_s = time.monotonic() + seconds
        while time.monotonic() < over_s or sum(kills.values()) < LEAST:
            _read_until(ledger, min(time.monotonic() + chance.uniform(*pause_s), over_s))
            name = chance.choice(list(fleet.nodes))
            fleet[name].kill()
            kills[name] += 1
            if chance.random() < LONG:
                takeovers += 1
                _read_until(ledger, time.monotonic() + SESSION_MS / 1000 + 1)
            slowest_s = max(slowest_s, fleet[name].start())
        while sending.is_alive():
            ledger.read()
    finally:
        sender.is_over = True
        sending.join()
    last_s = time.monotonic()
    until(
        lambda: len(ledger.read().ended) >= runs, within_s=LEFT_S, why=f"{len(ledger.ended)} of {runs} runs have ended"
    )
    ended_s = time.monotonic() - last_s
    assert slowest_s < SERVICE_S
    assert len(sender.accepted) == runs
    ledger.assert_adds_up(runs=runs, steps=runs * SHIP_STEPS)
    assert set(sender.accepted) <= set(ledger.ids.values())
    begun = assert_bodies(fleet.effects, faults=sum(kills.values()), bodies=runs * SHIP_BODIES)
    return KillLoop(
        runs=runs, kills=kills, takeovers=takeovers, slowest_start_s=slowest_s, ended_after_s=ended_s,
        bodies_again=begun.total() - len(begun), refused=sender.refused, unanswered=sender.unanswered,
        turns=sum(ledger.turns.values()),
    )  # fmt: skip


def _read_until(ledger: Ledger, until_s: float) -> None:
    while time.monotonic() < until_s:
        ledger.read()


def _send(sender: Sender, runs: int, seconds: float) -> None:
    began_s = time.monotonic()
    for first in range(0, runs, GROUP):
        time.sleep(max(began_s + seconds * first / runs - time.monotonic(), 0))
        sender.send(range(first, min(first + GROUP, runs)))


def main(arguments: Sequence[str]) -> int:
    """Run it as the options say; returns 1 where something did not hold."""
    options = argparse.ArgumentParser(prog="python -m tests.kafka.kill_loop", description=__doc__)
    options.add_argument("--runs", type=int, default=20_000)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--partitions", type=int, default=6)
    options.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = options.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    layout = Layout("kill-loop", given.partitions)
    with servers.kafka() as cluster, tempfile.TemporaryDirectory() as folder:
        prepare(AdminClient({"bootstrap.servers": cluster.bootstrap, **QUICK}), layout, None)
        with Fleet(Path(folder), cluster.bootstrap, layout) as fleet, Ledger(cluster.bootstrap, layout) as ledger:
            done = kill_loop(fleet, ledger, seed=given.seed, runs=given.runs, seconds=given.seconds, pause_s=(2, 5))
    print(msgspec.json.format(msgspec.json.encode(done), indent=2).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
