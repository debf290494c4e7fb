"""``docs/testing.md``: its example is a test that passes, and it names every error and every method."""

import re
from pathlib import Path

import pytest

import steplog
from steplog.testing import RunView, Testbed, errors

pytest_plugins = ["pytester"]
PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf8")


def test_the_example_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(steplog.__file__).parents[1]))
    (example,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    pytester.makepyfile(example)
    pytester.runpytest_subprocess("-p", "steplog_pytest", "-q", "--strict-markers").assert_outcomes(passed=3)


def test_every_error_has_its_line() -> None:
    codes = [error.code for error in vars(errors).values() if getattr(error, "__module__", "") == errors.__name__]
    assert len(codes) >= 5
    assert [code for code in codes if f"`{code}`" not in PAGE] == []


@pytest.mark.parametrize("kind", [Testbed, RunView])
def test_every_name_is_described(kind: type) -> None:
    names = [name for name in vars(kind) if not name.startswith("_") and name not in ("function", "run_id", "reenter")]
    assert len(names) > 5
    assert [name for name in names if not re.search(rf"`[^`]*\b{name}\b", PAGE)] == []
