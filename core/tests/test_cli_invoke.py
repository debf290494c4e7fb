"""Functions started and signals sent from the command line; and one run in the command's own process."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .command_line import clean_environment, steplog, steplog_process
from .place import Place, placed

FUNCTIONS = """
import asyncio
from datetime import timedelta

from steplog import App, Context, Event, current_step

app = App("test")


def flaky(order: str) -> str:
    if current_step().attempt == 0:
        raise OSError("printer is off")
    return f"printed {order}"


@app.function("print-order", trigger="test/print")
async def print_(ctx: Context) -> dict:
    printed = await ctx.step.run("pack", flaky, ctx.event.data["order"])
    await ctx.step.sleep("cool-off", timedelta(milliseconds=1))
    return {"printed": printed, "name": ctx.event.name}


@app.function("fail", trigger="test/fail", retries=0)
async def fail(ctx: Context) -> None:
    raise OSError("printer is off")


@app.function("sleep", trigger="test/sleep")
async def sleep(ctx: Context) -> None:
    await ctx.step.sleep("cool-off", timedelta(hours=1))


async def work() -> None:
    print("at work", flush=True)
    await asyncio.sleep(600)


@app.function("work", trigger="test/work")
async def work_(ctx: Context) -> None:
    await ctx.step.run("work", work)


@app.function("approve", trigger="test/approve")
async def approve(ctx: Context) -> object:
    heard = await ctx.step.wait_for_signal("manager", signal="approve/o1", timeout=60_000)
    return heard.data
