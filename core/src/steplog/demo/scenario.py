"""Plays the demo: orders go in, the engine is killed in the middle, another takes over, and the books are checked.

Knows nothing of terminals: it tells its listener what happens.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from steplog.demo.engine import DemoFailed, Engine
from steplog.demo.outside import SERVICES, Outside
from steplog.demo.place import Place
from steplog.demo.proof import Kill, Proof, prove
from steplog.demo.watch import Watch
from steplog.demo.webhooks import bodies, to_event
from steplog.errors import LogLocked, Refused
from steplog.history.source import open_source
from steplog.paths import history_path

STEPS = len(SERVICES)  # of one order
BATCH = 20  # webhooks in one request
POLL_S = 0.004
STUCK_S = 60.0  # without any progress
FIRST_KILL = 0.98  # of an even share: 98 of 200 runs for one kill


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be played."""

    place: Place
    directory: Path
    orders: int
    kills: int

    @property
    def kill_points(self) -> list[int]:
        """After how many finished runs the engine is killed."""
        return [int(FIRST_KILL * self.orders * (n + 1) / (self.kills + 1)) for n in range(self.kills)]


class Sent(msgspec.Struct, frozen=True):
    """All orders are accepted."""

    orders: int


class Progress(msgspec.Struct, frozen=True):
    """So much is done."""

    runs: int
    steps: int


class Restarted(msgspec.Struct, frozen=True):
    """Another engine serves on the same log."""

    pid: int
    open: int
    took_s: float


Moment = Sent | Progress | Kill | Restarted


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The demo was played to its end."""

    proof: Proof
    kills: list[Kill]
    took_s: float


def prepare(directory: Path, log: Path | None = None) -> None:
    """Make the demo's directory, or empty it of an earlier demo's files, among them the log if that is a file.

    Raises ``Refused`` where it holds anything else, ``LogLocked`` where an engine works there.
    """
    mark = directory / "this-is-a-demo"
    if directory.exists() and any(directory.iterdir()):
        if not mark.exists():
            raise Refused(f"{directory} holds files that are not a demo's; give another place with --dir")
        if log is not None:
            _check_unused(log)
            for name in (log.name, history_path(log).name):
                for suffix in ("", "-wal", "-shm", ".lock"):
                    log.with_name(name + suffix).unlink(missing_ok=True)
        (directory / "engine.log").unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    mark.write_text("steplog demo made this directory, and empties it when it runs again.\n", encoding="utf8")


def play(plan: Plan, tell: Callable[[Moment], None]) -> Outcome:
    """Play the demo where ``prepare`` has been. Whether it proves anything is in the outcome.

    Raises ``DemoFailed`` where it cannot be played to its end.
    """
    began_s = time.monotonic()
    events = [to_event(body) for body in bodies()[: plan.orders]]
    kills: list[Kill] = []
    place = plan.place
    with Outside() as outside, Engine(place, plan.directory, outside.environment()) as engine:
        engine.start()
        accepted = sum(engine.send(events[at : at + BATCH]) for at in range(0, len(events), BATCH))
        tell(Sent(accepted))
        since = 0  # calls that earlier engines made
        with Watch(open_source(place.url)) as watch:
            for point in plan.kill_points:
                _follow(watch, engine, point, tell)
                engine.kill()
                outside.settle()
                place.settle()
                kills.append(_kill(plan, engine.pid, watch, outside, since))
                tell(kills[-1])
                since = len(outside.calls)
                took_s = engine.start()
                tell(Restarted(engine.pid, plan.orders - kills[-1].finished, took_s))
            _follow(watch, engine, plan.orders, tell)
        engine.stop()
        orders = [event["data"]["id"] for event in events]
        proof = prove(place.audit(), watch.results, outside.calls, kills, orders, len(outside.acted))
    return Outcome(proof=proof, kills=kills, took_s=time.monotonic() - began_s)


def _follow(watch: Watch, engine: Engine, runs: int, tell: Callable[[Moment], None]) -> None:
    """Wait until so many runs have finished."""
    last, last_s = Progress(-1, -1), time.monotonic()
    while True:
        watch.read()
        progress = Progress(watch.finished, watch.results.total())
        if progress != last:
            tell(progress)
            last, last_s = progress, time.monotonic()
        if watch.finished >= runs:
            return
        engine.check()
        if time.monotonic() - last_s > STUCK_S:
            raise DemoFailed(f"no step was recorded for {STUCK_S:.0f} s, after {watch.finished} finished runs")
        time.sleep(POLL_S)


def _kill(plan: Plan, pid: int, watch: Watch, outside: Outside, since: int) -> Kill:
    """See what a kill has hit, now that all is quiet."""
    watch.read_to_end()
    begun = {call.body for call in outside.calls[since:]}
    known = {call.body.order for call in outside.calls}
    return Kill(
        pid=pid,
        finished=watch.finished,
        open=len(known - watch.completed - watch.failed),
        not_begun=plan.orders - len(known),
        in_flight=frozenset(begun - set(watch.results)),
    )


def _check_unused(log: Path) -> None:
    """Raise ``LogLocked`` where an engine still writes the log of an earlier demo."""
    path = log.with_name(log.name + ".lock")
    if not path.exists():
        return
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LogLocked(str(log), "another process") from None
    finally:
        os.close(lock)
