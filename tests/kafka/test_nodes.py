"""Several nodes of one log on a real broker: any of them takes what another decides, and goes on where one dies."""

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from compose.kafka_local import Cluster
from steplog.log.topics import JOURNAL, Layout, prepare
from steplog.paths import KafkaAddress
from steplog.values import fitting
from tests.kafka_clients import QUICK, alter_topic

from .nodes import Node, nodes, until

SOURCE = """
from datetime import timedelta
from steplog import App, Context

app = App("shop")


async def note(text: str) -> str:
    return text


@app.function("order", trigger="shop/order")
async def order(ctx: Context) -> str:
    n = ctx.event.data["n"]
    first = await ctx.step.run("first", note, f"order {n}")
    answer = await ctx.step.wait_for_signal("manager", signal=f"approve/{n}", timeout=timedelta(hours=1))
    return f"{first}: {answer.data}"


@app.function("quick", trigger="shop/quick")
async def quick(ctx: Context) -> str:
    return await ctx.step.run("only", note, str(ctx.event.data["n"]))


@app.function("large", trigger="shop/large")
async def large(ctx: Context) -> str:
    return await ctx.step.run("only", note, "x" * ctx.event.data["n"])
"""
LATER = """
from steplog import App, Context

app = App("late")


@app.function("hear", trigger="shop/quick")
async def hear(ctx: Context) -> str:
    return "heard"
"""


@pytest.fixture
def log(kafka: Cluster, kafka_prefix: str) -> str:
    return f"kafka://{kafka.bootstrap}/{kafka_prefix[-40:]}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text(SOURCE)
    return path


OPTIONS = ("--set", "kafka.partitions=4")


@pytest.mark.spec("ARCH-02")
def test_any_node_takes_what_another_decides(log: str, source: Path, tmp_path: Path) -> None:
    with nodes(["one", "two"], log, tmp_path, source, OPTIONS) as (one, two):
        sent = {n: (one if n % 2 else two).send("shop/order", {"n": n}) for n in range(8)}
        for n, event in sent.items():
            asked = two if n % 2 else one  # the other one
            run = asked.run(event, "waiting")

            def resumed(asked: Node = asked, n: int = n) -> str | None:
                status, answer = asked.ask("POST", "/v1/signals", {"signal": f"approve/{n}", "data": n})
                return answer["run_id"] if status == 200 else None

            assert until(resumed) == run["run_id"]
            _, answer = asked.ask("GET", f"/v1/runs/{run['run_id']}?wait=30s")
            assert answer["data"]["state"] == "completed", answer
            assert asked.run(event, "completed")["output"] == f"order {n}: {n}"
        assert one.ask("POST", "/v1/signals", {"signal": "approve/nobody", "data": 1})[0] == 404


def test_what_a_killed_node_had_goes_on_elsewhere(log: str, source: Path, tmp_path: Path) -> None:
    with nodes(["one", "two"], log, tmp_path, source, OPTIONS) as (one, two):
        sent = [one.send("shop/order", {"n": n}) for n in range(8)]
        for event in sent:
            two.run(event, "waiting")
        one.kill()
        for n, event in enumerate(sent):
            signal = {"signal": f"approve/{n}", "data": n}

            def is_resumed(signal: dict[str, object] = signal) -> bool:
                return two.ask("POST", "/v1/signals", signal)[0] == 200

            until(is_resumed)
            assert two.run(event, "completed")["output"] == f"order {n}: {n}"
        assert two.ask("GET", "/health")[0] == 200


def test_a_node_without_the_engine_takes_events_and_answers(log: str, source: Path, tmp_path: Path) -> None:
    with nodes(["engine"], log, tmp_path, source, OPTIONS) as (engine,):
        api = Node("api", log, tmp_path, None, (*OPTIONS, "--role", "api"))
        try:
            api.start()
            assert api.run(api.send("shop/quick", {"n": 7}), "completed")["output"] == "7"
            status, answer = api.ask("POST", "/invoke/shop-quick", {"data": {"n": 8}})
            assert status == 200, answer
            assert api.ask("POST", "/invoke/shop-gone", {"data": {}})[0] == 404
            event = api.send("shop/order", {"n": 1})
            api.run(event, "waiting")
            assert api.ask("POST", "/v1/signals", {"signal": "approve/1", "data": "yes"})[0] == 200
            assert engine.run(event, "completed")["output"] == "order 1: yes"
        finally:
            api.kill()


def test_a_function_that_another_node_has_brought_is_started_and_runs_where_its_code_is(
    log: str, source: Path, tmp_path: Path
) -> None:
    later = tmp_path / "late.py"
    later.write_text(LATER)
    both = (str(source), *OPTIONS)
    with nodes(["one"], log, tmp_path, source, OPTIONS) as (one,):
        two = Node("two", log, tmp_path, later, both)
        try:
            two.start()
            events = [one.send("shop/quick", {"n": n}) for n in range(8)]
            until(lambda: all(len(one.runs_of(event)) == 2 for event in events))
            one.stop()  # what had no code there goes on where it is
            until(lambda: all(run["state"] == "completed" for event in events for run in two.runs_of(event)))
        finally:
            two.kill()


@pytest.mark.spec("FAULT-B12")
def test_what_a_topic_does_not_take_is_refused_by_its_limit_and_not_tried_for_ever(
    log: str, source: Path, tmp_path: Path
) -> None:
    address = KafkaAddress.parse(log)
    prepare(AdminClient({"bootstrap.servers": address.servers, **QUICK}), Layout(address.prefix, 4), None)
    alter_topic(address.servers, address.topic(JOURNAL), "max.message.bytes", "200000")
    output_bytes, event_bytes = fitting(4_000_000, 256 << 10, 200_000)
    with nodes(["one"], log, tmp_path, source, OPTIONS) as (one,):
        assert "the log's topics take records of 200,000 bytes" in one.said
        status, answer = one.ask("POST", "/e/sent", {"name": "shop/quick", "data": "x" * event_bytes})
        assert status == 413
        assert str(event_bytes) in answer["error"]
        fits = one.send("shop/quick", {"n": 1, "filler": "x" * (event_bytes - 2_000)})
        assert one.run(fits, "completed")["output"] == "1"
        whole = one.run(one.send("shop/large", {"n": output_bytes - 2}), "completed")
        assert len(whole["output"]) == output_bytes - 2
        failed = one.run(one.send("shop/large", {"n": output_bytes - 1}), "failed")
        assert failed["output"]["name"] == "output_too_large", failed
        assert f"the limit is {output_bytes}" in failed["output"]["message"]
        assert one.ask("GET", "/health")[0] == 200
