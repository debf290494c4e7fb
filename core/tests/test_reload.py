"""``steplog dev``, with real processes: saves, broken code, crashes and signals while runs are open."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from .dev_server import DevServer, until

HEAD = """
import asyncio, time
from pathlib import Path
from steplog import App, Context, current_step

app = App("shop")


async def value(of: str) -> str:
    return of
"""
VERSION = (
    HEAD
    + """

@app.function("version", trigger="shop/version")
async def version(ctx: Context) -> str:
    return await ctx.step.run("value", value, "{}")
"""
)
NAP = (
    VERSION
    + """

async def may_go_on() -> bool:
    return Path("go-on").exists()


@app.function("nap", trigger="shop/nap")
async def nap(ctx: Context) -> str:
    first = await ctx.step.run("first", value, "{}")
    while not await ctx.step.run("gate", may_go_on):
        await ctx.step.sleep("nap", 100)
    return first + await ctx.step.run("second", value, "{}")
"""
)
BODY = (
    VERSION
    + """

async def body() -> str:
    step = current_step()
    with Path("bodies").open("a") as bodies:
        bodies.write(f"{{step.attempt}} {{step.key}}\\n")
    {}
    return "done"


@app.function("body", trigger="shop/body", retries=0)
async def with_body(ctx: Context) -> str:
    return await ctx.step.run("body", body)
