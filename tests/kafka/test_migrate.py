"""A log is moved with everything that is in flight, and whoever moves it is killed (FAULT-C7)."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.kafka_local import Cluster
from steplog.engine import keys, records
from steplog.errors import LogMoved, MigrationRefused
from steplog.history.audit import AuditReport, audit_source
from steplog.history.offline import portions
from steplog.history.position import Position
from steplog.history.source import open_source
from steplog.log.sqlite import SqliteLog
from steplog.log.topics import STATE
from steplog.migrate.cluster import Cluster as Topics
from steplog.migrate.migration import Migration
from steplog.migrate.topics import replayed
from steplog.paths import KafkaAddress

SOON_S = 60.0
EACH = 3  # runs of each kind
APP = """
import asyncio, os
from datetime import timedelta
from pathlib import Path

from steplog import App, Context, TriggerCron

app = App("m")
HOUR = timedelta(hours=1)


def note(text: str) -> str:
    with open("bodies", "a") as file:
        file.write(text + "\\n")
    return text


@app.function("nap", trigger="nap")
async def nap(ctx: Context) -> str:
    n = ctx.event.data["n"]
    await ctx.step.run("before", note, f"nap/{n}/before")
    await ctx.step.sleep("nap", timedelta(seconds=NAP_S))
    return await ctx.step.run("after", note, f"nap/{n}/after")


@app.function("listen", trigger="listen")
async def listen(ctx: Context) -> int:
    await ctx.step.run("before", note, f"listen/{ctx.event.data['n']}/before")
    heard = await ctx.step.wait_for_event("wait", event="word", match="data.n", timeout=HOUR)
    return heard.data["n"] if heard else -1


@app.function("recall", trigger="recall")
async def recall(ctx: Context) -> int:
    await ctx.step.sleep("nap", timedelta(seconds=NAP_S))
    heard = await ctx.step.wait_for_event("wait", event="early", match="data.n", since="trigger", timeout=HOUR)
    return heard.data["n"] if heard else -1


@app.function("approve", trigger="approve")
async def approve(ctx: Context) -> object:
    said = await ctx.step.wait_for_signal("wait", signal=f"ok/{ctx.event.data['n']}", timeout=HOUR)
    return said.data if said else None


@app.function("child")
async def child(ctx: Context) -> int:
    heard = await ctx.step.wait_for_event("wait", event="word", match="data.n", timeout=HOUR)
    return heard.data["n"] if heard else -1


@app.function("parent", trigger="parent")
async def parent(ctx: Context) -> object:
    return await ctx.step.invoke("child", function="m-child", data=ctx.event.data, timeout=HOUR)


@app.function("flaky", trigger="flaky")
async def flaky(ctx: Context) -> str:
    async def body() -> str:
        if not Path("mended").exists():
            raise ValueError("not yet")
        return note(f"flaky/{ctx.event.data['n']}")

    return await ctx.step.run("try", body)


@app.function("later", trigger="later")
async def later(ctx: Context) -> str:
    return await ctx.step.run("do", note, f"later/{ctx.event.data['n']}")


@app.function("slow", trigger="slow")
async def slow(ctx: Context) -> str:
    async def body() -> str:
        while not Path("free").exists():
            await asyncio.sleep(0.05)
        return note(f"slow/{ctx.event.data['n']}")

    return await ctx.step.run("do", body)


@app.function("once", trigger="once")
async def once(ctx: Context) -> str:
    return await ctx.step.run("do", note, f"once/{ctx.event.data['n']}")


@app.function("nightly", trigger=TriggerCron("0 3 1 1 *"))
async def nightly(ctx: Context) -> None:
    return None
