"""The command line as such: help, wrong verbs, errors and their exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from steplog.cli import commands

from .command_line import steplog, steplog_process

COMMANDS = (
    "init", "dev", "start", "send", "invoke", "signal", "run", "runs", "runs list", "runs show", "runs tail", "audit",
    "demo", "config", "config show", "config check", "config schema", "completion", "version",
)  # fmt: skip


@pytest.mark.spec("ARCH-10")
def test_help_lists_every_command_and_imports_none_of_them() -> None:
    shown = steplog_process("--help")
    assert shown.code == 0
    assert all(re.search(rf"^  {name}  ", shown.stdout, re.MULTILINE) for name in COMMANDS if " " not in name)
    script = "import sys; from steplog.cli import commands, run; run(commands, ['--help']); print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for heavy in (
        "aiohttp",
        "asyncio",
        "rich",
        "sqlite3",
        "starlette",
        "steplog.cli.serve",
        "urllib.request",
        "uvicorn",
    ):
        assert f"'{heavy}'" not in modules


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_two_examples(command: str) -> None:
    found: click.Command = commands
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name) or found
    shown = found.help or ""
    assert len(re.findall(rf"^ +(?:STEPLOG_\S+ )*steplog {command}\b", shown, re.MULTILINE)) >= 2
    assert shown.isascii(), "click prints it as it is, whatever the encoding"


def test_a_wrong_verb_gets_the_nearest_right_one() -> None:
    wrong = steplog("adit")
    assert wrong.code == 2
    assert wrong.stderr.startswith("error[usage]: there is no command 'adit'; did you mean 'audit'?\n")
    assert "'list'" in steplog("runs", "lits").stderr


def test_an_option_that_does_not_exist_is_a_usage_error() -> None:
    wrong = steplog("send", "shop/order.placed", "--evnt-key", "x")
    assert wrong.code == 2
    assert "--event-key" in wrong.stderr
    assert wrong.stdout == ""


def test_version_is_printed() -> None:
    assert re.fullmatch(
        r"steplog \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+, SQLite 3\.\d+\.\d+\)\n", steplog_process("version").stdout
    )
    assert json.loads(steplog("version", "--json").stdout).keys() == {"steplog", "python", "sqlite", "platform"}


@pytest.mark.parametrize("arguments", [("send", "a/b"), ("runs", "list"), ("runs", "show", "8F2KQ"), ("runs", "tail")])
def test_where_nothing_answers_the_next_command_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    lonely = steplog(*arguments, cwd=tmp_path, environment={"STEPLOG_URL": "http://127.0.0.1:9"})
    assert lonely.code == 3
    assert lonely.stderr.startswith("error[server_unreachable]: nothing answers at http://127.0.0.1:9")
    assert "start it: steplog dev orders.py   (or set STEPLOG_URL)" in lonely.stderr


@pytest.mark.parametrize(
    ("data", "said"), [("[1]", "DATA is no JSON object"), ("{", "DATA is not JSON"), ("@gone.json", "gone.json: ")]
)
def test_data_that_cannot_be_sent_is_refused_here(data: str, said: str, tmp_path: Path) -> None:
    refused = steplog("send", "a/b", data, cwd=tmp_path)
    assert refused.code in (2, 5)
    assert said in refused.stderr


def test_an_audit_without_a_log_says_so(tmp_path: Path) -> None:
    nothing = steplog("audit", cwd=tmp_path)
    assert nothing.code == 4
    assert nothing.stderr.startswith("error[not_found]: there is no log in this directory")


@pytest.mark.parametrize("log", ["redis://127.0.0.1:6379", "memory:", "kafka:orders"])
def test_other_logs_are_refused(log: str) -> None:
    refused = steplog("audit", "--log", log)
    assert refused.code == 2
    assert refused.stderr.startswith("error[config_invalid]: ")


def test_an_error_in_a_file_is_told_from_the_users_frame_on(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("def charge() -> None:\n    raise ValueError('no bank')\n\n\ncharge()\n")
    broken = steplog_process("dev", "broken.py", "--port", "0", cwd=tmp_path)
    assert broken.code == 2
    first, *frames = broken.stderr.splitlines()
    assert first == f"error[user_code]: {file}:2: ValueError: no bank"
    assert [line for line in frames if line.startswith("  File")] == [
        f'  File "{file}", line 5, in <module>',
        f'  File "{file}", line 2, in charge',
    ]
    assert "loading.py" in steplog_process("dev", "broken.py", "--port", "0", "--debug", cwd=tmp_path).stderr


def test_a_file_that_cannot_be_parsed_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ny = (\n")
    broken = steplog_process("dev", "broken.py", "--port", "0", cwd=tmp_path)
    assert broken.code == 2
    assert broken.stderr.startswith(f"error[user_code]: {tmp_path / 'broken.py'}:2: SyntaxError: ")


SAY = """
from steplog import App, Context

app = App("say")


@app.function("say", trigger="say/say")
async def say(ctx: Context) -> str:
    if ctx.event.data.get("fails"):
        raise RuntimeError("é → …")
    return "é … 😀"
"""


def test_where_the_encoding_knows_no_more_the_output_is_ascii_and_data_are_unharmed(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(SAY)
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    value = steplog_process("run", "say.py::say", cwd=tmp_path, environment=ascii_only)
    whole = steplog_process("run", "say.py::say", "--json", cwd=tmp_path, environment=ascii_only)
    assert value.stdout == '"\\u00e9 \\u2026 \\ud83d\\ude00"\n'
    assert json.loads(whole.stdout)["output"] == json.loads(value.stdout) == "é … 😀"
    failed = steplog_process(
        "run", "say.py::say", '{"fails": 1}', "--retry-interval", "0", cwd=tmp_path, environment=ascii_only
    )
    assert failed.code == 1
    assert all(done.stdout.isascii() and done.stderr.isascii() for done in (value, whole, failed))
    assert "RuntimeError: \\xe9 -> .. (say.py:10)" in failed.stderr


def test_colour_is_for_those_who_ask_for_it() -> None:
    red = "\x1b["
    assert red not in steplog("nothing").stderr
    assert red in steplog("nothing", environment={"FORCE_COLOR": "1"}).stderr
    assert red not in steplog("nothing", environment={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr
    assert red in steplog("--color", "always", "nothing", environment={"NO_COLOR": "1"}).stderr
    assert red not in steplog("--color", "never", "nothing", environment={"FORCE_COLOR": "1"}).stderr
