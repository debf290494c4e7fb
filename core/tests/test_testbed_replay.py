"""Functions end alike in a testbed however it carries them out: live, re-entered after every step, or crashed."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings

from steplog import App, Event
from steplog.loading import load_apps
from steplog.testing import RunView, StepView, Testbed

from .running import Heard, declare, go, on_users_loop
from .test_replay_property import PROGRAMS, Execution

MOST_NAPS = 100
EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"


class Seen(NamedTuple):
    """What must not depend on how a run is carried out."""

    output: Any
    steps: list[tuple[str, StepView]]


def seen(run: RunView[Any]) -> Seen:
    assert run.status == "completed", run
    found = [(key.partition(":")[0], step) for key, step in run.steps.items()]  # branches may share an id
    return Seen(run.output, sorted(found, key=str))


async def carry_out(testbed: Testbed, app: App, event: Event[Any], *, crashes: bool = False) -> Seen:
    """Trigger the app's one function and let all its naps pass."""
    (function,) = app.functions.values()
    async with testbed:
        run = await testbed.trigger(function, event)
        for _ in range(MOST_NAPS):
            if run.status != "waiting":
                break
            if crashes:
                await testbed.crash()
            await testbed.advance(5)
        return seen(run)


@pytest.mark.spec("DUR-01", "DUR-04", "DUR-06")
@settings(
    max_examples=25, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(program=PROGRAMS)
def test_a_function_ends_alike_however_a_testbed_carries_it_out(program: list[Any], heard: Heard) -> None:
    live, reentered, crashed = Execution(program), Execution(program), Execution(program)
    for breaks in (False, True):
        expected = on_users_loop(carry_out(Testbed(), declare(live.body), go(breaks=breaks)))
        forced = carry_out(Testbed(force_reentry=True), declare(reentered.body), go(breaks=breaks))
        assert on_users_loop(forced) == expected
        assert reentered.bodies == live.bodies, "re-entry repeats no body"
        dying = carry_out(Testbed(), declare(crashed.body), go(breaks=breaks), crashes=True)
        assert on_users_loop(dying) == expected
        assert crashed.bodies == live.bodies, "nothing runs while a run only waits"
    assert heard.fields("have changed") == []


@pytest.mark.spec("DUR-06")
def test_the_example_ends_alike_live_and_reentered() -> None:
    (shop,) = load_apps([str(EXAMPLE)])
    (ship_order,) = shop.functions.values()

    async def story(testbed: Testbed) -> Seen:
        order = {"id": "o1", "total": 4200, "email": "ada@example.com"}
        async with testbed:
            return seen(await testbed.trigger(ship_order, order))

    live = on_users_loop(story(Testbed()))
    assert live.output == {"receipt": "charge-o1", "parcel": "pack-o1"}
    assert [step_id for step_id, _ in live.steps] == ["charge", "notify", "pack"]
    assert on_users_loop(story(Testbed(force_reentry=True))) == live