"""


class Server:
    """``steplog start`` on a log, as a process."""

    def __init__(self, directory: Path, log: str, *, partitions: int = 0, role: str = "") -> None:
        self.directory, self.log = directory, log
        ready, told = os.pipe()
        self._stderr = (directory / "stderr").open("a")
        more = ["--set", f"kafka.partitions={partitions}"] if partitions else []
        more += ["--role", role] if role else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "steplog", "start", "app.py", "--log", log, "--port", "0", "--retry-interval", "1",
             "--set", "engine.live_runs=12", "--set", "engine.evict_after=50ms", *more,
             "--ready-fd", str(told)],
            cwd=directory, pass_fds=(told,), stderr=self._stderr, start_new_session=True,
            env={**os.environ, "STEPLOG_EVENT_KEY": "e", "STEPLOG_SIGNING_KEY": "s"},
        )  # fmt: skip
        os.close(told)
        assert select.select([ready], [], [], SOON_S)[0], "it does not get ready"
        said = os.read(ready, 4096)
        os.close(ready)
        assert said, (directory / "stderr").read_text()[-2000:]
        self.url = json.loads(said)["url"]

    def send(self, *events: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.url}/e/e", json.dumps(events).encode(), {"content-type": "application/json"}
        )
        until(lambda: answers(request), "events are accepted")

    def signal(self, name: str) -> None:
        command = [sys.executable, "-m", "steplog", "signal", name, '"yes"', "--url", self.url]
        environment = {**os.environ, "STEPLOG_SIGNING_KEY": "s"}
        until(lambda: subprocess.run(command, env=environment, capture_output=True).returncode == 0, name)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._stderr.close()
        if self.log.startswith("sqlite:"):
            until(lambda: not is_locked(self.log), "its engine has ended with it")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SOON_S) == 0


def is_locked(log: str) -> bool:
    path = Path(log.removeprefix("sqlite:"))
    with path.with_name(f"{path.name}.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=SOON_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False


def turns_away(one: Server, sent: list[dict[str, Any]]) -> bool:
    """Whether events are refused, by a node that waits for the end of the move or has ended since."""
    request = urllib.request.Request(f"{one.url}/e/e", json.dumps(sent).encode(), {"content-type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=SOON_S).close()
    except urllib.error.HTTPError as error:
        return error.code == 503
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


def until(holds: Callable[[], bool], what: str = "") -> None:
    deadline_s = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline_s, f"it never came: {what}"
        time.sleep(0.1)


def journal(log: str) -> list[records.Record]:
    source = open_source(log)
    try:
        return [record for portion in portions(source, Position()) for turn in portion.turns for record in turn.records]
    finally:
        source.close()


def audited(log: str) -> AuditReport:
    source = open_source(log)
    try:
        return audit_source(source)
    finally:
        source.close()


def waiting(log: str) -> Counter[str]:
    """How many steps wait, or were tried, by kind of function."""
    found = journal(log)
    functions = {r.run: r.function for r in found if isinstance(r, records.RunScheduled)}
    return Counter(
        functions[r.run] for r in found if isinstance(r, records.StepWaiting | records.StepErrored | records.RunStarted)
        or (isinstance(r, records.RunScheduled) and r.started is True)
    )  # fmt: skip


def events(name: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "data": {"n": n}, **more} for n in range(EACH)]


@contextlib.contextmanager
def server(directory: Path, log: str, *, partitions: int = 0, role: str = "") -> Iterator[Server]:
    started = Server(directory, log, partitions=partitions, role=role)
    try:
        yield started
    finally:
        started.kill()


def in_flight(directory: Path, log: str, *, nap_s: float = 20, partitions: int = 0) -> None:
    """Have runs of every kind in flight in a log, and kill its engine."""
    (directory / "app.py").write_text(APP.replace("NAP_S", str(nap_s)))
    with server(directory, log, partitions=partitions) as one:
        later_ms = round(time.time() * 1000) + round(nap_s * 1000)
        kinds = ("nap", "listen", "recall", "approve", "parent", "flaky")
        for kind in kinds:
            one.send(*events(kind))
        one.send(*events("later", ts=later_ms))
        one.send({"name": "once", "id": "same", "data": {"n": 0}})
        one.send(*events("early"))
        until(lambda: _is_under_way(log), "all is under way")
        one.send(*[{"name": "slow", "data": {"n": n}} for n in range(15)])
        until(lambda: waiting(log)["m-slow"] >= 5, "bodies are at work")


def _is_under_way(log: str) -> bool:
    found = journal(log)
    functions = {r.run: r.function for r in found if isinstance(r, records.RunScheduled)}
    steps = Counter(functions[r.run] for r in found if isinstance(r, records.StepWaiting | records.StepErrored))
    once = any(isinstance(r, records.RunCompleted) for r in found)
    kinds = ("nap", "listen", "recall", "approve", "parent", "child", "flaky")
    return once and all(steps[f"m-{kind}"] >= EACH for kind in kinds)


def finish(directory: Path, log: str, *, partitions: int = 0, duplicates: int = 1) -> list[records.Record]:
    """Let everything that a log has in flight come to its end, and hold it against what it should have come to."""
    (directory / "mended").touch()
    (directory / "free").touch()
    with server(directory, log, partitions=partitions) as one:
        one.send({"name": "once", "id": "same", "data": {"n": 1}})
        one.send(*events("word"))
        for n in range(EACH):
            one.signal(f"ok/{n}")
        until(lambda: audited(log).open == 0 and audited(log).completed >= 8 * EACH + 16, f"{audited(log)}")
        one.stop()
    report = audited(log)
    assert report.is_clean, report
    assert (report.open, report.failed, report.completed) == (0, 0, 8 * EACH + 16)
    assert report.skipped == {"duplicate": duplicates}
    found = journal(log)
    functions = {r.run: r.function for r in found if isinstance(r, records.RunScheduled)}
    outputs: dict[str, list[Any]] = {}
    for r in found:
        if isinstance(r, records.RunCompleted):
            outputs.setdefault(functions[r.run], []).append(json.loads(bytes(r.output)))
    numbers = list(range(EACH))
    for kind in ("listen", "recall", "child", "parent"):
        assert sorted(outputs[f"m-{kind}"]) == numbers, kind
    assert outputs["m-approve"] == ["yes"] * EACH
    assert [f"nap/{n}/after" for n in numbers] == sorted(outputs["m-nap"])
    assert {r.function_version for r in found if isinstance(r, records.RunScheduled)} == {1}
    bodies = Counter((directory / "bodies").read_text().split())
    for n in numbers:  # none was in flight when it was killed
        for body in (f"nap/{n}/before", f"nap/{n}/after", f"listen/{n}/before", f"flaky/{n}", f"later/{n}"):
            assert bodies[body] == 1, body
    assert bodies["once/0"] == 1
    assert not bodies["once/1"]
    return found


@pytest.mark.spec("FAULT-C7")
def test_a_file_goes_to_kafka_to_other_partitions_and_back(
    kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:  # fmt: skip
    first, last = f"sqlite:{tmp_path / 'first.db'}", f"sqlite:{tmp_path / 'last.db'}"
    three, five = (f"kafka://{kafka.bootstrap}/{kafka_prefix}-{n}" for n in (3, 5))
    in_flight(tmp_path, first, nap_s=25)
    before = audited(first)
    Migration(first, three, partitions=3).start()
    with server(tmp_path, three, partitions=3) as one:
        one.kill()  # in the middle of what it has taken up
    Migration(three, five, partitions=5).start()
    with server(tmp_path, five, partitions=5) as one:
        one.stop()
    with server(tmp_path, five, partitions=5, role="api") as one:  # takes events that nobody routes there
        one.send(*events("word"), {"name": "once", "id": "same", "data": {"n": 2}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("steplog.migrate.cluster.EMPTY_S", 1.0)
            result = Migration(five, last, partitions=0).start()
        assert turns_away(one, events("word"))
    assert result.counts.unrouted == EACH + 1
    assert result.counts.runs >= before.open - EACH
    for log in (first, three, five):
        with pytest.raises(LogMoved, match="was moved to"):
            Migration(log, f"sqlite:{tmp_path / 'other.db'}", partitions=0).start()
    finish(tmp_path, last, duplicates=2)


def test_runs_finish_on_kafka(kafka: Cluster, kafka_prefix: str, tmp_path: Path) -> None:
    source, target = f"sqlite:{tmp_path / 'first.db'}", f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    in_flight(tmp_path, source, nap_s=8)
    Migration(source, target, partitions=4).start()
    finish(tmp_path, target, partitions=4)


# --- whoever moves it is killed


KILLED = """
import os, signal, sys
from steplog.migrate.migration import Migration

