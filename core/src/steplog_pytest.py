"""The pytest plugin: the fixture ``testbed``, and coroutine tests that ask for it (docs/testing.md).

A module beside the package, because it is loaded in every pytest run of the environment: importing it must not import
``steplog``, which happens when a test asks for the fixture.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from steplog.testing import Testbed

FIXTURE = "testbed"
MARKER = "testbed(auto_retry=True, force_reentry=False, start=…, patience_s=5): how the fixture testbed is made"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def testbed(request: pytest.FixtureRequest) -> Testbed:
    """Functions over the real engine, in virtual time."""
    from steplog.testing import Testbed

    marker = request.node.get_closest_marker(FIXTURE)
    return Testbed(*marker.args, **marker.kwargs) if marker is not None else Testbed()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a coroutine test that asks for the testbed on the loop that functions run on; leave all others alone.

    Whichever plugin runs coroutines finds a plain function here.
    """
    before = pyfuncitem.obj
    test = _coroutine_function(before)
    testbed = pyfuncitem.funcargs.get(FIXTURE)
    if test is not None and _is_ours(testbed):
        pyfuncitem.obj = _on_users_loop(test, testbed)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = before


def _coroutine_function(test: Any) -> Any:
    """The test's own function, also where another plugin has made a plain one of it."""
    unwrapped = test if hasattr(test, "hypothesis") else inspect.unwrap(test)
    return next((each for each in (test, unwrapped) if inspect.iscoroutinefunction(each)), None)


def _is_ours(testbed: object) -> TypeGuard[Testbed]:
    """Whether the fixture's value is ours, and not that of a project that has a ``testbed`` of another kind."""
    testing = sys.modules.get("steplog.testing")
    return testing is not None and isinstance(testbed, testing.Testbed)


def _on_users_loop(test: Any, testbed: Testbed) -> Any:
    from steplog.testing import UsersLoop

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            async with testbed:
                await test(**arguments)

        with asyncio.Runner(loop_factory=UsersLoop) as runner:
            runner.run(main())

    return run
