"""Events sent and runs read from the command line, against a server as a user starts it; and without one."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from click.shell_completion import ShellComplete

from steplog.cli import commands
from steplog.server import answers

from .command_line import clean_environment, steplog, steplog_process
from .dev_server import until
from .history_log import RecordedPartition, open_projector
from .place import Place, placed

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"
FUNCTIONS = """
from datetime import timedelta

from steplog import App, Context, NonRetriableError, current_step

app = App("test", version="7")


def flaky() -> str:
    if current_step().attempt == 0:
        raise OSError("printer is off")
    return "printed"


def refuse() -> None:
    raise NonRetriableError("no such card")


@app.function("print", trigger="test/print")
async def print_(ctx: Context) -> str:
    return await ctx.step.run("pack", flaky)


@app.function("fail", trigger="test/fail")
async def fail(ctx: Context) -> None:
    await ctx.step.run("charge", refuse)


@app.function("pay", trigger="test/ordered")
async def pay(ctx: Context) -> str:
    paid = await ctx.step.wait_for_event("paid", event="test/paid", timeout=timedelta(hours=1))
    return paid.data["by"]


@app.function("wait", trigger="test/wait")
async def wait(ctx: Context) -> None:
    await ctx.step.sleep("cool-off", timedelta(hours=1))
