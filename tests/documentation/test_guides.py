"""Every example of a guide does what the text beside it says."""

import asyncio
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import steplog
from steplog import Event, StepError
from steplog.cli.init import FILES, ORDERS, TEST_ORDERS
from steplog.engine import keys
from steplog.engine.effects import Effect
from steplog.engine.engine import Engine
from steplog.engine.messages import Message
from steplog.engine.processor import Processor, Turn
from steplog.errors import ConfigInvalid
from steplog.log.memory import MemoryLog
from steplog.testing import Testbed, Timeout

from .examples import example
from .pages import DOCS, snippets

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ORDER = {"id": "o1", "total": 5, "email": "ann@example.com"}


class Bank:
    """A bank that acts once for a key."""

    def __init__(self, *, failures: int = 0, is_closed: bool = False) -> None:
        self.is_closed, self.failures = is_closed, failures
        self.keys: list[str] = []

    async def charge(self, order: str, amount: int, *, idempotency_key: str) -> str:
        return await self.post(f"/{order}", {"amount": amount}, headers={"Idempotency-Key": idempotency_key})

    async def post(self, path: str, body: object, *, headers: dict[str, str]) -> str:
        self.keys.append(headers["Idempotency-Key"])
        if len(self.keys) <= self.failures:
            raise ConnectionError("the answer got lost")
        return f"receipt {len(set(self.keys))}"


def journal(testbed: Testbed) -> list[dict[str, Any]]:
    """Every record, with the number of its commit."""
    return [
        {"commit": commit, **json.loads(record)}
        for commit, records in testbed._process.log.journal
        for record in records
    ]


# --- concepts


async def test_a_run_is_the_records_that_the_concepts_show(testbed: Testbed) -> None:
    found = example("concepts.md", "The life of a run")
    run = await testbed.trigger(found.ship_order, ORDER)
    assert run.waiting_for == "cool-off"
    await testbed.crash()
    await testbed.advance(HOUR)
    assert await run.result() == "parcel-o1"
    written: dict[int, list[str]] = {}
    for record in journal(testbed):
        written.setdefault(record["commit"], []).append(record["kind"])
    rows = re.findall(r"^\| \d \| (.+?) \|", (DOCS / "concepts.md").read_text(encoding="utf8"), re.MULTILINE)
    assert [re.findall(r"`([a-z.]+)`", row) for row in rows] == list(written.values())