"""
DEADLINE_S = 10.0
AGAIN_S = 2.0
FAILED = (
    "failed,",
    "attempt",
    "1",
    "of",
    "5:",
    "OSError:",
    "printer",
    "is",
    "off",
    "(functions.py:12);",
    "again",
    "in",
)
OUTPUT = {"printed": "printed o1", "name": "inngest/function.invoked"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("invoke"), FUNCTIONS) as place:
        yield place


# --- invoke


@pytest.mark.spec("FN-03", "SYS-05")
def test_a_function_is_started_and_its_output_printed(place: Place) -> None:
    done = steplog_process("invoke", "test-print-order", '{"order": "o1"}', "--url", place.url)
    assert (done.code, json.loads(done.stdout), done.stderr) == (0, OUTPUT, "")


def test_as_json_it_is_the_run_of_the_rest_api(place: Place) -> None:
    done = place.steplog("invoke", "test-print-order", "-", "--json", stdin='{"order": "o1"}')
    run = json.loads(done.stdout)["run"]
    assert (done.code, run["state"], run["output"]) == (0, "completed", OUTPUT)
    failed = place.steplog("invoke", "test-fail", "--json")
    assert (failed.code, json.loads(failed.stdout)["run"]["state"], failed.stderr) == (1, "failed", "")


def test_how_it_fails_is_an_error(place: Place) -> None:
    done = place.steplog("invoke", "test-fail")
    assert (done.code, done.stdout) == (1, "")
    assert re.fullmatch(r"error\[run_failed\]: test-fail failed, run \w{26}: OSError: printer is off\n", done.stderr)


def test_a_run_that_takes_too_long_goes_on(place: Place) -> None:
    done = place.steplog("invoke", "test-sleep", "--wait", "50ms")
    assert done.code == 1
    said = r"error\[invoke_timeout\]: test-sleep has not ended within 0\.05 s; its run goes on: \D+ (\w+)\n"
    found = re.fullmatch(said, done.stderr)
    assert found is not None
    assert "waiting" in place.steplog("runs", "show", found[1]).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["test-nobody"], 4, "error[not_found]: there is no function 'test-nobody'"),
        (["test-fail", "[1]"], 5, "error[event_invalid]: DATA is no JSON object"),
        (["test-fail", "{"], 5, "error[event_invalid]: DATA is not JSON"),
        (["test-fail", "@gone.json"], 2, "error[usage]: gone.json: "),
        (["test-fail", "--wait", "5"], 2, "error[usage]: "),
        (["test-fail", "--url", "http://127.0.0.1:9"], 3, "error[server_unreachable]: nothing answers at http://127.0"),
    ],
)
def test_what_cannot_be_started_is_told_by_its_exit_code(
    place: Place, arguments: list[str], code: int, said: str
) -> None:
    done = place.steplog("invoke", *arguments)
    assert (done.code, done.stdout) == (code, "")
    assert done.stderr.startswith(said)


def test_on_a_terminal_it_shows_what_is_waited_for(place: Place) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "steplog", "invoke", "test-sleep", "--wait", "1200ms", "--url", place.url],
        stderr=theirs, stdout=subprocess.PIPE, env=clean_environment() | {"COLUMNS": "70", "NO_COLOR": "1"},
    ) as invoking:  # fmt: skip
        os.close(theirs)
        assert invoking.wait(DEADLINE_S) == 1
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    line, _, error = shown.partition("error[")
    first, *moves, last = line.split("\r")
    assert (first, last) == ("", "")
    assert re.match(r"sleep \w{26}  waiting: cool-off, in 60 min", moves[0])
    assert all(len(move) < 70 for move in moves)
    assert moves[-1].isspace()
    assert error.startswith("invoke_timeout]: ")


def test_interrupted_it_says_that_the_run_goes_on(place: Place) -> None:
    waiting = {run["run_id"] for run in runs(place)}
    with subprocess.Popen(
        [sys.executable, "-m", "steplog", "invoke", "test-sleep", "--url", place.url],
        stderr=subprocess.PIPE, text=True, env=clean_environment(),
    ) as invoking:  # fmt: skip
        deadline_s = time.monotonic() + DEADLINE_S
        while not (begun := {run["run_id"] for run in runs(place)} - waiting):
            assert time.monotonic() < deadline_s
        while invoking.poll() is None:  # as people do; Python drops an interrupt that falls into a finalizer
            assert time.monotonic() < deadline_s
            invoking.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                invoking.wait(AGAIN_S)
        assert invoking.returncode == 130
        assert invoking.stderr is not None
        (said,) = invoking.stderr.read().splitlines()
    (run_id,) = begun
    assert said.startswith(f"run {run_id} goes on") or said.endswith("is accepted")


def runs(place: Place) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = json.loads(place.steplog("runs", "list", "--status", "waiting", "--json").stdout)[
        "runs"
    ]
    return listed


# --- signal


@pytest.mark.spec("REST-16")
def test_a_signal_goes_to_the_run_that_waits(place: Place) -> None:
    nobody = place.steplog("signal", "approve/o1")
    assert nobody.code == 4
    assert nobody.stderr.startswith("error[not_found]: no run waits for the signal 'approve/o1'")
    for arguments, output in ((['{"by": "ann"}'], {"by": "ann"}), (["--json"], None)):
        sent = place.send("test/approve")
        deadline_s = time.monotonic() + DEADLINE_S
        while (done := place.steplog("signal", "approve/o1", *arguments)).code == 4:
            assert time.monotonic() < deadline_s
        run_id = sent["runs"][0]["run_id"]
        assert done.code == 0
        assert json.loads(done.stdout) == {"run_id": run_id} if "--json" in arguments else run_id in done.stdout
        run = json.loads(place.steplog("runs", "show", run_id, "--json").stdout)["run"]
        while run["state"] != "completed":
            assert time.monotonic() < deadline_s
            run = json.loads(place.steplog("runs", "show", run_id, "--json").stdout)["run"]
        assert run["output"] == output


def test_a_server_that_is_not_there_is_said() -> None:
    done = steplog("signal", "x", environment={"STEPLOG_URL": "http://127.0.0.1:9"})
    assert done.code == 3
    assert done.stderr.startswith("error[server_unreachable]: ")


# --- run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


@pytest.mark.spec("FN-03")
@pytest.mark.parametrize("name", ["print-order", "test-print-order", "print_"])
def test_a_function_runs_once_in_this_process(directory: Path, name: str) -> None:
    done = steplog_process("run", f"functions.py::{name}", '{"order": "o1"}', "--retry-interval", "0", cwd=directory)
    assert (done.code, json.loads(done.stdout)) == (0, OUTPUT)
    told = [re.sub(r"^\d\d:\d\d:\d\d  | +\w{26}|[\d.]+ m?s", "", line).split() for line in done.stderr.splitlines()]
    assert told == [
        ["run", "print-order", "started"],
        ["step", "pack", *FAILED],
        ["step", "pack"],
        ["wait", "cool-off", "for"],
        ["wait", "cool-off", "over"],
        ["run", "print-order", "completed", "in"],
    ]
    assert sorted(path.name for path in directory.iterdir() if path.suffix != "") == ["functions.py"]


def test_a_run_that_fails_shows_where(directory: Path) -> None:
    done = steplog_process("run", "functions.py::fail", cwd=directory)
    assert (done.code, done.stdout) == (1, "")
    assert f'File "{directory / "functions.py"}", line 25, in fail' in done.stderr
    said = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"error\[run_failed\]: test-fail failed, run \w{26}: OSError: printer is off", said)
    as_json = steplog_process("run", "functions.py::fail", "--json", cwd=directory)
    shown = json.loads(as_json.stdout)
    assert (as_json.code, shown["state"], shown["error"]["name"]) == (1, "failed", "OSError")


def test_a_run_is_kept_in_a_log_and_goes_on_from_there(directory: Path) -> None:
    command = ["run", "functions.py::sleep", "--log", "sqlite:kept.db"]
    with subprocess.Popen(
        [sys.executable, "-m", "steplog", *command], cwd=directory, stderr=subprocess.PIPE, text=True,
        env=clean_environment(),
    ) as running:  # fmt: skip
        assert running.stderr is not None
        while " wait " not in (line := running.stderr.readline()):
            assert line
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 130
        assert running.stderr.read() == (
            "its run is in sqlite:kept.db and goes on with it: steplog dev functions.py --log sqlite:kept.db\n"
        )
    listed = steplog("runs", "list", "--log", "sqlite:kept.db", cwd=directory).stdout
    assert "test-sleep" in listed
    assert "waiting: cool-off" in listed


def test_ctrl_c_lets_bodies_end_and_twice_does_not(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "steplog", "run", "functions.py::work"], cwd=directory, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=clean_environment(),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "at work\n"
        assert "started" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline() == "stopping: 1 step still at work; again to stop at once\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 130


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["functions.py"], 2, "error[usage]: 'functions.py' names no function; write FILE::FUNCTION"),
        (["functions.py::"], 2, "error[usage]: "),
        (["functions.py::print-oder"], 4, "error[not_found]: functions.py has no function 'print-oder'; did you mean "),
        (["functions.py::zzz"], 4, "error[not_found]: functions.py has no function 'zzz'; there are test-print-order,"),
        (["gone.py::x"], 2, "error[config_invalid]: "),
        (["functions.py::fail", "5"], 5, "error[event_invalid]: DATA is no JSON object"),
        (["functions.py::fail", "--log", "kafka://x"], 2, "error[config_invalid]: "),
    ],
)
def test_what_cannot_be_run_is_told_by_its_exit_code(
    directory: Path, arguments: list[str], code: int, said: str
) -> None:
    done = steplog_process("run", *arguments, cwd=directory)
    assert (done.code, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
