"""Connectors of ``steplog dev``: from a topic to runs, whoever is killed on the way; what is parked, by commands."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .command_line import clean_environment, steplog
from .topics import Topics

READY_S, DEADLINE_S = 20.0, 40.0
FUNCTIONS = """\
from steplog import App, Context

app = App("shop")


async def book(order: int) -> int:
    return order


@app.function("book", trigger="shop/ordered")
async def book_order(ctx: Context) -> int:
    return await ctx.step.run("book", book, ctx.event.data["value"]["n"])
"""
CONFIGURATION = """\
[events]
validate = "refuse"

[connectors.orders]
type = "kafka"
topics = ["{topic}"]
brokers = ["{brokers}"]
group = "{group}"
event = "shop/ordered"
start = "earliest"

[connectors.orders.options]
session.timeout.ms = 6000
topic.metadata.refresh.interval.ms = 500
"""


EXAMPLE = Path(__file__).parents[2] / "examples" / "kafka"


class Shop:
    """A directory with functions that a connector feeds."""

    def __init__(self, topics: Topics, directory: Path) -> None:
        self.topics, self.directory = topics, directory
        self.topic, self.group = topics.make("orders", 3), topics.name("group")
        self.sent = 0
        text = CONFIGURATION.format(topic=self.topic, brokers=topics.brokers, group=self.group)
        (directory / "steplog.toml").write_text(text)
        (directory / "functions.py").write_text(FUNCTIONS)

    @contextmanager
    def serving(self, *files: str) -> Iterator[Callable[[], None]]:
        """Run ``steplog dev``; gives what kills it, with its engine. Otherwise it ends in order."""
        ready, told = os.pipe()
        server = subprocess.Popen(
            [sys.executable, "-m", "steplog", "dev", *files, "--no-reload", "--port", "0",
             "--ready-fd", str(told)],
            cwd=self.directory, pass_fds=(told,), env=clean_environment(), stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(told)

        def kill() -> None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

        try:
            assert select.select([ready], [], [], READY_S)[0], "the server does not get ready"
            yield kill
            if server.returncode is None:
                server.send_signal(signal.SIGINT)
                assert server.wait(20) == 0
        finally:
            if server.returncode is None:
                kill()
            os.close(ready)

    def send(self, count: int) -> None:
        for _ in range(count):
            self.topics.put(self.topic, json.dumps({"n": self.sent}).encode(), key=b"k%d" % (self.sent % 7))
            self.sent += 1

    def steplog(self, *arguments: str) -> Any:
        done = steplog(*arguments, "--json", cwd=self.directory)
        assert done.code == 0, done.stderr
        return json.loads(done.stdout)

    def runs(self) -> list[dict[str, Any]]:
        done = steplog(
            "runs", "list", "--limit", "1000", "--log", "sqlite:.steplog/dev.db", "--jsonl", cwd=self.directory
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def read(self) -> int:
        """How many records the group has read."""
        return sum(offset for offset in self.topics.committed(self.group, self.topic).values() if offset > 0)


@pytest.fixture
def shop(topics: Topics, tmp_path: Path) -> Shop:
    return Shop(topics, tmp_path)


def until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until_s, "it did not come in time"
        time.sleep(0.05)


def test_every_record_starts_one_run_whoever_is_killed(shop: Shop) -> None:
    with (shop.directory / "steplog.toml").open("a") as options:
        options.write('group.instance.id = "one"\n')  # a process that was killed is replaced at once
    shop.send(150)
    for goal in (1, 200):
        with shop.serving("functions.py") as kill:
            shop.send(100)
            until(lambda goal=goal: shop.read() >= goal)  # type: ignore[misc] # its own
            kill()
    with shop.serving("functions.py"):
        until(lambda: shop.topics.has_read_all(shop.group, shop.topic))
        until(lambda: sum(run["status"] == "Completed" for run in shop.runs()) == shop.sent)
    assert sorted(run["output"] for run in shop.runs()) == list(range(shop.sent))
    assert shop.steplog("audit", "--log", "sqlite:.steplog/dev.db")["unaccounted"] == 0


def test_what_is_parked_is_seen_and_dropped_while_it_runs(shop: Shop) -> None:
    with shop.serving("functions.py"):
        shop.topics.put(shop.topic, b"{", key=b"k")
        shop.topics.put(shop.topic, b'{"n": 5}', key=b"k")
        until(lambda: len(shop.steplog("dead", "list")["letters"]) == 2)
        poison, follower = shop.steplog("dead", "list")["letters"]
        assert (poison["connector"], poison["key"], follower["behind"]) == ("orders", "k", poison["id"])
        assert shop.steplog("dead", "show", poison["id"])["letter"]["value"] == "{"
        assert shop.runs() == []
        assert shop.steplog("dead", "retry", poison["id"]) == {"retried": [poison["id"]]}
        until(lambda: shop.steplog("dead", "list")["letters"][0]["state"] == "parked")
        assert shop.steplog("dead", "drop", poison["id"]) == {"dropped": [poison["id"]]}
        until(lambda: not shop.steplog("dead", "list")["letters"])
        until(lambda: [run["output"] for run in shop.runs()] == [5])


def test_how_far_it_is_is_seen_whether_it_runs_or_not(shop: Shop) -> None:
    def lag() -> list[tuple[Any, ...]]:
        found = shop.steplog("connectors", "lag")["partitions"]
        assert {(each["connector"], each["topic"]) for each in found} == {("orders", shop.topic)}
        return [tuple(each[name] for name in ("partition", "committed", "end", "waiting", "client")) for each in found]

    for partition in (0, 0, 1):
        shop.topics.put(shop.topic, b'{"n": 1}', partition=partition)
    assert lag() == [(0, None, 2, 2, None), (1, None, 1, 1, None), (2, None, 0, 0, None)]
    with shop.serving("functions.py"):
        until(lambda: shop.topics.has_read_all(shop.group, shop.topic))
        assert lag() == [(n, end, end, 0, "steplog-orders") for n, end in enumerate((2, 1, 0))]
    shop.topics.put(shop.topic, b'{"n": 2}', partition=2)
    assert lag() == [(0, 2, 2, 0, None), (1, 1, 1, 0, None), (2, 0, 1, 1, None)]
    shown = steplog("connectors", "lag", cwd=shop.directory)
    assert shown.stderr.strip() == "1 waiting in all"
    assert steplog("connectors", "lag", "--connector", "other", cwd=shop.directory).code == 4


def test_the_example_books_what_comes(shop: Shop) -> None:
    text = (EXAMPLE / "steplog.toml").read_text()
    text = text.replace('topics = ["payments"]', f'topics = ["{shop.topic}"]\ngroup = "{shop.group}"')
    (shop.directory / "steplog.toml").write_text(text.replace("localhost:9092", shop.topics.brokers))
    (shop.directory / "payments.py").write_text((EXAMPLE / "payments.py").read_text())
    shop.topics.put(shop.topic, b'{"amount": 5}', b'{"amount": 7}', key=b"ann")
    with shop.serving():
        until(lambda: {run["output"] for run in shop.runs()} == {"ann: 5", "ann: 7"})