source, target, partitions, verb, at = sys.argv[1:]
left = int(at) if at.isdigit() else None


def tell(what, counts):
    global left
    left = None if left is None else left - 1
    if left == -1 or what == at:
        os.kill(os.getpid(), signal.SIGKILL)


getattr(Migration(source, target, partitions=int(partitions), tell=tell), verb)()
"""


def killed(source: str, target: str, partitions: int, at: int | str, verb: str = "start") -> bool:
    """Move a log in a process that is killed after so many durable steps, or one; returns whether it came that far."""
    command = [sys.executable, "-c", KILLED, source, target, str(partitions), verb, str(at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON_S)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def starts(log: str) -> bool:
    """Whether an engine would start on a log that is there."""
    if log.startswith("sqlite:"):
        path = Path(log.removeprefix("sqlite:"))
        if not path.exists():
            return False
        try:
            SqliteLog(path).close()
        except LogMoved:
            return False
        return True
    topics = Topics(KafkaAddress.parse(log))
    return bool(topics.partitions) and topics.move() is None


def contents(log: str) -> tuple[Counter[bytes], Counter[str], int]:
    """The keys of a log's state, what its journal says, and how many events it has."""
    found: Counter[bytes] = Counter()
    if log.startswith("sqlite:"):
        for (key,) in sqlite3.connect(log.removeprefix("sqlite:")).execute("SELECT key FROM state"):
            found[key] += 1
    else:
        topics = Topics(KafkaAddress.parse(log))
        for partition in range(topics.partitions):
            last = {record.key: record.value for record in topics.records(STATE, partition)}
            last.update(replayed(topics, partition).changes())
            found.update([key for key, value in last.items() if value is not None])
    owned = Counter({key: n for key, n in found.items() if key[0] not in (keys.NODE, keys.FUNCTION, keys.PATH)})
    source = open_source(log)
    try:
        turns = [turn for portion in portions(source, Position()) for turn in portion.turns]
    finally:
        source.close()
    told = Counter(f"{r.run}/{r.seq}" for turn in turns for r in turn.records if not isinstance(r, records.EventRouted))
    return owned, told, sum(len(turn.events) for turn in turns)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with runs of every kind in flight, whose engine was killed."""
    directory = tmp_path_factory.mktemp("stopped")
    in_flight(directory, f"sqlite:{directory / 'log.db'}", nap_s=3_000)
    with contextlib.closing(SqliteLog(directory / "log.db")) as log:
        asyncio.run(log.load())  # so that all of its state is in the table
    return directory / "log.db"


def copied(path: Path, directory: Path) -> str:
    for suffix in ("", "-wal", "-shm", ".head"):
        if (found := path.with_name(path.name + suffix)).exists():
            shutil.copy(found, directory / found.name)
    return f"sqlite:{directory / path.name}"


class Way:
    """From one log that has everything to places of the other kind."""

    def __init__(self, kind: str, stopped: Path, kafka: Cluster, prefix: str, directory: Path) -> None:
        self._kind, self._directory, self._prefix = kind, directory, f"kafka://{kafka.bootstrap}/{prefix}"
        self.source, self.partitions = copied(stopped, directory), 0 if kind == "kafka" else 2
        if kind == "kafka":
            file, self.source = self.source, f"{self._prefix}-source"
            Migration(file, self.source, partitions=2).start()

    def target(self, name: object) -> str:
        return f"sqlite:{self._directory / f'to-{name}.db'}" if self._kind == "kafka" else f"{self._prefix}-{name}"


@pytest.fixture(params=["sqlite", "kafka"])
def way(
    request: pytest.FixtureRequest, stopped: Path, kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> Way:  # fmt: skip
    return Way(request.param, stopped, kafka, kafka_prefix, tmp_path)


POINTS = 9  # durable steps of a migration before its target has everything
ABORTED = 2  # of them: who is killed after each goes on, which says the same of the rest


@pytest.mark.spec("FAULT-C7")
def test_a_migration_goes_on_from_where_it_was_killed(way: Way, stopped: Path) -> None:
    """To Kafka, and from there to a file: after each durable step, one log has the runs at most."""
    target, at = way.target("all"), 0
    while killed(way.source, target, way.partitions, at, "resume" if at else "start"):
        assert not starts(way.source)
        assert not starts(target)
        with pytest.raises(LogMoved):
            Migration(way.source, target, partitions=way.partitions).start()
        at += 1
    assert at > POINTS
    assert not starts(way.source)
    assert starts(target)
    assert contents(target) == contents(f"sqlite:{stopped}")


@pytest.mark.spec("FAULT-C7")
def test_a_migration_that_was_killed_is_taken_back_unless_the_target_has_everything(way: Way, stopped: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    expected = contents(f"sqlite:{stopped}")
    for at in random.Random(seed).sample(range(POINTS), ABORTED):
        target = way.target(at)
        assert killed(way.source, target, way.partitions, at)
        Migration(way.source, target, partitions=way.partitions).abort()
        assert starts(way.source)
        assert not starts(target)
        assert contents(way.source) == expected
    target = way.target("over")
    assert killed(way.source, target, way.partitions, "over")
    with pytest.raises(MigrationRefused, match="has everything"):
        Migration(way.source, target, partitions=way.partitions).abort()
    assert killed(way.source, target, way.partitions, "complete", "resume")
    Migration(way.source, target, partitions=way.partitions).resume()  # there is nothing left to do
    assert not starts(way.source)
    assert starts(target)
    assert contents(target) == expected


MANY = 1_000  # runs in flight: most of them wait for an event, some for another run
CHILDREN = 150
LEAST_KILLS = 2  # a way
MOVING = """
import sys
import steplog.migrate.file, steplog.migrate.topics
from steplog.migrate.migration import Migration

