"""``docs/testing.md``: its example is a test that passes, and it names every error and every method."""

import re
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import steplog
from steplog.testing import RunView, Testbed, errors

from .command_line import clean_environment

pytest_plugins = ["pytester"]
PAGES = Path(__file__).parents[2] / "docs"
PAGE = (PAGES / "testing.md").read_text(encoding="utf8")


def test_the_example_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(steplog.__file__).parents[1]))
    (example,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    pytester.makepyfile(example)
    pytester.runpytest_subprocess("-p", "steplog_pytest", "-q", "--strict-markers").assert_outcomes(passed=3)


@pytest.mark.spec("TEST-01")
@pytest.mark.parametrize(("order", "code"), [('{"id": "o1", "total": 4200, "email": "a@example.com"}', 0), ("{}", 1)])
def test_the_commands_for_ci_run_and_tell_whether_a_run_failed(order: str, code: int, tmp_path: Path) -> None:
    (commands,) = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    (tmp_path / "orders.py").write_text((PAGES / ".." / "examples" / "orders.py").read_text())
    (tmp_path / "order.json").write_text(order)
    script = commands.replace("8288", port).replace("orders.py", f"orders.py --port {port} --retry-interval 1")
    script = re.sub(r"^steplog ", f"{sys.executable} -m steplog ", script, flags=re.MULTILINE)
    environment = clean_environment() | {"STEPLOG_URL": f"http://127.0.0.1:{port}"}
    ended = subprocess.run(
        ["sh", "-c", f"{script}result=$?; kill $!; wait; exit $result"], cwd=tmp_path, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert ("completed in" if code == 0 else "failed after") in ended.stdout


def test_every_error_has_its_line() -> None:
    codes = [error.code for error in vars(errors).values() if getattr(error, "__module__", "") == errors.__name__]
    assert len(codes) >= 5
    assert [code for code in codes if f"`{code}`" not in PAGE] == []


@pytest.mark.parametrize("kind", [Testbed, RunView])
def test_every_name_is_described(kind: type) -> None:
    names = [name for name in vars(kind) if not name.startswith("_") and name not in ("function", "run_id", "reenter")]
    assert len(names) > 5
    assert [name for name in names if not re.search(rf"`[^`]*\b{name}\b", PAGE)] == []
