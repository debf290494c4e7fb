"""At rest: told when nothing of a tenant is ready any more, and not a callback before."""

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import ModuleType
from typing import Any

import pytest

from steplog.drivers import loop as loop_module

LIMIT_S = 20


def _with_asyncio_alone() -> ModuleType:
    """The module, as it is imported where there is no uvloop."""
    spec = importlib.util.spec_from_file_location("steplog_plain_loop", loop_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    uvloop = sys.modules.get("uvloop")
    sys.modules["uvloop"] = None  # type: ignore[assignment] # this is how an import is made to fail
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["uvloop"]
        if uvloop is not None:
            sys.modules["uvloop"] = uvloop
    return module


@pytest.fixture(params=["uvloop", "asyncio"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return loop_module if request.param == "uvloop" else _with_asyncio_alone()


class Guest:
    """A tenant whose code waits on futures that the test resolves, one each time the tenant rests."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.waiting: list[asyncio.Future[int]] = []
        self.log: list[str] = []  # what its code did, and "rest"
        guest = self

        class Tenant(module.Tenant):  # type: ignore[misc] # the module comes in as Any
            def rest(self) -> None:
                guest.log.append("rest")
                guest.waiting.pop(0).set_result(len(guest.log))
                if guest.waiting:
                    guest.ask()

        self.tenant = Tenant()

    def future(self) -> "asyncio.Future[int]":
        """A future that is resolved when the tenant has come to rest."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.ask()
        return future

    def ask(self) -> None:
        """Have the tenant told when it is at rest."""
        loop: Any = asyncio.get_running_loop()
        loop.tell_at_rest(self.tenant)

    async def step(self, name: str) -> str:
        """Wait for a turn at rest, as for a step's result."""
        await self.future()
        self.log.append(name)
        return name

    def live(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a body as the tenant until it ends."""

        async def main() -> Any:
            context = copy_context()
            context.run(self.module.TENANT.set, self.tenant)
            async with asyncio.timeout(LIMIT_S):
                result = await asyncio.get_running_loop().create_task(body(), context=context)
                await asyncio.sleep(0.001)
                return result

        with asyncio.Runner(loop_factory=self.module.UsersLoop) as runner:
            return runner.run(main())


@pytest.fixture
def guest(module: Any) -> Guest:
    return Guest(module)


def test_the_base_is_uvloop_where_it_installs_and_asyncio_elsewhere() -> None:
    bases = loop_module.UsersLoop.__mro__
    assert "uvloop" in bases[1].__module__
    assert _with_asyncio_alone().UsersLoop.__mro__[1] is asyncio.SelectorEventLoop


def test_results_come_one_at_a_time_each_after_all_that_followed_from_the_one_before(guest: Guest) -> None:
    async def body() -> None:
        await guest.step("a")
        await guest.step("b")

    guest.live(body)
    assert guest.log[:4] == ["rest", "a", "rest", "b"]


def test_rest_is_exact_for_gathers_nested_twelve_deep(guest: Guest) -> None:
    async def nested(depth: int, name: str) -> None:
        if depth:
            await asyncio.gather(nested(depth - 1, name + "l"), nested(0, name + "r"))
        else:
            await guest.step(name)

    async def body() -> None:
        await nested(12, "")
        guest.log.append("gathered")  # twelve passes of the loop after the last result

    guest.live(body)
    ends = [entry for entry in guest.log if entry != "rest"]
    assert len(ends) == 14
    assert guest.log[: 2 * 13] == [x for name in ends[:13] for x in ("rest", name)]
    assert guest.log[26] == "gathered", "the gathers unwound before the next rest"


def test_a_long_chain_of_passes_is_followed_to_its_end(guest: Guest) -> None:
    async def body() -> None:
        await guest.step("a")
        for _ in range(500):
            await asyncio.sleep(0)
        guest.log.append("still the same turn")
        await guest.step("b")

    guest.live(body)
    assert guest.log[:5] == ["rest", "a", "still the same turn", "rest", "b"]


def test_callbacks_of_futures_count_without_any_task(guest: Guest) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        ends = loop.create_future()

        def later(depth: int) -> None:
            guest.log.append(f"callback {depth}")
            if depth:
                following = loop.create_future()
                following.add_done_callback(lambda _: later(depth - 1))
                following.set_result(None)
            else:
                guest.future().add_done_callback(lambda _: ends.set_result(None))

        guest.future().add_done_callback(lambda _: later(5))
        await ends

    guest.live(body)
    assert guest.log[:8] == ["rest", *(f"callback {depth}" for depth in range(5, -1, -1)), "rest"]


def test_task_groups(guest: Guest) -> None:
    async def branch(name: str) -> None:
        await guest.step(f"{name}1")
        await guest.step(f"{name}2")

    async def body() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in "abc":
                tasks.create_task(branch(name))
        guest.log.append("joined")

    guest.live(body)
    assert guest.log[:13] == [
        x for name in ("a1", "b1", "c1", "a2", "b2", "c2") for x in ("rest", name)
    ] + ["joined"]  # fmt: skip


def test_a_timeout_of_nothing_and_cancelled_handles_leave_no_one_waiting(guest: Guest) -> None:
    async def body() -> None:
        for _ in range(3):
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                guest.log.append("timeout")
        handle = asyncio.get_running_loop().call_soon(guest.log.append, "never")
        handle.cancel()
        await guest.step("a")

    guest.live(body)
    assert guest.log[:5] == ["timeout", "timeout", "timeout", "rest", "a"]


def test_what_the_tenants_own_threads_schedule_counts(guest: Guest) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        context = copy_context()
        came = asyncio.Event()

        def thread() -> None:
            for number in range(3):
                context.run(loop.call_soon_threadsafe, guest.log.append, f"from thread {number}")
            context.run(loop.call_soon_threadsafe, came.set)

        worker = threading.Thread(target=thread)
        worker.start()
        await came.wait()
        worker.join()
        guest.log.append("came")
        await guest.step("a")

    guest.live(body)
    at = guest.log.index("came")
    assert [entry for entry in guest.log[:at] if entry != "rest"] == [f"from thread {number}" for number in range(3)]
    assert guest.log[at : at + 3] == ["came", "rest", "a"]


def test_shield(guest: Guest) -> None:
    async def body() -> None:
        shielded = asyncio.ensure_future(guest.step("a"))
        try:
            async with asyncio.timeout(0):
                await asyncio.shield(shielded)
        except TimeoutError:
            guest.log.append("turned away")
        await guest.step("b")
        await shielded

    guest.live(body)
    assert guest.log[:5] == ["turned away", "rest", "a", "rest", "b"]


def test_the_winner_of_a_race_is_known_before_the_next_result_comes(guest: Guest) -> None:
    async def body() -> None:
        racing = {asyncio.create_task(guest.step(name)) for name in "ab"}
        done, pending = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        guest.log.append(f"{len(done)} won, {len(pending)} did not")
        for task in pending:
            task.cancel()
        guest.waiting.clear()
        await guest.step("c")

    guest.live(body)
    assert guest.log[:5] == ["rest", "a", "1 won, 1 did not", "rest", "c"]


def test_a_body_that_never_rests_does_not_keep_results_from_its_siblings_for_ever(guest: Guest) -> None:
    async def body() -> None:
        async def restless() -> None:
            while True:
                await asyncio.sleep(0)

        spinning = asyncio.create_task(restless())
        assert [await guest.step("a"), await guest.step("b")] == ["a", "b"]
        spinning.cancel()

    guest.live(body)
    assert [entry for entry in guest.log if entry != "rest"] == ["a", "b"]


def test_a_restless_tenant_does_not_keep_rest_from_others(module: Any) -> None:
    quick = Guest(module)
    restless = module.Tenant()

    async def body() -> None:
        context = copy_context()
        context.run(module.TENANT.set, restless)

        async def spin() -> None:
            while True:
                await asyncio.sleep(0)

        spinning = asyncio.get_running_loop().create_task(spin(), context=context)
        loop: Any = asyncio.get_running_loop()
        passes = loop.passes
        await quick.step("a")
        assert loop.passes - passes < 10
        spinning.cancel()

    quick.live(body)


def test_what_is_awaited_outside_is_not_waited_for(guest: Guest) -> None:
    async def body() -> None:
        async def other() -> None:
            await asyncio.sleep(0.01)
            guest.log.append("timer")

        timed = asyncio.create_task(other())
        await guest.step("a")
        await timed

    guest.live(body)
    assert guest.log[:2] == ["rest", "a"]


def test_callbacks_of_nobody_are_nobodys(module: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for _ in range(10):
            await asyncio.sleep(0)
        assert loop.passes == 0

    with asyncio.Runner(loop_factory=module.UsersLoop) as runner:
        runner.run(main())


def test_an_error_in_one_tenants_rest_does_not_take_rest_from_another(module: Any) -> None:
    complaints: list[object] = []
    rested = asyncio.Event()

    class Broken(module.Tenant):  # type: ignore[misc] # the module comes in as Any
        def rest(self) -> None:
            raise RuntimeError("broken")

    class Other(module.Tenant):  # type: ignore[misc] # the module comes in as Any
        def rest(self) -> None:
            rested.set()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        loop.tell_at_rest(Broken())
        loop.tell_at_rest(Other())
        async with asyncio.timeout(LIMIT_S):
            await rested.wait()

    with asyncio.Runner(loop_factory=module.UsersLoop) as runner:
        runner.run(main())
    assert [str(error) for error in complaints] == ["broken"]
