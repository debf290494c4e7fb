"""``steplog config``, ``init`` and ``completion``; and configuration as ``dev`` and ``start`` carry it out."""

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .command_line import clean_environment, steplog, steplog_process
from .dev_server import no_room

READY_S = 15


@contextmanager
def serving(*arguments: str, cwd: Path, **environment: str) -> Iterator[dict[str, Any]]:
    """Run ``dev`` or ``start``; gives what it says when it is ready."""
    ready, told = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-m", "steplog", *arguments, "--ready-fd", str(told)],
        cwd=cwd, pass_fds=(told,), env=clean_environment() | environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(told)
    try:
        assert select.select([ready], [], [], READY_S)[0], "the server does not get ready"
        yield json.loads(os.read(ready, 4096))
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()
        os.close(ready)


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


# --- config


def test_each_value_is_shown_with_its_origin(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text('[log]\nurl = "sqlite:a.db"\n[auth]\nevent_keys = ["env:KEY"]\n')
    shown = steplog(
        "config", "show", "--log", "sqlite:b.db", "--set", "limits.steps=5", cwd=tmp_path,
        environment={
            "STEPLOG_LOG": "sqlite:c.db", "INNGEST_RETRY_INTERVAL": "90", "STEPLOG_SIGNING_KEY": "tell-nobody",
        },
    )  # fmt: skip
    assert shown.code == 0
    rows = {row.split()[0]: row.split(None, 1)[1].strip() for row in shown.stdout.splitlines()}
    columns = {name: " ".join(row.split()) for name, row in rows.items()}
    assert columns["log.url"] == '"sqlite:b.db" --log (over STEPLOG_LOG, steplog.toml:2)'
    assert columns["auth.event_keys"] == '["env:KEY"] steplog.toml:4'
    assert columns["auth.signing_keys"] == '["(hidden)"] STEPLOG_SIGNING_KEY'
    assert columns["engine.retry_interval"] == '"1m30s" INNGEST_RETRY_INTERVAL'
    assert columns["limits.steps"] == "5 --set"
    assert columns["limits.event_size"] == '"3MiB" built-in'
    assert "tell-nobody" not in shown.stdout


def test_values_are_shown_as_json(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text("[server]\nport = 9000\n")
    shown = json.loads(steplog("config", "show", "--start", "--json", cwd=tmp_path).stdout)
    assert shown["files"] == ["steplog.toml"]
    assert shown["values"]["server.port"] == {"value": 9000, "origin": "steplog.toml:2", "overridden": []}
    assert shown["values"]["limits.event_size"]["value"] == "256KiB"
    assert shown["values"]["engine.retry_interval"]["value"] is None


def test_a_check_names_every_problem_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text('[server]\nprot = 1\n[auth]\nevent_keys = ["env:GONE"]\n')
    checked = steplog("config", "check", cwd=tmp_path)
    assert checked.code == 2
    assert checked.stdout == ""
    assert checked.stderr.splitlines() == [
        "error[config_invalid]: 2 problems in steplog.toml",
        '  steplog.toml:2  server.prot      unknown key; did you mean "port"?',
        "  steplog.toml:4  auth.event_keys  the environment variable GONE is not set",
    ]
    as_json = steplog("config", "check", "--json", cwd=tmp_path)
    assert as_json.code == 2
    assert json.loads(as_json.stdout) == {
        "ok": False,
        "files": ["steplog.toml"],
        "problems": [
            {"place": "steplog.toml", "line": 2, "key": "server.prot",
             "problem": 'unknown key; did you mean "port"?'},
            {"place": "steplog.toml", "line": 4, "key": "auth.event_keys",
             "problem": "the environment variable GONE is not set"},
        ],
    }  # fmt: skip
    found = steplog("config", "check", cwd=tmp_path, environment={"GONE": "here"})
    assert [line.split()[0] for line in found.stderr.splitlines()[1:]] == ["steplog.toml:2"]


def test_a_check_for_start_wants_its_keys(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text("[server]\nport = 1\n")
    assert steplog("config", "check", cwd=tmp_path).stdout == "steplog.toml: 1 value set, no problems\n"
    checked = steplog("config", "check", "--start", cwd=tmp_path)
    assert checked.code == 2
    assert checked.stderr.startswith("error[config_invalid]: 2 problems in steplog start\n")
    keys = {"STEPLOG_EVENT_KEY": "e", "STEPLOG_SIGNING_KEY": "s"}
    ready = steplog("config", "check", "--start", "--json", cwd=tmp_path, environment=keys)
    assert (ready.code, json.loads(ready.stdout)["ok"]) == (0, True)


def test_the_schema_is_json() -> None:
    schema = json.loads(steplog("config", "schema").stdout)
    assert schema["properties"]["server"]["properties"]["port"]["maximum"] == 65_535


# --- dev and start


@pytest.mark.parametrize("command", ["dev", "start"])
@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (("--redis-uri", "redis://h"), "--redis-uri    steplog needs no Redis: queue and state are in its log"),
        (
            ("--postgres-uri", "x"),
            '--postgres-uri  history.url = "x"  is no history; write sqlite:PATH, or postgresql://',
        ),
        (("-u", "http://h"), "--sdk-url    apps over HTTP will come in a later version; name Python files"),
        (
            ("--log", "kafka:h"),
            '--log  log.url = "kafka:h"  is no log on Kafka; write kafka://HOST:PORT,HOST:PORT/PREFIX',
        ),
        (("--role", "api,egine"), '--role  server.roles  expected one or more of "api", "engine"'),
        (("--config", "gone.toml"), "--config    there is no file gone.toml"),
        (("--set", "server.prot=1"), '--set  server.prot  unknown key; did you mean "port"?'),
    ],
)
def test_flags_of_what_does_not_exist_are_refused_with_what_to_do(
    command: str, flag: tuple[str, str], said: str, tmp_path: Path
) -> None:
    refused = steplog(command, "orders.py", *flag, "--event-key", "e", "--signing-key", "s", cwd=tmp_path)
    assert refused.code == 2
    head, line = refused.stderr.splitlines()
    assert head == "error[config_invalid]: 1 problem in the command line"
    assert " ".join(line.split()).startswith(" ".join(said.split()))


def test_start_without_a_file_and_without_load_says_so(tmp_path: Path) -> None:
    nothing = steplog("start", "--event-key", "e", "--signing-key", "s", cwd=tmp_path)
    assert nothing.code == 2
    assert "no file is named: give one, as in steplog start orders.py, or write [app] load" in nothing.stderr


def test_dev_without_a_file_takes_events(tmp_path: Path) -> None:
    with serving("dev", "--port", "0", cwd=tmp_path) as server:
        assert post(f"{server['url']}/e/any", {"name": "a/b", "data": {}})[0] == 200


def test_dev_runs_what_the_file_above_names_within_its_limits(tmp_path: Path) -> None:
    assert steplog("init", "shop", cwd=tmp_path).code == 0
    below = tmp_path / "shop" / "below"
    below.mkdir()
    (tmp_path / "shop" / "more.py").write_text(
        "from steplog import App, Context\n\napp = App('more')\n\n\n@app.function('big', trigger='more/big')\n"
        "async def big(ctx: Context) -> str:\n    return 'x' * 200\n"
    )
    (tmp_path / "shop" / "steplog.toml").write_text(
        '[app]\nload = ["orders.py", "more"]\n[server]\nport = 0\n'
        '[limits]\nevent_size = "1KB"\nrequest_size = "10KB"\nstep_output = "100B"\nsteps = 1\n'
        '[engine]\nretry_interval = "0s"\n'
    )
    tolerated = ("--tick", "150", "--no-discovery", "--no-poll", "--poll-interval", "5", "--queue-workers", "3")
    with serving("dev", *tolerated, cwd=below) as ready:
        url = {"STEPLOG_URL": ready["url"]}
        events = f"{ready['url']}/e/dev"
        status, answer = post(events, {"name": "a/b", "data": {"x": "y" * 1_000}})
        assert status in (400, 413)
        assert "the limit is 1000;" in answer["error"]
        assert post(events, {"name": "a/b", "data": {"x": "y" * 10_000}})[0] == 413
        big = steplog("send", "more/big", "--wait", "10s", cwd=below, environment=url)
        assert '"more-big" returned 202 bytes, the limit is 100;' in big.stdout
        two = steplog("send", "shop/order.placed", '{"id": "o1", "total": 5}', "--wait", "10s", environment=url)
        assert "StepLimitExceeded: The function run exceeded the step limit of 1 steps" in two.stdout


def test_start_takes_its_keys_from_where_the_file_says(tmp_path: Path) -> None:
    assert steplog("init", cwd=tmp_path).code == 0
    (tmp_path / "key").write_text("from-a-file\n")
    (tmp_path / "steplog.toml").write_text(
        '[app]\nload = ["orders.py"]\n[server]\nport = 0\n[log]\nurl = "sqlite:kept/log.db"\n'
        '[auth]\nevent_keys = ["file:key"]\nsigning_keys = ["env:SIGN"]\n'
    )
    with serving("start", cwd=tmp_path, SIGN="abcdef") as ready:
        event = {"name": "a/b", "data": {}}
        assert post(f"{ready['url']}/e/from-a-file", event)[0] == 200
        assert post(f"{ready['url']}/e/another", event)[0] == 401
        environment = {"STEPLOG_URL": ready["url"], "STEPLOG_SIGNING_KEY": "abcdef"}
        assert steplog("runs", "list", cwd=tmp_path, environment=environment).code == 0
    audit = steplog("audit", "--json", cwd=tmp_path)
    assert audit.code == 0
    assert json.loads(audit.stdout)["log"] == "kept/log.db"


@pytest.mark.parametrize(
    ("arguments", "origin"),
    [
        (("--log", "sqlite:taken"), "--log; STEPLOG_LOG and steplog.toml:4 are overridden"),
        (("--no-reload", "--log", "sqlite:taken"), "--log; STEPLOG_LOG and steplog.toml:4 are overridden"),
        ((), "STEPLOG_LOG; steplog.toml:4 is overridden"),
    ],
)
def test_of_a_log_that_cannot_be_opened_is_said_who_names_it(
    arguments: tuple[str, ...], origin: str, tmp_path: Path
) -> None:
    assert steplog("init", cwd=tmp_path).code == 0
    (tmp_path / "steplog.toml").write_text('[app]\nload = ["orders.py"]\n[log]\nurl = "sqlite:a.db"\n')
    (tmp_path / "taken").mkdir()
    environment = {"STEPLOG_LOG": "sqlite:taken"}
    failed = steplog_process("dev", "--port", "0", *arguments, cwd=tmp_path, environment=environment)
    assert failed.code == 3
    assert failed.stderr.splitlines() == [
        "error[log_unavailable]: taken: unable to open database file",
        f"  log.url from {origin}        another one: --log sqlite:OTHER.db",
    ]


def test_a_log_in_memory_leaves_nothing(tmp_path: Path) -> None:
    assert steplog("init", cwd=tmp_path).code == 0
    with serving("dev", "--log", "memory:", "--port", "0", cwd=tmp_path) as ready:
        sent = steplog(
            "send", f"{_app(tmp_path)}/order.placed", '{"id": "o1", "total": 5}', "--wait", "10s",
            environment={"STEPLOG_URL": ready["url"]},
        )  # fmt: skip
        assert '"receipt-o1-5, parcel-o1"' in sent.stdout
    assert not Path(ready["log"]).parent.exists()
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == set(INIT)


def test_start_logs_lines_of_json_where_no_terminal_is(tmp_path: Path) -> None:
    assert steplog("init", cwd=tmp_path).code == 0
    keys = {"STEPLOG_EVENT_KEY": "k", "STEPLOG_SIGNING_KEY": "51"}
    server = subprocess.Popen(
        [sys.executable, "-m", "steplog", "start", "--port", "0"], cwd=tmp_path, env=clean_environment() | keys,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    try:
        ready = json.loads(server.stderr.readline())
        (engine,) = _children(server.pid)
        with no_room(engine):
            assert post(f"{ready['url']}/e/k", {"name": "a/b"})[0] == 503
            away = json.loads(server.stderr.readline())
        again = json.loads(server.stderr.readline())
        server.send_signal(signal.SIGINT)
        stopped = json.loads(server.stderr.readline())
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()
    assert (ready["level"], ready["message"], ready["log"]) == ("info", "ready", "steplog.db")
    assert ready["functions"] == {_app(tmp_path): 1}
    assert (away["level"], away["logger"]) == ("warning", "steplog.outage")
    assert away["message"].startswith("log unavailable: events get 503 with Retry-After, runs pause, nothing is lost")
    assert "disk I/O error" in away["reason"]
    assert again["message"].startswith("log available again after ")
    assert stopped["message"] == "stopped"
    assert all(line["at"].endswith("Z") for line in (ready, away, again, stopped))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- init


INIT = ("orders.py", "test_orders.py", "steplog.toml")


def _app(directory: Path) -> str:
    return (directory / "orders.py").read_text().partition('App("')[2].partition('"')[0]


def test_init_makes_three_files_and_says_what_comes_next(tmp_path: Path) -> None:
    made = steplog("init", "My Shop!", cwd=tmp_path)
    assert made.code == 0
    assert {path.name for path in (tmp_path / "My Shop!").iterdir()} == set(INIT)
    assert made.stdout.splitlines() == [
        "start it:  cd 'My Shop!' && steplog dev",
        'then send: steplog send my-shop/order.placed \'{"id": "o1", "total": 5}\' --wait 2s',
    ]
    assert _app(tmp_path / "My Shop!") == "my-shop"
    told = json.loads(steplog("init", "other", "--json", cwd=tmp_path).stdout)
    assert told == {"directory": "other", "app": "other", "files": list(INIT)}


def test_the_made_project_passes_its_own_test_and_the_linters(tmp_path: Path) -> None:
    steplog("init", "shop", cwd=tmp_path)
    for command in (
        ("pytest", "-q", "-p", "no:cacheprovider"), ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path / "shop", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("init",), ("init", ".")])
def test_init_never_writes_over_a_file(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text("mine")
    refused = steplog(*arguments, cwd=tmp_path)
    assert refused.code == 2
    assert refused.stderr == "error[usage]: steplog.toml exists already; nothing was written\n"
    (tmp_path / "orders.py").write_text("mine")
    assert "orders.py, steplog.toml exist already" in steplog("init", cwd=tmp_path).stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("steplog.toml", "orders.py"), "mine"
    )


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("a file")
    refused = steplog("init", "shop", cwd=tmp_path)
    assert refused.code == 2
    assert refused.stderr.startswith("error[usage]: shop")


# --- completion


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ru",), {"run", "runs"}),
        (("config", ""), {"show", "check", "schema"}),
        (("runs", "list", "--fun"), {"--function"}),
        (("completion", "b"), {"bash"}),
        (("dev", "--allow"), {"--allow-host"}),
        (("dev", "--set", "limits.st"), {"limits.steps=", "limits.step_output="}),
        (("runs", "show", "8F"), set()),
        (("nonsense", "x"), set()),
    ],
)
def test_bash_completes_commands_and_options(words: tuple[str, ...], offered: set[str], tmp_path: Path) -> None:
    shim = tmp_path / "steplog"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m steplog "$@"\n')
    shim.chmod(0o755)
    script = (
        'eval "$(steplog completion bash)" || exit 1; COMP_WORDS=(steplog "$@"); COMP_CWORD=$#; '
        '_steplog_completion steplog; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = clean_environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"STEPLOG_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize(("shell", "word"), [("zsh", "#compdef steplog"), ("fish", "complete --no-files")])
def test_other_shells_have_their_script(shell: str, word: str) -> None:
    printed = steplog("completion", shell)
    assert printed.code == 0
    assert word in printed.stdout


def test_completing_a_command_imports_none() -> None:
    script = (
        "import sys; from steplog.cli import commands; import click\n"
        "found = commands.shell_complete(click.Context(commands), 'd')\n"
        "assert [item.value for item in found] == ['dev', 'dead', 'demo'], found\n"
        "assert not [name for name in sys.modules if name.startswith('steplog.config') or name == 'steplog.cli.serve']"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_broken_file_is_told_by_a_process(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_text("[server\n")
    broken = steplog_process("dev", "orders.py", cwd=tmp_path)
    assert broken.code == 2
    assert broken.stderr.startswith("error[config_invalid]: 1 problem in steplog.toml\n  steplog.toml:1  is not TOML: ")