"""
)
HANG = "await asyncio.sleep(600)"
BLOCK = "time.sleep(600)"


def bodies(directory: Path) -> list[str]:
    path = directory / "bodies"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.spec("DEV-01", "DEV-08")
def test_events_sent_while_code_is_replaced_are_accepted_and_run_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(VERSION.format("v0"))
    with DevServer(tmp_path, "app.py") as dev:
        sent, problems, over = list[str](), list[BaseException](), threading.Event()

        def sender() -> None:
            while not over.is_set():
                try:
                    sent.append(dev.send("shop/version"))
                except (AssertionError, OSError) as error:
                    problems.append(error)

        senders = [threading.Thread(target=sender) for _ in range(2)]
        for thread in senders:
            thread.start()
        for number in range(1, 4):
            dev.write(VERSION.format(f"v{number}"))
            dev.said(r"reloaded: app\.py: 1 function, in", number)
        over.set()
        for thread in senders:
            thread.join()
        assert problems == []
        assert dev.result(dev.send("shop/version")) == "v3"
        until(lambda: len(dev.records("run.completed")) == len(sent) + 1)
        started = [run for record in dev.records("event.routed") for run in record["runs"]]
        assert len(started) == len(sent) + 1
        assert {record["reason"] for record in dev.records("run.started")} <= {"start", "handed-back"}
        assert dev.interrupt() == 0


def test_a_run_that_sleeps_goes_on_with_the_new_code(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(NAP.format("v1", "old", "old"))
    with DevServer(tmp_path, "app.py") as dev:
        event = dev.send("shop/nap")
        dev.said(r" wait  nap ")
        dev.write(NAP.format("v2", "new", "new"))
        dev.said(r"reloaded")
        dev.said(r" run  +nap .*goes on with the code of now")
        (tmp_path / "go-on").touch()
        assert dev.result(event) == "oldnew"


@pytest.mark.parametrize("wait", [HANG, BLOCK])
def test_a_body_that_is_cut_off_begins_again_and_uses_up_no_attempt(wait: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BODY.format("v1", wait))
    with DevServer(tmp_path, "app.py") as dev:
        event = dev.send("shop/body")
        until(lambda: bodies(tmp_path))
        dev.write(BODY.format("v2", ""))
        assert dev.result(event) == "done"
        first, second = bodies(tmp_path)
        assert first == second
        assert first.startswith("0 ")
        assert [record["reason"] for record in dev.records("run.started")] == ["handed-back"]


def test_broken_code_keeps_the_old_one_until_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(VERSION.format("v1"))
    with DevServer(tmp_path, "app.py") as dev:
        lines = VERSION.count("\n") + 1
        for broken, said in [
            ("async def charge(order: str\n", rf"app\.py:{lines}: SyntaxError: '\(' was never closed"),
            ("import gone_\n", rf"app\.py:{lines}: ModuleNotFoundError: No module named 'gone_'"),
            ("app.function(trigger='')(value)\n", rf"app\.py:{lines}: 1 problem in function shop-value"),
            ("raise ValueError('no bank')\n", rf"app\.py:{lines}: ValueError: no bank"),
            ("raise SystemExit(1)\n", rf"app\.py:{lines}: SystemExit: 1"),
            ("import os; os._exit(7)\n", "the process ended while the code was imported"),
        ]:
            dev.write(VERSION.format("v2") + broken)
            dev.said(rf"reload refused: {said}.*; the code saved at \d\d:\d\d:\d\d goes on$")
            assert dev.result(dev.send("shop/version")) == "v1"
        assert f"{lines:>14} │ async def charge(order: str" in dev.lines
        dev.write("X = 1\n", "gone_.py")  # nothing of the code that runs has changed
        dev.write(VERSION.format("v3") + "import gone_\n")
        dev.said(r"reloaded: .*app\.py")
        assert dev.result(dev.send("shop/version")) == "v3"


def test_of_two_quick_saves_the_newest_runs(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(VERSION.format("v1"))
    with DevServer(tmp_path, "app.py") as dev:
        slow, second_ns = "Path('imported').touch()\ntime.sleep(0.3)\n", 1_800_000_000_000_000_000
        dev.write(VERSION.format("v2") + slow, at_ns=second_ns)
        until((tmp_path / "imported").exists)
        for number in range(3, 6):  # for Python's own cache they are one file: size and second are the same
            dev.write(VERSION.format(f"v{number}") + slow, at_ns=second_ns + number)
        dev.said("reloaded")
        assert dev.result(dev.send("shop/version")) == "v5"


def test_a_file_that_is_deleted_and_written_anew_is_reloaded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(VERSION.format("v1"))
    with DevServer(tmp_path, "app.py") as dev:
        (tmp_path / "app.py").unlink()
        until(lambda: not (tmp_path / "app.py").exists())
        (tmp_path / "app.py").write_text(VERSION.format("v2"))
        dev.said("reloaded")
        assert dev.result(dev.send("shop/version")) == "v2"
        (tmp_path / "app.py").unlink()
        dev.said(r"reload refused: .*there is no such file; the code saved at")
        assert dev.result(dev.send("shop/version")) == "v2"
        (tmp_path / "app.py").write_text(VERSION.format("v3"))
        dev.said("reloaded", 2)
        assert dev.result(dev.send("shop/version")) == "v3"


def test_a_module_that_the_file_imports_is_watched_and_one_that_is_missing_awaited(tmp_path: Path) -> None:
    imports = VERSION.replace('"{}"', "TEXT") + "\nfrom texts import TEXT\n"
    (tmp_path / "app.py").write_text(imports)
    (tmp_path / "texts.py").write_text("TEXT = 'v1'\n")
    with DevServer(tmp_path, "app.py") as dev:
        dev.write("TEXT = 'v2'\n", "texts.py")
        dev.said(r"reloaded: texts\.py")
        assert dev.result(dev.send("shop/version")) == "v2"
        dev.write(imports + "import more\n")
        dev.said(r"reload refused: .*No module named 'more'")
        dev.write("import texts\ntexts.TEXT = 'v3'\n", "more.py")
        dev.said("reloaded", 2)
        dev.write(imports + "from more import texts\nTEXT = texts.TEXT\n")
        dev.said("reloaded", 3)
        assert dev.result(dev.send("shop/version")) == "v3"


@pytest.mark.parametrize(("module", "what"), [("cli.dev.functions", "functions"), ("shells.child", "engine")])
def test_a_process_that_is_killed_comes_back_and_what_it_did_is_lost(module: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BODY.format("v1", "if len(Path('bodies').read_text().split()) < 3: " + HANG))
    with DevServer(tmp_path, "app.py") as dev:
        event = dev.send("shop/body")
        until(lambda: bodies(tmp_path))
        (pid,) = dev.processes(module)
        os.kill(pid, signal.SIGKILL)
        dev.said(r"restart: the (process of the|engine's process).*; it is started again")
        dev.said(r"restarted: open runs go on")
        assert dev.result(event) == "done"
        first, second = bodies(tmp_path)
        assert first == second
        assert [record["reason"] for record in dev.records("run.started")] == ["lost"]
        assert dev.interrupt() == 0


def test_functions_that_die_at_once_are_started_later_and_later(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BODY.format("v1", "import os; os._exit(3)"))
    with DevServer(tmp_path, "app.py") as dev:
        event = dev.send("shop/body")
        dev.said(r"restart: the process of the functions ended with 3; it is started again")
        dev.said(r"restart: the process of the functions ended with 3; again in 0\.5 s")
        dev.write(BODY.format("v2", ""))
        assert dev.result(event) == "done"


def is_free(url: str) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_parent_during_a_reload_is_the_end_of_all(sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BODY.format("v1", HANG))
    with DevServer(tmp_path, "app.py") as dev:
        dev.send("shop/version")
        dev.said(r"version .*completed")
        dev.write(BODY.format("v2", HANG) + "Path('loading').touch()\ntime.sleep(2)\n")
        until((tmp_path / "loading").exists)
        dev.process.send_signal(sent)
        assert dev.process.wait(20) == (-sent if sent == signal.SIGKILL else 0)
        until(lambda: not dev.processes())
        assert is_free(dev.url)


def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BODY.format("v1", HANG))
    with DevServer(tmp_path, "app.py") as dev:
        dev.send("shop/body")
        until(lambda: bodies(tmp_path))
        dev.process.send_signal(signal.SIGINT)
        dev.said(r"stopping: 1 step still at work; again to stop at once")
        assert dev.interrupt() == 130
        until(lambda: not dev.processes())
        assert is_free(dev.url)
