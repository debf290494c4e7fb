"""What ``steplog dev`` prints: start-up, lines of runs, errors, keys; and what it does not print under load."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from steplog.cli.dev.transcript import LINES_PER_S, Transcript
from steplog.cli.lines import KnownRun, Level, Lines
from steplog.cli.output import clock
from steplog.engine import records
from steplog.engine.functions import EventTrigger, FunctionSpec
from steplog.engine.operations import ErrorInfo
from steplog.paths import file_url
from steplog.server.sockets import bind

from .command_line import clean_environment, steplog, steplog_process
from .dev_server import WAIT_S, DevServer, no_room, until
from .serving import served

SHOP = """
from steplog import App, Context, NonRetriableError

app = App("shop")


async def charge(order: str) -> str:
    return f"ch_{order}"


async def pack(order: str) -> None:
    raise OSError("printer is off")


async def refuse() -> None:
    raise NonRetriableError("closed")


@app.function("ship-order", trigger="shop/order.placed", retries=1)
async def ship_order(ctx: Context) -> None:
    await ctx.step.run("charge", charge, ctx.event.data["id"])
    await ctx.step.sleep("cool-off", 20)
    await ctx.step.run("pack", pack, ctx.event.data["id"])


@app.function("check-stock", trigger="shop/order.checked")
async def check_stock(ctx: Context) -> int:
    return 2
