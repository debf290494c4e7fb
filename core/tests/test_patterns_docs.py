"""``docs/patterns.md``: every example does what the text beside it says."""

import asyncio
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steplog import Event
from steplog.engine.functions import CronTrigger, EngineConfig, EventTrigger
from steplog.log.memory import MemoryLog
from steplog.testing import Testbed

from .running import config, on_users_loop, running
from .serving import served

PAGE = (Path(__file__).parents[2] / "docs" / "patterns.md").read_text()
EXAMPLES = dict(re.findall(r"^## (.+?)\n.*?```python\n(.+?)```", PAGE, re.DOTALL | re.MULTILINE))


def example(title: str) -> dict[str, Any]:
    """What the example below a heading defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(EXAMPLES[title], names)
    return names


def test_every_heading_has_an_example_and_every_example_a_test() -> None:
    assert len(EXAMPLES) == PAGE.count("\n## ") == PAGE.count("```python") == 6
    tests = Path(__file__).read_text()
    assert [title for title in EXAMPLES if f'example("{title}")' not in tests] == []


@pytest.mark.spec("STEP-20", "PAR-08")
async def test_a_step_with_limits_of_its_own_is_a_function(testbed: Testbed) -> None:
    found = example("A step that needs limits of its own")
    run = await testbed.trigger(found["welcome"], {"name": "ann"})
    assert await run.result() == "dear ann"
    (letter,) = testbed.runs(found["ask_model"])
    assert letter.run_id != run.run_id
    assert (found["ask_model"].spec.retries, found["welcome"].spec.retries) == (1, 4)


@pytest.mark.spec("PAR-12", "LIM-08")
def test_many_items_are_one_step_or_runs_of_their_own() -> None:
    found, log = example("More than a thousand items"), MemoryLog()
    few_steps = config(engine=EngineConfig(steps_per_run=2))

    async def body() -> None:
        async with running(found["app"], log, few_steps) as node:
            (summed,) = await node.run(Event(name="shop/prices.changed", data={"count": 2_000}))
            assert summed.output == sum(price * 2 for price in range(2_000))
            (sent,) = await node.run(Event(name="shop/month.ended", data={"count": 50}))
            assert sent.output == 50

    on_users_loop(body())
    reminded = [b for _, turn in log.journal for b in turn if b'"run.scheduled"' in b and b'"shop-remind-user"' in b]
    assert len(reminded) == 50


@pytest.mark.spec("IDEM-05", "DUR-13")
async def test_what_is_written_twice_counts_once(testbed: Testbed, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = example("A body that runs twice")
    run = await testbed.trigger(found["pay"], {"total": 5})
    assert (await run.result(), run.steps["charge"].attempts) == (5, 2)
    found["db"].close()
    with sqlite3.connect(tmp_path / "shop.db") as db:
        assert db.execute("SELECT count(*), sum(amount) FROM charges").fetchone() == (1, 5)
    db.close()


@pytest.mark.spec("DUR-12", "FN-04")
async def test_the_time_of_the_event_decides_between_an_old_function_and_its_successor(testbed: Testbed) -> None:
    found = example("Large changes of a function")
    order = Event(name="shop/order.placed")
    cut_over = datetime(2026, 1, 2, tzinfo=UTC)
    assert await (await testbed.trigger(found["ship"], order)).result() == "as before"
    await testbed.advance(cut_over - testbed.now() - timedelta(milliseconds=1))
    await testbed.send(order)
    await testbed.advance(timedelta(milliseconds=1))
    await testbed.send(order)
    assert [run.function for run in testbed.runs()] == ["shop-ship", "shop-ship", "shop-ship-2"]
    assert testbed.runs(found["ship_2"])[0].output == "in the new way"


@pytest.mark.spec("FN-16")
@pytest.mark.parametrize(
    ("deployment", "trigger"), [("production", CronTrigger("0 3 * * *")), ("", EventTrigger("shop/nightly.wanted"))]
)
async def test_the_clock_starts_a_function_in_production_alone(
    deployment: str, trigger: Any, testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYMENT", deployment)
    found = example("Crons in production only")
    assert found["nightly"].spec.triggers == (trigger,)
    async with Testbed(found["app"]) as night:
        await night.advance(timedelta(days=1))
        assert len(night.runs()) == (deployment == "production")


@pytest.mark.spec("EVT-22")
def test_a_browsers_event_is_sent_by_an_endpoint_that_keeps_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLOG_EVENT_KEY", "the-key")
    with served() as (server, backend):
        monkeypatch.setenv("STEPLOG_URL", f"http://127.0.0.1:{server.port}")
        found = example("Events from a browser")
        said = asyncio.run(post(found["web"], "/clicked", {"item": "cup", "user": "mallory"}))
        found["client"].close()
    assert said == (200, {"ok": True}), "no key in it"
    ((event,),) = backend.groups
    assert json.loads(event.body)["data"] == {"item": "cup", "user": "ann"}


async def post(app: Any, path: str, body: object) -> tuple[int, Any]:
    """Post to an ASGI application, as a page does for the user ann."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"x-user", b"ann")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])
