"""The public API's types, as strict checkers see them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def mypy(path: Path) -> str:
    """What it complains of."""
    options = ["--strict", "--config-file=", "--no-error-summary", "--cache-dir=/dev/null"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def pyright(path: Path, folder: Path) -> set[int]:
    """The lines with errors, those that are to be ignored too."""
    config = folder / "pyrightconfig.json"
    config.write_text('{"enableTypeIgnoreComments": false}', encoding="utf8")
    shutil.copy(path, folder)
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(config)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["summary"]["filesAnalyzed"] == 1
    return {each["range"]["start"]["line"] + 1 for each in result["generalDiagnostics"] if each["severity"] == "error"}


@pytest.mark.spec("FN-21", "PY-29", "PY-30")
def test_the_documentations_example_has_no_errors(tmp_path: Path) -> None:
    assert mypy(HERE / "doc_example.py") == ""
    assert pyright(HERE / "doc_example.py", tmp_path) == set()


def test_wrong_uses_are_errors(tmp_path: Path) -> None:
    path = HERE / "wrong_uses.py"
    wrong = {n for n, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1) if "# type: ignore[" in line}
    assert len(wrong) > 15
    assert mypy(path) == ""
    assert pyright(path, tmp_path) == wrong
