"""``step.produce``: a record of another topic in the transaction of the step's own record."""

import asyncio
from typing import Any

import pytest

from steplog import App, Context, ContextSync, Event, ProducedRecord, Step, StepError
from steplog.engine.functions import EngineConfig
from steplog.engine.operations import Produce
from steplog.engine.retry import RetryPolicy
from steplog.errors import (
    LogUnavailable,
    OutputUnserializable,
    ProduceUnsupported,
    RecordRefused,
    RecordTooLarge,
    TopicUnknown,
)
from steplog.log.broker import BrokerError, Target
from steplog.log.memory import MemoryLog
from steplog.log.targets import KNOWN_MS, MISSED_MS, REFUSED_MS, Targets
from steplog.testing import Produced, Testbed, trigger

from .running import config, declare, go, on_users_loop, perform, plus_one, running, steps

PRODUCING = config(engine=EngineConfig(can_produce=True, retry=RetryPolicy(interval_ms=1)))
app = App("shop")


@app.function("book", trigger="shop/order.placed")
async def book(ctx: Context) -> str | None:
    order = ctx.event.data["id"]
    await ctx.step.produce("text", topic="raw", value="dear reader", headers={"to": "ann", "raw": b"\xff"})
    await ctx.step.produce("bytes", topic="raw", key=b"\x00", value=b"\x01", partition=3)
    await ctx.step.produce("gone", topic="raw", key="k", value=None)
    written = await ctx.step.produce("ledger", topic="ledger", key=order, value={"order": order, "n": [1]})
    assert written == ProducedRecord(topic="ledger", key=order)
    return written.key


@app.function("book-plainly", trigger="shop/plain")
def book_plainly(ctx: ContextSync) -> str:
    return ctx.step.produce("ledger", topic="ledger", key="k", value=[]).topic


async def test_what_is_produced_is_seen_in_the_testbed(testbed: Testbed) -> None:
    run = await testbed.trigger(book, {"id": "ö1"})
    assert await run.result() == "ö1"
    assert testbed.produced("raw") == [
        Produced(topic="raw", key=None, value=b"dear reader", headers={"to": b"ann", "raw": b"\xff"}),
        Produced(topic="raw", key=b"\x00", value=b"\x01", partition=3),
        Produced(topic="raw", key=b"k", value=None),
    ]
    (record,) = testbed.produced("ledger")
    assert (record.key, record.json()) == ("ö1".encode(), {"order": "ö1", "n": [1]})
    assert run.steps["ledger"].output == {"topic": "ledger", "key": "ö1"}
    assert run.steps["ledger"].op == "Produce"
    assert testbed.produced("raw")[2].json() is None


async def test_a_replay_produces_nothing_again(testbed: Testbed) -> None:
    testbed.reenter = True
    run = await testbed.trigger(book, {"id": "o1"})
    await testbed.crash()
    assert run.status == "completed"
    assert (len(testbed.produced("raw")), len(testbed.produced("ledger"))) == (3, 1)


async def test_plain_functions_produce_as_well(testbed: Testbed) -> None:
    run = await testbed.trigger(book_plainly, {})
    assert await run.result() == "ledger"
    assert [record.value for record in testbed.produced("ledger")] == [b"[]"]


def test_a_function_without_an_engine_writes_nothing() -> None:
    assert trigger(book, Event(name="shop/order.placed", data={"id": "o1"})).output == "o1"


def test_a_log_that_is_not_on_kafka_fails_the_step_at_once() -> None:
    async def body(ctx: Context) -> list[str]:
        try:
            await ctx.step.produce("ledger", topic="ledger", value={})
        except StepError as error:
            return [error.name, error.message]
        return []

    (name, message), log = perform(body)
    assert name == ProduceUnsupported.__name__
    assert "needs a log on Kafka" in message
    assert (log.produced, steps(log)) == ([], ["ledger"])


def test_what_a_run_that_is_over_asks_for_is_not_written() -> None:
    async def body(ctx: Context) -> None:
        async def late() -> None:
            await ctx.step.run("slow", plus_one, 1)
            await ctx.step.produce("late", topic="ledger", value=b"late")

        async def broken() -> None:
            await ctx.step.produce("first", topic="ledger", value=b"first")
            raise ValueError("it is over")

        await asyncio.gather(late(), broken())

    async def story() -> MemoryLog:
        log = MemoryLog()
        async with running(declare(body, retries=0), log, PRODUCING) as node:
            (ended,) = await node.run(go())
            assert ended.status == "failed"
        return log

    log = on_users_loop(story())
    values = [record.value for record in log.produced]
    assert values.count(b"first") == 1
    assert len(values) == sum(step in ("first", "late") for step in steps(log))


