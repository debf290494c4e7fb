"""The pytest plugin, in pytest runs of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import steplog

pytest_plugins = ["pytester"]
SOURCES = Path(steplog.__file__).parents[1]

SHOP = """
from datetime import timedelta
import pytest
from steplog import App, Context
from steplog.testing import Testbed

app = App("shop")

async def charge(order: str) -> str:
    return f"ch_{order}"

@app.function("ship", trigger="placed")
async def ship(ctx: Context) -> str:
    receipt = await ctx.step.run("charge", charge, ctx.event.data["id"])
    await ctx.step.sleep("cool-off", timedelta(days=2))
    return receipt
"""


@pytest.fixture
def pytest_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for a pytest run that loads our plugin by its module, whether or not it is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    return pytester


def run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(SHOP + tests)
    return pytester.runpytest_subprocess("-p", "steplog_pytest", "-q", "--strict-markers", *options)


def test_a_coroutine_test_gets_the_testbed(pytest_run: pytest.Pytester) -> None:
    result = run(
        pytest_run,
        """
@pytest.fixture
def order(): return "o1"

async def test_ships(testbed: Testbed, order) -> None:
    run = await testbed.trigger(ship, {"id": order})
    assert run.waiting_for == "cool-off"
    await testbed.advance(timedelta(days=2))
    assert await run.result() == "ch_o1"

class TestInAClass:
    async def test_ships(self, testbed):
        assert self.__class__.__name__ == "TestInAClass"
        assert (await testbed.trigger(ship, {"id": "o2"})).steps["charge"].output == "ch_o2"

@pytest.mark.parametrize("number", [1, 2])
async def test_each_has_a_testbed_of_its_own(testbed, number):
    await testbed.trigger(ship, {"id": "o1"})
    assert len(testbed.runs()) == 1
""",
    )
    result.assert_outcomes(passed=4)


def test_options_come_by_a_marker_or_by_a_fixture_of_ones_own(pytest_run: pytest.Pytester) -> None:
    result = run(
        pytest_run,
        """
@pytest.mark.testbed(force_reentry=True)
async def test_reenters(testbed):
    assert testbed.reenter

class TestOther:
    @pytest.fixture
    def testbed(self):
        return Testbed(app, auto_retry=False)

    async def test_retries_by_hand(self, testbed):
        await testbed.send(__import__("steplog").Event(name="placed", data={"id": "o1"}))
        assert testbed.runs()[0].waiting_for == "cool-off"
""",
    )
    result.assert_outcomes(passed=2)


def test_a_failure_is_readable(pytest_run: pytest.Pytester) -> None:
    result = run(
        pytest_run,
        """
async def test_asserts(testbed):
    run = await testbed.trigger(ship, {"id": "o1"})
    assert run.status == "completed"

async def test_stubs(testbed):
    await testbed.trigger(ship, {"id": "o1"}, step_stubs={"chrge": "x"})
""",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*assert 'waiting' == 'completed'*", "*no step 'chrge' was called; did you mean 'charge'?*"]
    )


def test_other_tests_are_left_alone(pytest_run: pytest.Pytester) -> None:
    result = run(
        pytest_run,
        """
def test_plain(): pass

def test_plain_that_asks(testbed):
    assert isinstance(testbed, Testbed)

@pytest.mark.anyio
async def test_of_another_plugin():
    import asyncio
    assert type(asyncio.get_running_loop()).__name__ != "UsersLoop"

@pytest.mark.anyio
async def test_of_both(testbed):
    await testbed.trigger(ship, {"id": "o1"})

class TestOfAnotherTestbed:
    @pytest.fixture
    def testbed(self): return "of something else"

    @pytest.mark.anyio
    async def test_that_asks(self, testbed):
        import asyncio
        assert type(asyncio.get_running_loop()).__name__ != "UsersLoop"
""",
        "-p", "anyio.pytest_plugin", "-o", "anyio_mode=auto",
    )  # fmt: skip
    result.assert_outcomes(passed=5)


def test_loading_the_plugin_does_not_load_steplog() -> None:
    code = "import sys, pytest, steplog_pytest; print({'steplog', 'msgspec'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"