async def test_a_run_is_what_the_architecture_shows(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    applied, committed = Engine.apply, Processor.committed
    seen: list[set[str]] = [set()]
    turns: list[tuple[Turn, set[str], list[str]]] = []

    def noted(engine: Engine, message: Message) -> None:
        seen[-1].add(type(message).__name__)
        applied(engine, message)

    def released(processor: Processor) -> list[Effect]:
        found = committed(processor)
        turns[-1][2].extend(type(effect).__name__ for effect in found)
        return found

    async def commit(log: MemoryLog, turn: Turn) -> None:
        turns.append((turn, seen[-1] - {"PlanCrons", "SweepSeen"}, []))
        seen.append(set())
        await kept(log, turn)

    kept = MemoryLog.commit
    monkeypatch.setattr(Engine, "apply", noted)
    monkeypatch.setattr(Processor, "committed", released)
    monkeypatch.setattr(MemoryLog, "commit", commit)
    run = await testbed.trigger(example("concepts.md", "The life of a run").ship_order, ORDER)
    await testbed.advance(HOUR)
    assert run.status == "completed"
    page = (DOCS / "architecture.md").read_text(encoding="utf8")
    rows = [row.split(" | ") for row in re.findall(r"^\| (\d \| .+) \|$", page, re.MULTILINE)]
    assert len(rows) == len(turns) == 6
    for (_, messages, told, records, effects), (turn, decided, asked) in zip(rows, turns, strict=True):
        assert set(re.findall(r"`(\w+)`", messages)) == decided
        assert set(re.findall(r"`([+−][a-z/]+)`", told)) == {
            ("−" if value is None else "+") + re.sub(r"^(run)/.*?(/event|/step|$).*|/.*", r"\1\2", keys.printed(key))
            for key, value in turn.state.changes.items()
        }
        assert re.findall(r"`([a-z.]+)`", records) == [json.loads(record)["kind"] for record in turn.records]
        assert [each for each in re.findall(r"`(\w+)`", effects) if each != "Answer"] == asked, "nobody waits here"


async def test_every_attempt_has_one_key(testbed: Testbed) -> None:
    bank = Bank(failures=2)
    run = await testbed.trigger(example("concepts.md", "Idempotency keys", bank=bank).pay, ORDER)
    assert await run.result() == "receipt 1"
    assert len(bank.keys) == 3
    assert len(set(bank.keys)) == 1


# --- start


def test_the_project_of_the_first_minutes_is_the_one_that_init_makes(tmp_path: Path) -> None:
    made, first = [each.text for each in snippets(DOCS / "start.md") if each.language == "python"]
    assert made in ORDERS.format(app="shop")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("{app}", "shop").replace("{{", "{").replace("}}", "}"))
    (tmp_path / "test_orders.py").write_text(first)
    assert [line for line in first.splitlines() if "id" not in line and line not in TEST_ORDERS.splitlines()] == []
    environment = {"PYTHONPATH": str(Path(steplog.__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "steplog_pytest"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "1 passed" in tested.stdout, tested.stdout


# --- functions


async def test_what_starts_a_function(testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("functions.md", "What starts a function")
    await testbed.trigger(found.ship_order, found.placed(found.Order("o1", 5)))
    assert sorted(run.function for run in testbed.runs()) == ["shop-count-all", "shop-ship-order"]
    await testbed.send(Event(name="shop/order.placed", data={"id": "o2", "total": 0}))
    assert [run.function for run in testbed.runs()].count("shop-ship-order") == 1
    assert "5\n" in capsys.readouterr().out


def test_what_is_declared_wrongly_is_told_in_these_words() -> None:
    (told,) = [each.text for each in snippets(DOCS / "functions.md") if not each.language]
    with pytest.raises(ConfigInvalid) as error:
        steplog.App("shop").function("ship-order", trigger=("a", "app/user.update*"), retries=21)(lambda ctx: None)
    assert str(error.value) == told.rstrip()


async def test_an_example_of_types_and_what_is_told_of_a_misfit(testbed: Testbed) -> None:
    found = example("events.md", "Types of data")
    await testbed.trigger(found.import_order, {"id": "o1"})
    run = await testbed.trigger(found.ship_order, found.placed(found.Order("o1", 7), id="another"))
    assert [each.output for each in testbed.runs(found.ship_order)] == [5, 7] == [5, await run.result()]
    await testbed.send(Event(name="shop/order.placed", data={"id": "o2", "total": "5"}))
    error = testbed.runs(found.ship_order)[-1].error
    (told,) = [each.text for each in snippets(DOCS / "events.md") if not each.language]
    assert error is not None
    assert (error.name, error.message) == ("EventDataInvalid", told.rstrip())


# --- steps


async def charged(testbed: Testbed, bank: Bank, total: int = 5, notify: Any = str.upper) -> Any:
    found = example("steps.md", "Steps and retries", bank=bank, notify=notify)
    return await testbed.trigger(found.ship_order, ORDER | {"total": total})


async def test_a_record_is_written_to_a_topic(testbed: Testbed) -> None:
    await testbed.trigger(example("steps.md", "Records for topics of Kafka").book, {"id": "o1", "total": 5})
    (record,) = testbed.produced("ledger")
    assert (record.key, record.json()) == (b"o1", {"paid": 5})


async def test_steps_are_tried_again_and_what_failed_is_gone_on_without(testbed: Testbed) -> None:
    bank = Bank(failures=2)

    def broken(email: str) -> str:
        raise OSError(f"no mail to {email}")

    run = await charged(testbed, bank, notify=broken)
    assert await run.result() == {"receipt": "receipt 1", "told": "no mail to ann@example.com"}
    assert (run.steps["charge"].attempts, run.steps["notify"].attempts) == (3, 2)
    assert len(set(bank.keys)) == 1


async def test_a_step_that_cannot_succeed_fails_its_run_at_once(testbed: Testbed) -> None:
    run = await charged(testbed, Bank(), total=0)
    assert (run.status, run.steps["charge"].attempts, run.error.message) == ("failed", 1, "nothing to charge")
    assert "run.errored" not in [record["kind"] for record in journal(testbed)], "the function is not tried again"


@pytest.mark.testbed(auto_retry=False)
async def test_a_step_sets_the_time_of_its_next_attempt(testbed: Testbed) -> None:
    bank = Bank(is_closed=True)
    run = await charged(testbed, bank)
    bank.is_closed = False
    await testbed.advance(8 * HOUR - timedelta(milliseconds=1))
    assert run.waiting_for == "charge"
    await testbed.advance(timedelta(milliseconds=1))
    assert (await run.result())["receipt"] == "receipt 1"


@pytest.mark.testbed(auto_retry=False)
async def test_attempts_come_after_the_times_of_the_table(testbed: Testbed) -> None:
    found = example("failures.md", "Be told", pack=partial(_raise, OSError("jam")), notify=print)
    run = await testbed.trigger(found.pack_order, ORDER)
    (errored,) = [record for record in journal(testbed) if record["kind"] == "step.errored"]
    assert 15_000 <= errored["retry_at"] - errored["at"] < 45_000
    await testbed.advance(timedelta(seconds=45))
    assert run.status == "failed"


# --- waits


async def test_sleeping_for_a_time_and_until_a_time(testbed: Testbed) -> None:
    run = await testbed.trigger(example("waits.md", "For a time").remind, {"name": "ann"})
    assert run.waiting_for == "a-day"
    await testbed.advance(DAY)
    assert run.waiting_for == "the-sale"
    await testbed.advance(datetime(2026, 6, 1, 9, tzinfo=UTC) - testbed.now())
    assert await run.result() == "the sale has begun, ann"


async def test_waiting_for_an_event(testbed: Testbed) -> None:
    found = example("waits.md", "For an event")
    first, second, third = [await testbed.trigger(found.settle, {"id": f"o{n}"}) for n in range(3)]
    await testbed.send([found.paid(found.Paid("o0", 5)), found.voided({"order": "o1"})])
    assert [await first.result(), await second.result(), third.status] == ["paid 5", "voided", "waiting"]
    await testbed.advance(3 * DAY)
    assert await third.result() == "nobody paid"


@pytest.mark.testbed(auto_retry=False)
async def test_an_event_that_came_before_the_wait(testbed: Testbed) -> None:
    stock = Bank(failures=1)
    reserve = partial(stock.charge, amount=1, idempotency_key="reserve")
    found = example("waits.md", "What came before the wait", reserve=reserve)
    await testbed.send(Event(name="shop/order.paid", data={"id": "o1"}))
    run = await testbed.trigger(found.confirm, ORDER)
    await testbed.advance(timedelta(minutes=1))
    assert run.waiting_for == "paid", "what came before the trigger does not count"
    stock.failures = 3
    late = await testbed.trigger(found.confirm, {"id": "o2"})
    assert late.waiting_for == "reserve"
    await testbed.send(Event(name="shop/order.paid", data={"id": "o2"}))
    await testbed.advance(timedelta(minutes=1))
    assert await late.result() is True


async def test_waiting_for_a_signal(testbed: Testbed) -> None:
    found = example("waits.md", "For a signal")
    first, second = [await testbed.trigger(found.refund, {"id": f"o{n}"}) for n in range(2)]
    told = await testbed.trigger(found.decide, {"id": "o0", "name": "ann"})
    nobody = await testbed.trigger(found.decide, {"id": "o9", "name": "ann"})
    assert (await first.result(), await told.result(), await nobody.result()) == ("ann decided", True, False)
    await testbed.advance(DAY)
    assert await second.result() == "nobody decided"


# --- calls


async def test_calling_a_function(testbed: Testbed) -> None:
    found = example("invoking.md", "Calling functions", scales=lambda grams: grams + 10)
    run = await testbed.trigger(found.ship, {"id": "o1", "grams": 490})
    assert await run.result() == "500 g"
    (weighed,) = testbed.runs(found.weigh)
    assert (weighed.output, weighed.events[0].name) == (500, "inngest/function.invoked")
    waiting = [record for record in journal(testbed) if record["kind"] == "step.waiting"]
    assert waiting[0]["child"] == weighed.run_id


async def test_a_callee_that_fails(testbed: Testbed) -> None:
    found = example("invoking.md", "Calling functions", scales=partial(_raise, OSError("no scales")))
    run = await testbed.trigger(found.ship, {"id": "o1", "grams": 490})
    assert await run.result() == "not weighed: no scales"


# --- crons


async def test_a_cron(testbed: Testbed) -> None:
    found = example("crons.md", "Crons", write=lambda now: now.isoformat())
    async with Testbed(found.app) as night:  # it begins on a Thursday
        await night.advance(7 * DAY)
        runs = night.runs(found.report)
        begun = [datetime.fromisoformat(run.output) for run in runs]
        assert [(each.weekday(), each.hour) for each in begun] == [(day, 6) for day in (3, 4, 0, 1, 2)]
        assert all(each.minute < 5 for each in begun), "the jitter"
        assert runs[0].events[0].data["cron"] == "TZ=Europe/Paris 0 7 * * mon-fri"


# --- parallel steps


async def test_parallel_steps_are_one_result(testbed: Testbed) -> None:
    given = {"ask": len, "print_label": lambda order: f"label {order}", "pack": lambda order: f"parcel {order}"}
    found = example("parallel.md", "Wait for all", **given)
    quotes = await testbed.trigger(found.quote, {"carriers": ["a", "bcd", "ef"]})
    assert await quotes.result() == [1, 3, 2]
    assert list(quotes.steps) == ["ask", "ask:1", "ask:2"]
    ship = await testbed.trigger(found.ship, ORDER)
    assert await ship.result() == "label o1 on parcel o1"


@pytest.mark.testbed(force_reentry=True)
async def test_branches_of_several_steps_are_replayed(testbed: Testbed) -> None:
    found = example("parallel.md", "Branches of several steps", read=lambda part: part * 10, write=lambda rows: rows)
    run = await testbed.trigger(found.import_file, {"parts": 3})
    assert await run.result() == 30
    assert sorted(run.steps) == [f"{what}-{part}" for what in ("read", "write") for part in range(3)]


async def test_a_race(testbed: Testbed) -> None:
    found = example("parallel.md", "Wait for the first", ask=str.upper)
    run = await testbed.trigger(found.ask_twice, {"text": "well?"})
    assert await run.result() == "WELL?"
    late = await testbed.trigger(found.ask_twice, {"text": "well?"}, step_stubs={"ask": _never, "too-late": None})
    assert await late.result() == "no answer"


# --- plain functions


async def test_a_plain_function(testbed: Testbed) -> None:
    found = example("plain-functions.md", "Plain functions", charge=lambda order, total: f"receipt {order}")
    run = await testbed.trigger(found.ship_order, ORDER)
    await testbed.advance(HOUR)
    await testbed.send(Event(name="shop/order.paid", data={"id": "o1"}))
    assert await run.result() == "receipt o1, paid"
    late = await testbed.trigger(found.ship_order, ORDER, step_stubs={"paid": Timeout})
    await testbed.advance(HOUR)
    assert await late.result() == "receipt o1, not paid"


# --- failures


async def test_undoing(testbed: Testbed) -> None:
    cancelled: list[str] = []
    given = {"book_hotel": str.upper, "cancel_hotel": cancelled.append, "book_flight": str.upper}
    found = example("failures.md", "What is undone", **given)
    assert await (await testbed.trigger(found.book_trip, {"city": "rome"})).result() == "booked ROME"
    full = {"flight": StepError("the plane is full")}
    run = await testbed.trigger(found.book_trip, {"city": "oslo"}, step_stubs=full)
    assert await run.result() == "nothing booked: the plane is full"
    assert cancelled == ["OSLO"]


async def test_being_told_of_a_failure(testbed: Testbed) -> None:
    told: list[tuple[str, str]] = []
    given = {"pack": partial(_raise, OSError("jam")), "notify": lambda text, order: told.append((text, order))}
    found = example("failures.md", "Be told", **given)
    run = await testbed.trigger(found.pack_order, ORDER)
    assert (run.status, run.steps["pack"].attempts) == ("failed", 2)
    assert told == [("shop-pack-order: jam", "o1")]
    assert [each.function for each in testbed.runs()] == ["shop-pack-order", "shop-pack-order-failure"]


# --- versions


@pytest.mark.testbed(auto_retry=False)
async def test_a_strict_function(testbed: Testbed) -> None:
    found = example(
        "versions.md", "Be strict", charge=lambda order: f"receipt {order}", pack=partial(_raise, OSError())
    )
    run = await testbed.trigger(found.ship_order, ORDER)
    assert run.waiting_for == "pack"

    async def changed(ctx: steplog.Context) -> str:
        return await ctx.step.run("pack", str.upper, "charge is called no more")

    found.ship_order.handler = changed
    await testbed.crash()
    await testbed.advance(HOUR)
    assert run.error is not None
    assert (run.status, run.error.name) == ("failed", "StepsChanged")


# --- the readme


async def test_the_example_of_the_readme(testbed: Testbed) -> None:
    from dataclasses import dataclass

    @dataclass
    class Order:
        id: str
        total: int

    def charge(order: str, total: int) -> str:
        return f"receipt {order}"

    def pack(order: str, receipt: str) -> str:
        return f"{order} packed, {receipt}"

    given = {
        "app": steplog.App("shop"), "Context": steplog.Context, "EventType": steplog.EventType, "Order": Order,
        "timedelta": timedelta, "charge": charge, "pack": pack,
    }  # fmt: skip
    found = example("../README.md", "steplog", **given)
    run = await testbed.trigger(found.ship_order, Order("o1", 5))
    await testbed.send(Event(name="shop/order.paid", data={"order": "o1"}))
    assert run.waiting_for == "cool-off"
    await testbed.advance(HOUR)
    assert await run.result() == "o1 packed, receipt o1"


def _raise(error: Exception, *_: object) -> str:
    raise error


async def _never(*_: object) -> None:
    await asyncio.Event().wait()
