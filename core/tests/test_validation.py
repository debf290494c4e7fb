"""``events.validate = "refuse"``: what is turned away at the door, in every place where an engine can live."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog import App, Context, EventType
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig, Registry
from steplog.event_types import EventTypes
from steplog.log.sqlite import SqliteLog
from steplog.node import Engine, Node
from steplog.server import validation
from steplog.server.sockets import bind
from steplog.service import HttpService
from steplog.shells.process import ProcessEngine
from steplog.shells.thread import ThreadEngine

from .command_line import steplog
from .dev_server import DevServer, until
from .serving import DEV, READY_S, Served, TurnsBackend, served
from .test_cli_config import post, serving


@dataclass
class Order:
    id: str
    total: int


placed = EventType("shop/order.placed", Order)
app = App("shop")


@app.function("pack", trigger=placed)
async def pack(ctx: Context[Order]) -> int:
    return ctx.event.data.total


TYPES = EventTypes([app])
REFUSING = msgspec.structs.replace(DEV, typed=TYPES.typed())
GOOD = {"name": placed.name, "data": {"id": "o1", "total": 5}}
BAD = {"name": placed.name, "data": {"id": "o1", "total": "5"}}
OTHER = {"name": "other", "data": {"total": "5"}}
SAID = f'data.total: expected int, got str (type {placed.name} in {placed.source}, events.validate = "refuse")'
SAID_OF_CALL = 'data.total: expected int, got str (type Order of shop-pack, events.validate = "refuse")'


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Served, TurnsBackend]]:
    with served(REFUSING, tuple(function.spec for function in app.functions.values())) as (server, backend):
        backend.check = TYPES.misfit
        yield server, backend


@pytest.fixture
def server(node: tuple[Served, TurnsBackend]) -> Served:
    return node[0]


@pytest.fixture
def backend(node: tuple[Served, TurnsBackend]) -> Iterator[TurnsBackend]:
    backend = node[1]
    backend.groups.clear()
    backend.asked.clear()
    yield backend
    backend.is_away = False


# --- the event API


@pytest.mark.spec("EVTW-02")
def test_what_stands_before_a_misfit_is_accepted(server: Served, backend: TurnsBackend) -> None:
    reply = server.send([GOOD, {**OTHER, "id": "mine"}, BAD, GOOD, BAD])
    assert (reply.status, len(reply.json["ids"])) == (400, 2)
    assert reply.json["error"] == f"events[2]: {SAID}"
    assert [[event.name for event in group] for group in backend.groups] == [[placed.name, "other"]]
    assert [event.is_last for event in backend.groups[0]] == [False, True]
    assert [event.internal_text for event in backend.groups[0]] == reply.json["ids"]
    assert [[event.name for event in events] for events in backend.asked] == [
        [placed.name] * 4
    ]  # at once, of those alone
    assert server.send([BAD, GOOD]).json == {"ids": [], "status": 400, "error": f"events[0]: {SAID}"}
    assert server.send(BAD).json == {"ids": [], "status": 400, "error": SAID}
    assert len(backend.groups) == 1


def test_what_fits_and_what_has_no_type_is_accepted(server: Served, backend: TurnsBackend) -> None:
    assert server.send([GOOD, GOOD]).status == server.send(OTHER).status == server.send([]).status == 200
    assert len(backend.asked) == 1


def test_the_first_problem_counts_whatever_it_is(server: Served, backend: TurnsBackend) -> None:
    nameless = {"name": "", "data": {}}
    assert server.send([GOOD, BAD, nameless]).json["error"] == f"events[1]: {SAID}"
    assert server.send([GOOD, nameless, BAD]).json["error"] == "events[1]: event name is empty"
    assert server.send(json.dumps([GOOD, BAD])[:-1] + ", oops]").json["error"] == f"events[1]: {SAID}"
    assert [len(group) for group in backend.groups] == [1, 1, 1]


def test_a_refusal_that_is_sent_again_has_the_same_ids(server: Served) -> None:
    headers = {"x-inngest-event-id-seed": "1700000000000,AAECAwQFBgcICQ=="}
    replies = [server.send([GOOD, BAD], headers=headers).json for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0]["ids"] == ["01HF7YAT00000G40R40M30E20A"]


@given(kinds=st.lists(st.sampled_from(["good", "bad", "other"]), max_size=8))
def test_the_ids_are_those_of_the_events_before_the_first_misfit(
    node: tuple[Served, TurnsBackend], kinds: list[str]
) -> None:
    events = {"good": GOOD, "bad": BAD, "other": OTHER}
    reply = node[0].send([events[kind] for kind in kinds])
    first = kinds.index("bad") if "bad" in kinds else len(kinds)
    assert (reply.status, len(reply.json["ids"])) == (400 if "bad" in kinds else 200, first)


def test_with_accept_nobody_is_asked() -> None:
    with served() as (server, backend):
        backend.is_away = True
        assert server.send([BAD, GOOD]).status == 200
        assert backend.asked == []


def test_a_call_is_refused_too(server: Served, backend: TurnsBackend) -> None:
    reply = server.request("POST", "/invoke/shop-pack", {"data": BAD["data"]})
    assert (reply.status, reply.json) == (400, {"error": SAID_OF_CALL, "status": 400})
    assert backend.groups == []
    assert server.request("POST", "/invoke/shop-pack", {"data": GOOD["data"]}).status == 200


# --- functions that do not answer


def test_where_nobody_answers_the_sender_is_asked_to_come_again(
    server: Served, backend: TurnsBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "ANSWER_S", 0.01)
    backend.is_away = True
    reply = server.send([OTHER, GOOD])
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.json["ids"] == []
    assert "did not say within 0.01 s whether data fit their types" in reply.json["error"]
    call = server.request("POST", "/invoke/shop-pack", {"data": GOOD["data"]})
    assert (call.status, call.headers["retry-after"]) == (503, "1")
    assert backend.groups == []
    assert server.send(OTHER).status == 200, "what has no type needs no answer"
    backend.is_away = False
    assert server.send([OTHER, GOOD]).status == 200


def test_what_nobody_answered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ANSWER_S", 0.01)
    monkeypatch.setattr(validation, "MOST_ASKED_BYTES", 1_000)
    large = {"name": placed.name, "data": {"id": "o" * 2_000, "total": 5}}
    with served(REFUSING) as (server, backend):
        assert server.send(large).status == 200
        backend.is_away = True
        assert server.send(large).status == 503
        reply = server.send(GOOD)
        assert (reply.status, reply.headers["retry-after"], len(backend.asked)) == (503, "1", 2)
        assert "have not answered for others yet" in reply.json["error"]


# --- the shells


def in_process(path: Path, sockets: list[socket.socket], on_serving: Callable[[], None]) -> Engine:
    return ProcessEngine(
        [function.spec for function in app.functions.values()], EngineConfig(), log_path=path,
        history=f"sqlite:{path.with_name('history.db')}", server=REFUSING, sockets=sockets, on_serving=on_serving,
        check=TYPES.misfit,
    )  # fmt: skip


def in_thread(path: Path, sockets: list[socket.socket], on_serving: Callable[[], None]) -> Engine:
    loop = asyncio.get_running_loop()

    def tell() -> None:
        loop.call_soon_threadsafe(on_serving)

    http = HttpService(
        sockets, REFUSING, log=f"sqlite:{path}", history=f"sqlite:{path.with_name('history.db')}", on_serving=tell
    )  # fmt: skip
    registry = Registry(function.spec for function in app.functions.values())
    return ThreadEngine(lambda: SqliteLog(path), registry, EngineConfig(), [http], check=TYPES.misfit)


def on_a_node(
    place: Callable[..., Engine], path: Path, story: Callable[[Served, asyncio.AbstractEventLoop], None]
) -> None:
    """Run a story in a thread, against a node that serves."""

    async def run() -> None:
        serving = asyncio.Event()
        loop, sockets = asyncio.get_running_loop(), bind(0)
        client = Served(sockets[0].getsockname()[1], loop)
        async with Node([app], place(path, sockets, serving.set)):
            await asyncio.wait_for(serving.wait(), READY_S)
            await asyncio.to_thread(story, client, loop)

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize("place", [in_process, in_thread])
def test_the_functions_say_what_fits_wherever_the_engine_is(place: Callable[..., Engine], tmp_path: Path) -> None:
    def story(client: Served, _: asyncio.AbstractEventLoop) -> None:
        reply = client.send([GOOD, BAD, GOOD])
        assert (reply.status, reply.json["error"], len(reply.json["ids"])) == (400, f"events[1]: {SAID}", 1)
        (run,) = client.get(f"/v1/events/{reply.json['ids'][0]}/runs").json["data"]
        ended = client.get(f"/v1/runs/{run['run_id']}?wait=10s").json["data"]
        assert (ended["state"], ended["output"]) == ("completed", 5)
        assert client.request("POST", "/invoke/shop-pack", {"data": {}}).status == 400
        assert len(client.get("/v1/runs").json["data"]) == 1

    on_a_node(place, tmp_path / "log.db", story)


def test_a_loop_that_is_blocked_answers_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ANSWER_S", 0.05)

    def story(client: Served, loop: asyncio.AbstractEventLoop) -> None:
        answered = threading.Event()
        loop.call_soon_threadsafe(lambda: answered.wait(READY_S) and None)
        assert client.send(GOOD).status == 503
        answered.set()
        until(lambda: client.send(GOOD).status == 200)

    on_a_node(in_thread, tmp_path / "log.db", story)


# --- as a user has it

ORDERS = """
from dataclasses import dataclass