"""
ORDER = '{"id": "o1", "total": 4200, "email": "ada@example.com"}'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("cli"), FUNCTIONS, str(EXAMPLE)) as place:
        yield place


@pytest.mark.spec("TEST-01")
def test_an_event_is_sent_and_its_run_awaited(place: Place) -> None:
    sent = steplog_process("send", "shop/order.placed", ORDER, "--wait", "10s", "--url", place.url)
    assert sent.code == 0
    first, second = sent.stdout.splitlines()
    assert re.fullmatch(r"[0-9A-Z]{26} accepted: 1 run", first)
    assert re.fullmatch(r'  ship-order  [0-9A-Z]{26}  completed in [\d.]+ m?s → {"receipt":"charge-o1".*}', second)


@pytest.mark.spec("DUR-15")
def test_a_run_is_shown_with_its_steps(place: Place) -> None:
    run_id = place.send("shop/order.placed", ORDER, "--wait", "10s")["runs"][0]["run_id"]
    shown = place.steplog("runs", "show", run_id[-8:])
    assert shown.code == 0
    head, _, queued, *steps, finalization = shown.stdout.splitlines()
    assert head.startswith(f"ship-order {run_id}  completed in ")
    assert queued.split()[0] == "queued"
    assert [(row.split()[0], row.split()[-1]) for row in steps] == [
        ("charge", '"charge-o1"'),
        ("pack", '"pack-o1"'),
        ("notify", '"notify-o1"'),
    ]
    assert all("█" in row for row in steps)
    assert steps[1].index("█") > steps[0].index("█")
    assert re.fullmatch(r"  finalization +▕ +█ +\d+ ms", finalization), "from the last step to the end"


def test_a_run_as_json_has_the_fields_of_the_rest_api(place: Place) -> None:
    sent = place.send("shop/order.placed", ORDER, "--wait", "10s")
    shown = json.loads(place.steplog("runs", "show", sent["runs"][0]["run_id"], "--json").stdout)
    assert shown.keys() == {"run", "steps", "function_attempts"}
    assert shown["run"] == sent["runs"][0]
    assert shown["run"]["state"] == "completed"
    assert shown["run"]["event_id"] == sent["id"]
    assert [step["output"] for step in shown["steps"]] == ["charge-o1", "pack-o1", "notify-o1"]


def test_attempts_that_failed_are_shown_with_their_place(place: Place) -> None:
    sent = place.send("test/print", "--wait", "15s")
    assert [run["state"] for run in sent["runs"]] == ["completed"]
    row = place.steplog("runs", "show", sent["runs"][0]["run_id"]).stdout.splitlines()[-2]
    assert re.search(r'^  pack .*✗░+.* "printed"   attempt 1 of 5: OSError: printer is off \(functions\.py:11\)$', row)


@pytest.mark.spec("TEST-01")
def test_a_run_that_failed_is_the_answer_no(place: Place) -> None:
    sent = place.steplog("send", "test/fail", "--wait", "10s")
    assert sent.code == 1
    assert re.search(r"  fail  [0-9A-Z]{26}  failed after .* NonRetriableError: no such card", sent.stdout)
    listed = place.steplog("runs", "list", "--status", "failed", "--function", "test-fail").stdout.splitlines()
    assert len(listed) == 2
    assert "no such card" in listed[1]


@pytest.mark.spec("DUR-15")
def test_what_a_function_does_after_its_last_step_is_shown(tmp_path: Path) -> None:
    slow = FUNCTIONS.replace("import timedelta", "import timedelta\nimport asyncio") + (
        '\n\n@app.function("slow", trigger="test/slow")\nasync def slow(ctx: Context) -> None:\n'
        '    await ctx.step.run("first", lambda: 1)\n    await asyncio.sleep(0.3)\n'
    )
    with placed(tmp_path, slow) as place:
        (run,) = place.send("test/slow", "--wait", "10s")["runs"]
        first, finalization = place.steplog("runs", "show", run["run_id"]).stdout.splitlines()[-2:]
        (waiting,) = place.send("test/wait", "--wait", "100ms")["runs"]
        assert "finalization" not in place.steplog("runs", "show", waiting["run_id"]).stdout, "it has not ended"
    assert first.split()[0] == "first"
    assert finalization.count("█") > first.count("█"), "most of the time"
    assert int(finalization.split()[-2]) >= 299


def test_a_run_that_waits_says_for_what(place: Place) -> None:
    sent = place.steplog("send", "test/wait", "--wait", "300ms")
    assert sent.code == 0
    assert re.search(r"  wait  [0-9A-Z]{26}  waiting: cool-off, in 60 min", sent.stdout)


def test_a_run_that_tries_again_says_when(place: Place) -> None:
    sent = place.steplog("send", "test/print", "--wait", "300ms")
    assert sent.code == 0
    assert re.search(r"  print  [0-9A-Z]{26}  retrying pack in (\d+ ms|1 s)$", sent.stdout, re.MULTILINE)


def test_an_event_that_ends_a_wait_says_so_and_shows_what_goes_on(place: Place) -> None:
    waiting = place.send("test/ordered")["runs"][0]["run_id"]
    until(lambda: place.json("runs", "show", waiting)["run"]["state"] == "waiting")
    sent = place.steplog("send", "test/paid", '{"by": "ann"}', "--wait", "10s")
    accepted, went_on = sent.stdout.splitlines()
    assert accepted.endswith(" accepted: ended 1 wait")
    assert re.fullmatch(rf'  pay  {waiting}  completed in .* → "ann"', went_on)
    nobody = place.steplog("send", "test/paid", '{"by": "ann"}')
    assert nobody.stdout.endswith(" accepted: 0 runs, no function is started by test/paid\n")


def test_which_waits_an_event_has_ended_is_in_the_json(place: Place) -> None:
    waiting = place.send("test/ordered")["runs"][0]["run_id"]
    until(lambda: place.json("runs", "show", waiting)["run"]["state"] == "waiting")
    sent = place.send("test/paid", '{"by": "bob"}')
    assert (sent["runs"], sent["resumed"]) == ([], [{"run": waiting, "step": "paid"}])


def test_ids_and_functions_are_completed_from_the_server(place: Place) -> None:
    run_id = place.send("shop/order.placed", ORDER)["runs"][0]["run_id"]
    url = ["--url", place.url]
    assert run_id[-5:] in offered(["runs", "show", *url], run_id[-5:-3].lower())
    assert offered(["invoke", *url], "shop-") == ["shop-ship-order"]
    assert offered(["runs", "list", *url, "--function"], "shop-s") == ["shop-ship-order"]


def offered(words: list[str], incomplete: str) -> list[str]:
    complete = ShellComplete(commands, {}, "steplog", "_STEPLOG_COMPLETE")
    return [item.value for item in complete.get_completions(words, incomplete)]


def test_an_id_starts_a_function_once(place: Place) -> None:
    assert len(place.send("test/wait", "--id", "once")["runs"]) == 1
    again = place.send("test/wait", "--id", "once")
    assert (again["duplicate"], again["runs"]) == (True, [])
    assert "accepted: 0 runs, its id was sent before" in place.steplog("send", "test/wait", "--id", "once").stdout


def test_data_comes_from_a_file_or_from_standard_input(place: Place) -> None:
    (place.directory / "order.json").write_text(ORDER)
    assert '"charge-o1"' in place.steplog("send", "shop/order.placed", "@order.json", "--wait", "10s").stdout
    piped = place.steplog("send", "shop/order.placed", "-", "--wait", "10s", stdin=ORDER.replace("o1", "o2"))
    assert '"charge-o2"' in piped.stdout


def test_an_event_in_the_future_is_scheduled(place: Place) -> None:
    ts_ms = round(time.time() * 1000) + 3_600_000
    sent = place.steplog("send", "test/wait", "--ts", str(ts_ms), "--wait", "50ms")
    assert re.search(r"scheduled, starts in 60 min", sent.stdout)


def test_what_the_server_refuses_ends_with_5(place: Place) -> None:
    refused = place.steplog("send", "shop/order.placed", "-", stdin=f'{{"id": "{"o" * (3 << 20)}"}}')
    assert refused.code == 5
    first, second, *_ = refused.stderr.splitlines()
    assert first == f"error[event_refused]: 413 from {place.url}, 1 of 1 refused"
    assert second.startswith("  event 0  Event is over the max size: ")


def test_what_nobody_may_send_is_refused_here(place: Place) -> None:
    refused = place.steplog("send", "inngest/function.failed")
    assert refused.code == 5
    assert refused.stderr.startswith("error[event_invalid]: event name is reserved")


def test_a_run_that_is_not_there_ends_with_4(place: Place) -> None:
    for id_ in ("ZZZZZZ", "01JD4QZ3M0G5W5V0N7T5H8F2KQ"):
        missing = place.steplog("runs", "show", id_)
        assert missing.code == 4
        assert missing.stderr.startswith("error[not_found]: ")


def test_a_list_is_as_long_as_it_is_asked_to_be(place: Place) -> None:
    for _ in range(3):
        place.send("test/wait")
    runs = json.loads(place.steplog("runs", "list", "--limit", "2", "--json").stdout)["runs"]
    assert [run["function"] for run in runs] == ["test-wait", "test-wait"]
    assert runs[0]["run_id"] > runs[1]["run_id"]
    lines = place.steplog("runs", "list", "--limit", "2", "--jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == runs


def test_json_has_the_fields_of_the_rest_api_and_no_others(place: Place) -> None:
    sent = place.send("test/print", "--wait", "15s")
    shown, listed = place.json("runs", "show", sent["runs"][0]["run_id"]), place.json("runs", "list")["runs"]
    invoked = place.json("invoke", "shop-ship-order", ORDER)["run"]
    for run in (sent["runs"][0], shown["run"], *listed, invoked):
        assert set(run) == set(answers.Run.__struct_fields__)
    assert [set(step) for step in shown["steps"]] == [set(answers.Step.__struct_fields__)]
    assert [set(each) for each in shown["steps"][0]["attempts"]] == [set(answers.Attempt.__struct_fields__)] * 2


def test_what_happens_is_followed(place: Place) -> None:
    command = [sys.executable, "-m", "steplog", "runs", "tail", "--url", place.url, "--jsonl"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        try:
            assert tail.stderr.readline().startswith(f"following {place.url}")
            sent = place.send("shop/order.placed", ORDER)
            while True:
                run = json.loads(tail.stdout.readline())
                if run["event_id"] == sent["id"] and run["state"] == "completed":
                    break
            tail.send_signal(signal.SIGINT)
            assert tail.wait(10) == 130
        finally:
            tail.kill()


def test_every_event_is_accounted_for_while_the_engine_runs(place: Place) -> None:
    place.send("shop/order.placed", ORDER)
    audit = place.steplog("audit", "--log", "sqlite:.steplog/dev.db", "--json")
    assert audit.code == 0
    report = json.loads(audit.stdout)
    assert report["ok"]
    assert report["unaccounted"] == report["repeated_steps"] == 0
    assert report["accepted"] >= report["scheduled"] > 0


def test_without_a_server_the_log_is_read_and_that_is_said(place: Place) -> None:
    until_s, known = time.monotonic() + 30, [{"state": "running"}]  # of the tests before
    while any(run["state"] in ("queued", "running") for run in known):
        assert time.monotonic() < until_s, known
        known = json.loads(place.steplog("runs", "list", "--json").stdout)["runs"]
    place.stop()
    named = steplog("runs", "list", "--json", "--log", "sqlite:.steplog/dev.db", cwd=place.directory)
    assert json.loads(named.stdout)["runs"] == known
    assert named.stderr == ""
    with patch("steplog.client.address.DEFAULT_URL", "http://127.0.0.1:9"):
        found = steplog("runs", "list", "--json", cwd=place.directory)
    assert json.loads(found.stdout)["runs"] == known
    assert found.stderr == "nothing answers at http://127.0.0.1:9: read from .steplog/dev.db\n"
    assert place.steplog("send", "test/wait").code == 3
    assert place.steplog("runs", "tail").code == 3
    shown = place.steplog("runs", "show", known[0]["run_id"][-6:], "--log", "sqlite:.steplog/dev.db")
    assert shown.stdout.splitlines()[0].split()[1] == known[0]["run_id"]


@pytest.mark.spec("FN-22")
def test_a_function_whose_configuration_has_changed_has_a_new_version(tmp_path: Path) -> None:
    seen = []
    for declared in ("fail", "fail", 'fail", retries=0, name="Fail'):  # as it was, restarted, changed
        with placed(tmp_path, FUNCTIONS.replace('"fail"', f'"{declared}"')) as place:
            (run,) = place.send("test/fail", "--wait", "10s")["runs"]
            shown = place.steplog("runs", "show", run["run_id"]).stdout.splitlines()[1]
            seen.append((run["function_version"], shown.split(" · ")[:2]))
            place.stop()
    assert seen == [(n, ["  app test 7", f"function version {n}"]) for n in (1, 1, 2)]


def test_damage_to_the_log_is_found_by_the_audit(place: Place) -> None:
    place.stop()
    with sqlite3.connect(place.directory / ".steplog" / "dev.db") as connection:
        connection.execute("DELETE FROM journal WHERE position = (SELECT min(position) FROM events)")
    connection.close()
    audit = place.steplog("audit")
    assert audit.code == 1
    assert "✗" in audit.stdout
    assert "unaccounted  ✗" in audit.stdout
    assert re.search(r"^    [0-9A-Z]{26}  is accepted, but ", audit.stdout, re.MULTILINE)


def test_a_history_is_read_where_no_server_runs(tmp_path: Path, new_history: Callable[[], str]) -> None:
    log, history = RecordedPartition(tmp_path / "log.db"), new_history()
    run = log.finish()
    log.live()
    with open_projector(log.path, history) as projector:
        projector.catch_up()
    log.close()
    listed = steplog("runs", "list", "--history", history, "--json", cwd=tmp_path)
    assert {found["state"] for found in json.loads(listed.stdout)["runs"]} == {"waiting", "completed"}
    shown = steplog("runs", "show", run[-8:], "--history", history, "--json", cwd=tmp_path)
    assert [step["name"] for step in json.loads(shown.stdout)["steps"]] == ["step-0", "step-1", "step-2"]
    refused = steplog("runs", "list", "--history", "mysql://h", cwd=tmp_path)
    assert refused.code == 2
    assert "--history is no history; write sqlite:PATH, or postgresql://" in refused.stderr
