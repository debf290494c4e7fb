"""Every snippet is run somewhere, or checked here: commands by their words, configuration by steplog's own check."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from steplog.cli import commands
from steplog.cli.commands import run

from .pages import DOCS, ROOT, Snippet, pages, snippets
from .rest_reference import ENDPOINTS

HERE = Path(__file__).parent
BY = {  # pages whose snippets have tests of their own, and where
    "docs/client.md": "core/tests/test_client_docs.py",
    "docs/errors.md": "core/tests/test_errors.py",
    "docs/expressions.md": "core/tests/test_cel.py",
    "docs/faust.md": "plugins/faust/tests/test_faust.py",
    "docs/patterns.md": "core/tests/test_patterns_docs.py",
    "docs/testing.md": "core/tests/test_testbed_docs.py",
}
OTHERS = {  # whose words are not checked; those of compose/kafka-local by tests/test_compose.py
    "cd", "compose/kafka-local", "cp", "faust", "kcat", "pip", "pytest", "python", "rm", "sqlite3", "uv",
}  # fmt: skip
ALL = [
    each
    for page in pages()
    if page.parent.name != "reference"  # made from the code
    for each in snippets(page)
]
CONFIGURATION = [each for each in ALL if each.language == "toml"]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what a developer may have set for steplog."""
    for name in list(os.environ):
        if name.startswith(("STEPLOG_", "INNGEST_", "FORCE_COLOR")):
            monkeypatch.delenv(name)


def of(*languages: str) -> list[Snippet]:
    return [each for each in ALL if each.language in languages]


def typed(snippet: Snippet) -> Iterator[list[str]]:
    """The commands of a transcript: what stands behind ``$``, over several lines where a quote is open."""
    lines = iter(snippet.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            text = line[2:]
            while text.count('"') % 2:
                text += "\n" + next(lines)
            words = shlex.split(text, comments=True)
            while "&&" in words:
                end = words.index("&&")
                yield words[:end]
                words = words[end + 1 :]
            yield words


def test_the_snippets_are_of_known_kinds() -> None:
    assert {each.language for each in ALL} == {"python", "console", "sh", "toml", "json", "cel", "text", ""}
    assert len(ALL) > 50


def test_every_example_is_run() -> None:
    stories = (HERE / "test_guides.py").read_text(encoding="utf8")
    unclaimed = []
    for each in of("python", "", "cel", "sh"):
        name = Path(each.page).name
        if each.page in BY:
            assert name in (ROOT / BY[each.page]).read_text(encoding="utf8"), f"{BY[each.page]} runs {each.page}"
            continue
        is_whole = not each.language or each.page == "docs/start.md"  # its story takes all of the page
        if (f'DOCS / "{name}"' if is_whole else f'{name}", "{each.heading}"') not in stories:
            unclaimed.append(str(each))
    assert unclaimed == []


def test_every_example_in_json_is_json() -> None:
    assert len([json.loads(each.text) for each in of("json")]) > 1


@pytest.mark.parametrize("snippet", CONFIGURATION, ids=str)
@pytest.mark.parametrize("mode", [[], ["--start"]], ids=["dev", "start"])
def test_every_configuration_is_right(
    snippet: Snippet, mode: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("signkey-prod-00\n")
    text = re.sub(r"file:[^\"]+", f"file:{secret}", snippet.text)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, "a-key")
    for name in ("STEPLOG_EVENT_KEY", "STEPLOG_SIGNING_KEY"):  # of those that say nothing of keys
        monkeypatch.setenv(name, "a-key")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steplog.toml").write_text(text, encoding="utf8")
    (tmp_path / "orders.py").touch()
    assert command("config", "check", *mode) == (0, "")


@pytest.mark.parametrize("snippet", of("console"), ids=str)
def test_every_command_is_one(snippet: Snippet) -> None:
    known = list(typed(snippet))
    assert known
    for words in known:
        match words[2:] if words[:2] == ["uv", "run"] else words:
            case ["steplog", *arguments]:
                assert command(*arguments, "--help")[0] == 0, f"{words}: {command(*arguments, '--help')[1]}"
            case ["curl", *arguments]:
                check_request(arguments)
            case ["ruff" | "mypy" | "pytest", *_]:
                pass
            case [name, *_]:
                assert name in OTHERS, words


def check_request(arguments: list[str]) -> None:
    """A request is for a path of the server; its body is JSON."""
    urls = [each for each in arguments if "8288" in each]
    assert len(urls) == 1, arguments
    path = urlsplit(urls[0] if "://" in urls[0] else f"http://{urls[0]}").path
    method = "POST" if "-d" in arguments else "GET"
    forms = [re.sub(r"\{\w+\}", "[^/]+", each.path) for each in ENDPOINTS if each.method == method]
    assert any(re.fullmatch(form, path) for form in forms), f"{method} {path}"
    if "-d" in arguments:
        json.loads(arguments[arguments.index("-d") + 1])


def command(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; its exit code, and what it says of an error."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = run(commands, arguments)
    return code, said.getvalue()


def test_the_transcripts_of_the_first_minutes_are_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for times, ids and how long things took; ``dev`` and ``send`` are in tests of their own."""
    monkeypatch.chdir(tmp_path)
    log = ("--log", "sqlite:steplog.db")
    said = printed("version") + printed("init", "shop")
    monkeypatch.chdir(tmp_path / "shop")
    printed("run", "orders.py::ship_order", '{"id": "o1", "total": 5}', *log)
    run_id = json.loads(printed("runs", "list", *log, "--jsonl"))["run_id"]
    said += printed("runs", "show", run_id, *log) + printed("audit", *log)
    page = "".join(each.text for each in snippets(DOCS / "start.md") if each.language == "console")
    shown = [blurred(line) for line in page.splitlines()]
    assert [line for line in said.splitlines() if blurred(line) not in shown] == []


def printed(*arguments: str) -> str:
    """What a command prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "steplog", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blurred(line: str) -> str:
    """A line without ids, addresses, bars, times and versions."""
    line = re.sub(r"…?\b[0-9A-Z]{5,26}\b| · http\S+|(?<= )\d+\.\d+\.\d+", "", line)
    return " ".join(re.sub(r"▕[█░▕▏ ]*|\d+ ms", "", line).split())