from steplog import App, Context, EventType


@dataclass
class Order:
    id: str
    total: {kind}


app = App("shop")
placed = EventType("shop/order.placed", Order)


@app.function("charge", trigger=placed)
async def charge(ctx: Context[Order]) -> str:
    return f"{{ctx.event.data.total!r}}"
"""
LINE = ORDERS[: ORDERS.index("placed = ")].count("\n") + 1
MISFIT = '{"id": "o1", "total": "5"}'


def test_dev_refuses_and_a_reload_brings_its_own_types(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(ORDERS.format(kind="int"))
    (tmp_path / "steplog.toml").write_text('[events]\nvalidate = "refuse"\n')
    with DevServer(tmp_path, "orders.py") as dev:
        url = {"STEPLOG_URL": dev.url}
        refused = steplog("send", placed.name, MISFIT, environment=url)
        assert (refused.code, refused.stdout) == (5, "")
        assert refused.stderr == (
            f"error[event_refused]: 400 from {dev.url}, 1 of 1 refused\n"
            f"  event 0  data.total: expected int, got str (type shop/order.placed in orders.py:{LINE}, "
            'events.validate = "refuse")\n'
        )
        called = steplog("invoke", "shop-charge", MISFIT, environment=url)
        assert (called.code, called.stderr) == (
            5, f"error[refused]: 400 from {dev.url}: {SAID_OF_CALL.replace('pack', 'charge')}\n",
        )  # fmt: skip
        assert dev.result(dev.send(placed.name, {"id": "o1", "total": 5})) == "5"

        (functions,) = dev.processes("steplog.cli.dev.functions")
        os.kill(functions, signal.SIGSTOP)  # as a body does that holds the loop for long
        status, answer = post(f"{dev.url}/e/dev", GOOD)
        assert (status, answer["ids"]) == (503, [])
        assert post(f"{dev.url}/e/dev", OTHER)[0] == 200
        os.kill(functions, signal.SIGCONT)
        assert steplog("send", placed.name, MISFIT, environment=url).code == 5

        dev.write(ORDERS.format(kind="str"), "orders.py")
        dev.said("reloaded")
        assert dev.result(dev.send(placed.name, {"id": "o1", "total": "5"})) == "'5'"
        now_refused = steplog("send", placed.name, '{"id": "o1", "total": 5}', environment=url)
        assert (now_refused.code, "data.total: expected str, got int" in now_refused.stderr) == (5, True)
        assert len(dev.records("run.completed")) == 2
        assert dev.interrupt() == 0


def test_events_that_are_sent_while_code_is_replaced_wait_for_its_types(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(ORDERS.format(kind="int"))
    with DevServer(tmp_path, "orders.py", "--set", "events.validate=refuse") as dev:
        sent, problems, over = list[str](), list[BaseException](), threading.Event()

        def sender() -> None:
            while not over.is_set():
                try:
                    sent.append(dev.send(placed.name, {"id": "o1", "total": 5}))
                except (AssertionError, OSError) as error:
                    problems.append(error)

        thread = threading.Thread(target=sender)
        thread.start()
        for number in (1, 2):
            dev.write(ORDERS.format(kind="int") + f"# {number}\n", "orders.py")
            dev.said("reloaded", number)
        over.set()
        thread.join()
        assert problems == []
        until(lambda: len(dev.records("run.completed")) == len(sent))
        assert dev.interrupt() == 0


def test_start_refuses_by_the_environments_word(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(ORDERS.format(kind="int"))
    keys = ("--event-key", "e", "--signing-key", "abcdef", "--port", "0")
    with serving("start", "orders.py", *keys, cwd=tmp_path, STEPLOG_EVENTS__VALIDATE="refuse") as ready:
        status, answer = post(f"{ready['url']}/e/e", BAD)
        assert (status, answer["error"].partition(" (type")[0]) == (400, "data.total: expected int, got str")
        assert post(f"{ready['url']}/e/e", GOOD)[0] == 200
    with serving("start", "orders.py", *keys, cwd=tmp_path) as ready:
        assert post(f"{ready['url']}/e/e", BAD)[0] == 200