source, target, partitions, verb = sys.argv[1:]
moving = Migration(source, target, partitions=int(partitions))
print("ready", flush=True)
getattr(moving, verb)()
"""


def moved(source: str, target: str, partitions: int, chance: random.Random) -> int:
    """Move a log in processes that are killed at any moment, the later the more there were; returns how many were."""
    kills, longest_s = 0, 0.2
    while True:
        verb = "start" if starts(source) else "resume"
        command = [sys.executable, "-c", MOVING, source, target, str(partitions), verb]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as moving:
            assert moving.stdout is not None
            assert moving.stdout.readline() == b"ready\n"
            try:
                assert moving.wait(chance.uniform(longest_s / 2, longest_s)) == 0, moving.communicate()
            except subprocess.TimeoutExpired:
                moving.kill()
                kills += 1
                longest_s *= 1.6
            else:
                return kills
        assert not (starts(source) and starts(target))


@pytest.mark.spec("FAULT-C7")
def test_a_thousand_runs_move_there_and_back_while_whoever_moves_them_is_killed(
    kafka: Cluster, kafka_prefix: str, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    first, last = f"sqlite:{tmp_path / 'first.db'}", f"sqlite:{tmp_path / 'last.db'}"
    there = f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    waiters = MANY - CHILDREN  # of the event: the callers wait for those that they call
    (tmp_path / "app.py").write_text(APP.replace("NAP_S", "3000"))
    with server(tmp_path, first) as one:
        one.send(*[{"name": "parent" if n < CHILDREN else "listen", "data": {"n": n}} for n in range(waiters)])
        until(lambda: waits(first) == MANY, "all wait")
    with contextlib.closing(SqliteLog(tmp_path / "first.db")) as log:
        asyncio.run(log.load())  # so that all of its state is in the table
    expected = contents(first)
    for source, target, partitions in ((first, there, 4), (there, last, 0)):
        assert moved(source, target, partitions, chance) >= LEAST_KILLS
        assert not starts(source)
        assert starts(target)
        assert contents(target) == expected
    with server(tmp_path, last) as one:
        one.send(*[{"name": "word", "data": {"n": n}} for n in range(waiters)])
        until(lambda: audited(last).completed == MANY, "all have ended")
        one.stop()
    report = audited(last)
    assert report.is_clean, report
    assert (report.open, report.failed, report.completed) == (0, 0, MANY)
    outputs = Counter(json.loads(bytes(r.output)) for r in journal(last) if isinstance(r, records.RunCompleted))
    assert outputs == {n: 2 if n < CHILDREN else 1 for n in range(waiters)}
    bodies = Counter((tmp_path / "bodies").read_text().split())
    assert bodies == {f"listen/{n}/before": 1 for n in range(CHILDREN, waiters)}


def waits(log: str) -> int:
    """How many steps wait."""
    return sum(isinstance(record, records.StepWaiting) for record in journal(log))


@pytest.mark.spec("FAULT-C7")
def test_an_engine_refuses_a_log_that_is_moved_and_a_migration_one_that_runs(
    stopped: Path, kafka: Cluster, kafka_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words that say what to do."""
    (tmp_path / "app.py").write_text(APP.replace("NAP_S", "3000"))
    monkeypatch.setattr("steplog.migrate.cluster.EMPTY_S", 0.5)
    source, target = copied(stopped, tmp_path), f"kafka://{kafka.bootstrap}/{kafka_prefix}"
    assert killed(source, target, 2, 4)
    assert f"--from {source} --to {target} --resume" in refused(tmp_path, source)
    assert "is not whole yet" in refused(tmp_path, target)
    Migration(source, target, partitions=2).resume()
    assert f"start there: --log {target}" in refused(tmp_path, source)
    elsewhere = f"sqlite:{tmp_path / 'elsewhere.db'}"
    with server(tmp_path, target, partitions=2):
        until(lambda: bool(Topics(KafkaAddress.parse(target)).members()), "it takes part")
        with pytest.raises(MigrationRefused, match="stop every engine"):
            Migration(target, elsewhere, partitions=0).start()
    assert starts(target)


def test_what_makes_no_sense_changes_nothing(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    source, target = copied(stopped, tmp_path), copied(stopped, tmp_path / "b")
    with pytest.raises(MigrationRefused, match="is there already"):
        Migration(source, target, partitions=0).start()
    with pytest.raises(MigrationRefused, match="where the log is already"):
        Migration(source, source, partitions=0)
    for verb in ("resume", "abort"):
        with pytest.raises(MigrationRefused, match="is not being moved"):
            getattr(Migration(source, f"sqlite:{tmp_path / 'c.db'}", partitions=0), verb)()
    assert starts(source)
    assert starts(target)


def refused(directory: Path, log: str) -> str:
    """What an engine says that does not start on a log."""
    done = subprocess.run(
        [sys.executable, "-m", "steplog", "start", "app.py", "--log", log, "--port", "0", "--set",
         "kafka.partitions=2"],
        cwd=directory, env={**os.environ, "STEPLOG_EVENT_KEY": "e", "STEPLOG_SIGNING_KEY": "s"}, capture_output=True,
        text=True, timeout=SOON_S,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "error[log_moved]" in done.stderr
    return done.stderr