"""
ID = r"[0-9A-Z]{26}"
AT = r"\d\d:\d\d:\d\d"


def fits(lines: list[str], patterns: list[str]) -> None:
    """Each line fits its pattern; in those ``<at>``, ``<id>`` and ``<took>`` stand for what differs."""
    for line, pattern in zip(lines, patterns, strict=True):
        wanted = re.escape(pattern).replace("<at>", AT).replace("<id>", ID).replace("<took>", r"[\d.]+ m?s")
        assert re.fullmatch(wanted, line), f"{line!r} does not fit {pattern!r}"


@pytest.mark.spec("ARCH-09")
def test_the_start_and_a_small_run(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py", "--retry-interval", "1") as dev:
        fits(
            dev.lines[:5],
            [
                "steplog 0.1.0 dev · ready in <took>",
                f"  events  {dev.url}/e/dev  (any key does in dev)",
                "  app     shop, 2 functions from orders.py, watched",
                "  log     .steplog/dev.db",
                "  Ctrl-C  stops; what is open goes on at the next start",
            ],
        )
        dev.send("shop/order.placed", {"id": "o1"})
        dev.said("run +ship-order.*failed after")
        error = "OSError: printer is off (orders.py:12)"
        fits(
            dev.lines[5:13],
            [
                "<at>  event  shop/order.placed      <id>",
                "<at>  run    ship-order             <id>  started",
                "<at>   step  charge                 <id>  <took>",
                "<at>   wait  cool-off               <id>  for 20 ms",
                "<at>   wait  cool-off               <id>  over",
                f"<at>   step  pack                   <id>  failed, attempt 1 of 2: {error}; again in 1 s",
                f"<at>   step  pack                   <id>  failed for good, attempt 2: {error}",
                f"<at>  run    ship-order             <id>  failed after <took>: {error}",
            ],
        )
        assert dev.interrupt() == 0
        assert dev.lines[-1] == "stopped"


@pytest.mark.parametrize("reload", [(), ("--no-reload",)])
def test_payloads_are_shown_where_they_are_asked_for(reload: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py", "--payloads", *reload) as dev:
        dev.send("shop/order.checked", {"id": "o1"})
        dev.said(r'event  shop/order.checked +\w+  → {"id": ?"o1"}$')
        dev.said(r"run    check-stock +\w+  completed in [\d.]+ m?s  → 2$")
        assert dev.interrupt() == 0


def test_without_functions_events_are_taken_and_open_runs_go_on_later(tmp_path: Path) -> None:
    with DevServer(tmp_path) as dev:
        dev.said("app     none: events are accepted and kept; name a file: steplog dev orders.py")
        dev.send("shop/order.placed", {"id": "o1"})
        dev.said(r"event  shop/order.placed +\w+  starts nothing$")
        assert dev.interrupt() == 0
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py") as dev:
        dev.send("shop/order.placed", {"id": "o2"})
        dev.said(r"again in")
        assert dev.interrupt() == 0
    with DevServer(tmp_path, "orders.py", "--retry-interval", "0") as dev:
        dev.said(r"log     .steplog/dev.db, 1 open run goes on \(--fresh: start empty\)$")
        assert dev.interrupt() == 0
    with DevServer(tmp_path, "orders.py", "--fresh") as dev:
        dev.said(r"log     .steplog/dev.db$")
        assert dev.get("/v1/runs") == []
        locked = steplog_process("dev", "orders.py", "--fresh", "--port", "0", cwd=tmp_path)
        assert (locked.code, locked.stderr.partition(":")[0]) == (3, "error[log_locked]")
        assert dev.interrupt() == 0
    assert (tmp_path / ".steplog/dev.db.before").exists()
    assert (tmp_path / ".steplog/dev.db.before.head").exists()


def test_who_has_the_port_is_named_and_another_one_proposed(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py") as dev, socket.socket() as neighbour:
        since = dev.get_json("/health")["since"]
        port = int(dev.url.rpartition(":")[2])
        with contextlib.suppress(OSError):  # taken already, which is as good
            neighbour.bind(("127.0.0.1", port + 2))
            neighbour.listen()
        taken = steplog("dev", "orders.py", "--port", str(port), cwd=tmp_path)
        assert taken.code == 2
        told, advice = taken.stderr.splitlines()
        who = f"another steplog dev (app shop, since {clock(since)[:5]})"
        assert told == f"error[port_in_use]: port {port} is taken by {who}"
        use = re.escape(f"  use it: {dev.url}        or take another: steplog dev orders.py --port ")
        proposed = re.fullmatch(rf"{use}(\d+)", advice)
        assert proposed is not None
        assert int(proposed[1]) > port + 2
        for sock in bind(int(proposed[1])):
            sock.close()


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (b"HTTP/1.0 404 Not Found\r\nServer: nginx\r\n\r\n", "another program, which says that it is nginx"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"status": 200, "message": "OK"}', "another program"),
        (b"220 mail.example ESMTP\r\n", "another program, which speaks no HTTP"),
        (None, "another program, which does not answer"),
    ],
)
def test_of_another_program_is_said_what_it_says_itself(answer: bytes | None, who: str, tmp_path: Path) -> None:
    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            if answer is not None:
                connection.recv(4096)
                connection.sendall(answer)
            else:
                connection.recv(4096)
                connection.recv(4096)  # until it has given up

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        taken = steplog("start", "orders.py", "--port", str(port), "--event-key", "k", "--signing-key", "51")
        thread.join()
    assert taken.code == 2
    told, advice = taken.stderr.splitlines()
    assert told == f"error[port_in_use]: port {port} is taken by {who}"
    assert re.fullmatch(r"  take another: steplog start orders\.py --port \d+", advice)


# --- outages


AWAY = "events get 503 with Retry-After, runs pause, nothing is lost; trying again"


def test_an_outage_of_the_log_is_told_while_it_lasts(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py") as dev:
        (engine,) = dev.processes("shells.child")
        with no_room(engine):
            refused = dev.post("/e/dev", {"name": "shop/order.checked"})
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            dev.said(rf"^{AT}  WARNING log unavailable: {AWAY}  \(reason: .*disk I/O error.*\)$")
            dev.said(rf"^{AT}  WARNING log unavailable for 5 s: {AWAY}  \(reason: ")
        dev.said(rf"^{AT}  INFO log available again after \d+ s: events are accepted, open runs go on$")
        assert dev.result(dev.send("shop/order.checked")) == 2
        assert dev.interrupt() == 0


# --- keys


class Screen:
    """A terminal with a command on it."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_A_TERMINAL, *arguments], cwd=directory,
            env=clean_environment() | {"NO_COLOR": "1", "TERM": "xterm"} | environment,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def shows(self, pattern: str, count: int = 1) -> str:
        """Wait until so many places of the text fit, and return the last."""

        def found() -> str | None:
            if select.select([self._ours], [], [], 0)[0]:
                with contextlib.suppress(OSError):  # it has ended
                    self.text += os.read(self._ours, 4096).decode()
            places = re.findall(pattern, self.text)
            return str(places[count - 1]) if len(places) >= count else None

        return str(until(found))

    def ends(self) -> None:
        """Wait until the command has ended, and take all that it has shown."""
        shown = b""
        with contextlib.suppress(OSError):  # nobody writes any more
            while part := os.read(self._ours, 4096):
                shown += part
        self.text += shown.decode()
        assert self.process.wait(WAIT_S) == 0

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)


_ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from steplog.cli import commands, run
sys.exit(run(commands, sys.argv[1:]))
"""


def test_keys_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    screen = Screen(tmp_path, "dev", "orders.py", "--port", "0", "--retry-interval", "600")
    try:
        screen.shows(r"keys    s send again · r retry now · l level · \? all · Ctrl-C stop")
        screen.press("s")
        screen.shows("no event was sent yet")
        port = int(screen.shows(r"events  http://127\.0\.0\.1:(\d+)/"))
        steplog("send", "shop/order.checked", '{"id": "o1"}', environment={"STEPLOG_URL": f"http://127.0.0.1:{port}"})
        screen.shows(r"event  shop/order.checked     …\w{5}\s")
        screen.shows(r"run    check-stock            …\w{5}  completed in")
        screen.press("s")
        screen.shows(r"shop/order.checked sent again: …\w{5}")
        screen.shows("completed in", 2)
        steplog("send", "shop/order.placed", '{"id": "o1"}', environment={"STEPLOG_URL": f"http://127.0.0.1:{port}"})
        error = r"OSError: printer is off \(orders.py:12\)"
        screen.shows(rf"step  pack +…\w{{5}}  failed, attempt 1 of 2: {error}; again in 10 min \(r: now\)")
        screen.press("r")
        screen.shows("what waits for its next attempt has it now")
        screen.shows(rf"step  pack                   …\w{{5}}  failed for good, attempt 2: {error}")
        screen.press("l?")
        screen.shows("shown from now on: runs")
        screen.shows("s send the last event again · r try again now")
        screen.press("\x03")
        screen.shows("stopped")
        assert screen.process.wait(WAIT_S) == 0
    finally:
        screen.close()


def test_what_was_sent_and_became_of_it_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(SHOP)
    with DevServer(tmp_path, "orders.py", "--retry-interval", "600") as dev:
        sent = seen(tmp_path, dev.url, "send", "shop/order.placed", '{"id": "o1"}', "--wait", "600ms")
        assert re.search(r"^…\w{5} accepted: 1 run$", sent, re.MULTILINE)
        assert "\rship-order …" in sent, "what it waits for"
        run_id = re.findall(r"^.*\r  ship-order  …(\w{5})  retrying pack in 10 min$", sent, re.MULTILINE)[0]
        shown = seen(tmp_path, dev.url, "runs", "show", run_id).splitlines()
        error = "OSError: printer is off (orders.py:12)"
        assert shown[0] == f"ship-order …{run_id}  retrying pack in 10 min"
        address = rf"{dev.url}/v1/runs/\w{{21}}{run_id}"
        assert re.fullmatch(rf"  app shop · function version 1 · event …\w{{5}} · {address}", shown[1])
        assert [row.split()[0] for row in shown[2:]] == ["queued", "charge", "cool-off", "pack"]
        assert re.fullmatch(r'  charge    ▕ *█+ +[\d.]+ m?s  "ch_o1"', shown[3])
        assert re.search(rf"✗░*▸ .*  again at {AT}   attempt 1 of 2: {re.escape(error)}$", shown[5])
        assert dev.interrupt() == 0


def seen(directory: Path, url: str, *arguments: str) -> str:
    """What a command shows on a terminal until it ends well."""
    screen = Screen(directory, *arguments, STEPLOG_URL=url)
    try:
        screen.ends()
        return screen.text.replace("\r\n", "\n")
    finally:
        screen.close()


# --- lines


def told(record: records.Record, level: Level = "all") -> list[str]:
    lines = Lines(lambda _: KnownRun("old", 0))
    lines.level = level
    return [click.unstyle(line).partition("  ")[2] for line in lines.of(record)]


RUN = "01JD4QZ3M4T5C8PGA1X2N8F2KQ"
CHILD = "01JD4QZ3M4T5C8PGA1X2N00000"
STEP: dict[str, Any] = {"at": 1_000, "env": "default", "run": RUN, "seq": 2, "step": "paid", "id": "x"}
HEAD: dict[str, Any] = {"at": 1_000, "env": "default", "run": RUN, "seq": 2}
OOPS = ErrorInfo(name="OSError", message="oops\nmore")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            records.StepWaiting(**STEP, op="WaitForEvent", until=259_201_000, events=("a/b", "c/d")),
            f" wait  paid                   {RUN}  for a/b or c/d, 3 days left",
        ),
        (
            records.StepWaiting(**STEP, op="WaitForEvent", until=2_000, events=("a/b", "c/d"), all=True),
            f" wait  paid                   {RUN}  for a/b and c/d, 1 s left",
        ),
        (
            records.StepWaiting(**STEP, op="WaitForSignal", until=2_000, signal="approve"),
            f" wait  paid                   {RUN}  for the signal approve, 1 s left",
        ),
        (
            records.StepWaiting(**STEP, op="InvokeFunction", until=2_000, function="shop-x", child=CHILD),
            f" wait  paid                   {RUN}  for shop-x {CHILD}, 1 s left",
        ),
        (
            records.StepLate(**STEP, op="StepRun", attempt=0),
            f" step  paid                   {RUN}  came too late: its result was recorded before",
        ),
        (
            records.RunErrored(**HEAD, attempt=0, error=OOPS, retry_at=16_000, max_attempts=5),
            f"run    old                    {RUN}  its own code failed, attempt 1 of 5: OSError: oops; again in 15 s",
        ),
        (
            records.RunScheduled(**HEAD, function="shop-x", app="shop", events=(), due=61_000),
            f"run    x                      {RUN}  starts in 1 min",
        ),
        (
            records.EventRouted(at=1, env="default", event=CHILD, name="a/b", duplicate=True),
            f"event  a/b                    {CHILD}  its id was sent before",
        ),
        (
            records.EventRouted(at=1, env="default", event=CHILD, name="a/b", resumed=(records.StepRef(RUN, "paid"),)),
            f"event  a/b                    {CHILD}  ends 1 wait",
        ),
        (
            records.RunStarted(**HEAD, generation=2, reason="lost"),
            f"run    old                    {RUN}  begins again: its process died",
        ),
    ],
)
def test_a_record_in_words(record: records.Record, said: str) -> None:
    assert told(record) == [said]


def test_levels_leave_out_what_is_usual() -> None:
    step = records.StepCompleted(**STEP, op="StepRun", attempt=0, started=0, ended=1, output=msgspec.Raw(b"1"))
    end = records.RunCompleted(**HEAD, output=msgspec.Raw(b"1"))
    failure = records.RunFailed(**HEAD, error=OOPS)
    shown = {level: [bool(told(r, level)) for r in (step, end, failure)] for level in ("all", "runs", "problems")}
    assert shown == {"all": [True, True, True], "runs": [False, True, True], "problems": [False, False, True]}
    assert told(records.RunStarted(**HEAD, generation=2, reason="wake")) == []


def test_dev_tells_what_happens_in_a_log_on_kafka_and_reloads_there(
    kafka: str, kafka_prefix: str, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "orders.py").write_text(SHOP)
    log = f"kafka://{kafka}/{kafka_prefix}"
    with DevServer(tmp_path, "orders.py", "--log", log, "--set", "kafka.partitions=2", "--payloads") as dev:
        assert f"  log     {log}" in dev.lines
        dev.send("shop/order.checked", {"id": "o1"})
        dev.said("run +check-stock.*completed in .* → 2")
        (tmp_path / "orders.py").write_text(SHOP.replace("return 2", "return 3"))
        dev.said("reloaded")
        dev.send("shop/order.checked", {"id": "o2"})
        dev.said("run +check-stock.*completed in .* → 3")


def test_a_log_on_kafka_is_not_put_aside(tmp_path: Path) -> None:
    refused = steplog("dev", "--fresh", "--log", "kafka://127.0.0.1:1/shop", cwd=tmp_path)
    assert refused.code == 2
    assert "a log on Kafka is not put aside: take another prefix" in refused.stderr


def test_what_is_too_much_to_show_is_counted(tmp_path: Path) -> None:
    functions = (FunctionSpec(id="shop-x", app="shop", triggers=(EventTrigger("a/b"),)),)
    said, now_s = list[str](), 0.0
    with served(functions=functions, log_path=tmp_path / "log.db") as (server, _):
        transcript = Transcript(
            tmp_path / "log.db",
            file_url(tmp_path / "log.history.db"),
            lambda line: said.append(click.unstyle(line)),
            position=0,
            clock_s=lambda: now_s,
        )
        server.send({"name": "a/b", "data": {}})
        transcript.poll()
        assert [line.split()[1] for line in said] == ["event", "run"]
        for _ in range(4):
            server.send([{"name": "a/b", "data": {}}] * LINES_PER_S)
        transcript.poll()
        server.send({"name": "a/b", "data": {}})
        transcript.poll()
        assert len(said) == 2
        now_s = 1.0
        transcript.poll()
        assert [line.partition("…")[2].strip() for line in said[2:]] == ["201 events, 201 runs; too many to show each"]
        server.send({"name": "a/b", "data": {}})
        transcript.poll()
        assert [line.split()[1] for line in said[3:]] == ["event", "run"]
        transcript.close()