@pytest.mark.parametrize(
    ("given", "problem", "text"),
    [
        ({"topic": "a/b", "value": 1}, ValueError, "topic is 'a/b', it must have 1 to 249 of the characters"),
        ({"topic": "..", "value": 1}, ValueError, r"topic is '\.\.'"),
        ({"topic": "", "value": 1}, ValueError, "topic is ''"),
        ({"topic": 5, "value": 1}, ValueError, "topic is 5"),
        ({"topic": "t", "value": 1, "key": 5}, TypeError, "key is 5; it is text or bytes"),
        ({"topic": "t", "value": 1, "headers": {"h": None}}, TypeError, "header h is None"),
        ({"topic": "t", "value": 1, "partition": -1}, ValueError, "partition is -1; it counts from 0"),
    ],
)
def test_what_no_topic_takes_is_refused_where_it_is_written(
    given: dict[str, Any], problem: type[Exception], text: str
) -> None:
    runner: Any = None  # it is not asked
    with pytest.raises(problem, match=text):
        asyncio.run(Step(runner).produce("s", **given))


async def test_a_value_that_is_no_json_is_named(testbed: Testbed) -> None:
    @app.function(trigger="shop/wrong", retries=0)
    async def wrong(ctx: Context) -> None:
        await ctx.step.produce("ledger", topic="ledger", value={"x": object()})

    run = await testbed.trigger(wrong, Event(name="shop/wrong"))
    assert run.error is not None
    assert run.error.name == OutputUnserializable.__name__


class World:
    """Topics whose time stands still."""

    def __init__(self, **targets: Target | BrokerError) -> None:
        self.targets: dict[str, Target | BrokerError] = targets
        self.looked: list[str] = []
        self.now_ms = 0
        self.known = Targets(self.describe, lambda: self.now_ms)

    async def describe(self, topic: str) -> Target | None:
        self.looked.append(topic)
        found = self.targets.get(topic)
        if isinstance(found, BrokerError):
            raise found
        return found

    def problem(self, topic: str, **fields: Any) -> str | None:
        record = Produce(topic=topic, **({"key": None, "value": b"v"} | fields))
        found = asyncio.run(self.known.problem(record))
        return None if found is None else f"{type(found).__name__} {found.retryable}: {found}"


def test_a_record_that_its_topic_would_refuse_gets_into_no_transaction() -> None:
    world = World(ledger=Target(3, 100), keyed=Target(1, 100, is_compacted=True), shut=BrokerError("not yours"))
    assert world.problem("ledger") is None
    assert world.problem("ledger", partition=2) is None
    assert world.problem("keyed", key=b"k") is None
    for found, kind, text in (
        (world.problem("nowhere"), TopicUnknown, "there is no topic nowhere"),
        (world.problem("ledger", partition=3), TopicUnknown, "has no partition 3, its last is 2"),
        (world.problem("ledger", key=b"k" * 60, value=b"v" * 30, headers=(("h", b"12345678901"),)), RecordTooLarge,
         "is 102 bytes, the topic takes 100"),
        (world.problem("keyed"), RecordRefused, "its records need a key"),
        (world.problem("shut"), LogUnavailable, "cannot be looked at: not yours"),
    ):  # fmt: skip
        assert found is not None
        assert found.startswith(f"{kind.__name__} {kind.retryable}: ")
        assert text in found


def test_topics_are_looked_at_now_and_then() -> None:
    world = World(ledger=Target(3, 100))
    assert world.problem("ledger") is None
    world.now_ms += KNOWN_MS - 1
    assert world.problem("ledger") is None
    assert world.problem("new") is not None
    assert world.looked == ["ledger", "new"]
    world.targets["new"] = Target(1, 100)
    world.now_ms += MISSED_MS
    assert world.problem("new") is None
    assert world.problem("ledger") is None
    assert world.looked == ["ledger", "new", "new", "ledger"]
    world.known.forget()
    assert world.problem("ledger") is None
    assert world.looked[4:] == ["ledger"]


def test_a_topic_that_has_refused_a_record_gets_no_other_for_a_while() -> None:
    world = World(ledger=Target(3, 100))
    world.known.refused("ledger", "its policy says so")
    world.known.forget()
    assert "its policy says so" in str(world.problem("ledger"))
    world.now_ms += REFUSED_MS
    assert world.problem("ledger") is None
