"""The REST API over HTTP: what became of events and runs."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
import pytest

from steplog.app import App
from steplog.context import Context
from steplog.drivers.loop import UsersLoop
from steplog.engine.effects import Dispatch, Effect
from steplog.engine.functions import EngineConfig, EventTrigger, FunctionSpec
from steplog.engine.ids import decode_ulid, hash16, step_wire_id
from steplog.engine.messages import Message, OpReported, RunReported
from steplog.engine.operations import ErrorInfo, Operation, Sleep, StepError, StepRun
from steplog.node import Node
from steplog.server.answers import function_uuid, rfc3339
from steplog.server.config import ServerConfig
from steplog.server.sockets import bind
from steplog.shells.process import ProcessEngine
from steplog.step import Step

from .serving import DEV, READY_S, Reply, Served, TurnsBackend, served

NOBODY = "01HF7YAT00000G40R40M30E209"
FUNCTIONS = (
    FunctionSpec(id="shop-ship", app="shop", triggers=(EventTrigger("order"),), retries=1),
    FunctionSpec(id="shop-bill", app="shop", triggers=(EventTrigger("order"), EventTrigger("bill"))),
)
SECOND = 1_000


class Shop:
    """A server with two functions, whose bodies are told by the test what to do."""

    def __init__(self, server: Served, backend: TurnsBackend, dispatched: "SimpleQueue[Effect]") -> None:
        self.server, self.backend, self._dispatched = server, backend, dispatched
        self.turns = backend.turns

    def start(self, event: dict[str, Any]) -> tuple[str, dict[str, Dispatch]]:
        """Send an event; its internal id, and its runs by function."""
        (event_id,) = self.server.send(event).json["ids"]
        count = sum(EventTrigger(event["name"]) in function.triggers for function in FUNCTIONS)
        return event_id, {dispatch.function: dispatch for dispatch in [self.dispatch() for _ in range(count)]}

    def dispatch(self) -> Dispatch:
        while True:
            effect = self._dispatched.get(timeout=READY_S)
            if isinstance(effect, Dispatch):
                return effect

    def post(self, *messages: Message) -> None:
        self.server.call(lambda: self.turns.post(messages))

    def report(self, run: Dispatch, step: str, op: Operation, attempt: int = 0) -> None:
        wire_id = step_wire_id(step, 0)
        self.post(
            OpReported(
                run=run.run, generation=run.generation, step=hash16(wire_id.encode()), wire_id=wire_id, step_id=step,
                attempt=attempt, op=op,
            )
        )  # fmt: skip

    def end(self, run: Dispatch, output: str | None = '"done"', error: ErrorInfo | None = None) -> None:
        body = None if output is None else output.encode()
        self.post(
            RunReported(run=run.run, generation=run.generation, output=body, error=error, final=error is not None)
        )

    def get(self, path: str, **options: Any) -> Any:
        reply = self.server.get(path, **options)
        assert reply.status == 200, reply.body
        return reply.json

    def ended(self, run: Dispatch) -> Any:
        return self.get(f"/v1/runs/{run.run_id}?wait=10s")["data"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, new_history: Callable[[], str]) -> Iterator[Shop]:
    with shop(tmp_path_factory.mktemp("rest"), DEV, new_history()) as one:
        yield one


@pytest.fixture
def at(node: Shop) -> Iterator[Shop]:
    yield node
    node.backend.is_behind = False


@contextmanager
def shop(directory: Path, config: ServerConfig, history: str | None = None) -> Iterator[Shop]:
    """Open a shop in a directory."""
    effects: SimpleQueue[Effect] = SimpleQueue()

    def deliver(some: list[Effect]) -> None:
        for effect in some:
            effects.put(effect)

    log = directory / "log.db"
    with served(config, FUNCTIONS, deliver=deliver, log_path=log, history=history) as (server, backend):
        yield Shop(server, backend, effects)


def problem(reply: Reply) -> tuple[int, str]:
    assert list(reply.json) == ["error", "status"]
    assert reply.json["status"] == reply.status
    return reply.status, reply.json["error"]


# --- events and their runs


@pytest.mark.spec("REST-11", "EVT-19")
def test_an_event_shows_what_became_of_it(at: Shop) -> None:
    event_id, runs = at.start({"name": "order", "data": {"n": 1}, "id": "o1", "ts": 1_700_000_000_001, "v": "2"})
    event = at.get(f"/v1/events/{event_id}")["data"]
    assert event["internal_id"] == event_id
    assert (event["id"], event["name"], event["data"]) == ("o1", "order", {"n": 1})
    assert (event["ts"], event["v"], event["user"], event["source"]) == (1_700_000_000_001, "2", None, "key")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["received_at"])
    assert {(run["function"], run["run"]) for run in event["runs"]} == {
        (function, run.run_id) for function, run in runs.items()
    }
    again = at.server.send({"name": "order", "id": "o1"}).json["ids"][0]
    assert at.get(f"/v1/events/{again}")["data"]["duplicate"] is True
    assert at.get(f"/v1/events/{again}/runs")["data"] == []


@pytest.mark.spec("FAULT-I1")
def test_an_id_is_shown_exactly(at: Shop) -> None:
    ids = [
        " ",
        "x" * 10_240,
        "\x00",
        "a\x00b",
        "../../x",
        "\u202eabc",
        "😀",
        "Abc",
        "abc",
        "\r\n",
        "'; DROP TABLE runs",
    ]
    sent = at.server.send([{"name": "unheard", "id": id_} for id_ in ids]).json["ids"]
    assert [at.get(f"/v1/events/{internal}")["data"]["id"] for internal in sent] == ids


@pytest.mark.spec("REST-12", "EVT-19", "CONV-04", "ATV-48")
def test_the_runs_of_an_event(at: Shop) -> None:
    event_id, runs = at.start({"name": "order"})
    answer = at.get(f"/v1/events/{event_id}/runs")
    assert len(answer["data"]) == 2
    assert {run["function"]: run["run_id"] for run in answer["data"]} == {f: run.run_id for f, run in runs.items()}
    assert {run["status"] for run in answer["data"]} == {"Running"}
    for run in answer["data"]:
        assert (run["event_id"], run["output"], run["ended_at"]) == (event_id, None, None)
        assert run["function_id"] == str(UUID(run["function_id"])) == function_uuid(run["function"])
        assert (run["environment_id"], run["function_version"]) == (str(UUID(run["environment_id"])), 1)
        assert decode_ulid(run["run_id"]) != decode_ulid(run["event_id"])
    assert at.get(f"/v1/events/{event_id.lower()}/runs")["data"] == answer["data"]
    nothing = at.server.send({"name": "unheard"}).json["ids"][0]
    assert at.get(f"/v1/events/{nothing}/runs")["data"] == []


@pytest.mark.spec("REST-01", "REST-02", "CONV-05")
def test_the_envelope(at: Shop) -> None:
    event_id, _ = at.start({"name": "bill"})
    answer = at.get(f"/v1/events/{event_id}")
    assert sorted(answer) == ["data", "metadata"]
    assert sorted(answer["metadata"]) == ["cached_until", "fetched_at"]
    assert answer["metadata"]["cached_until"] is None
    fetched = datetime.fromisoformat(answer["metadata"]["fetched_at"])
    assert abs((datetime.now(UTC) - fetched).total_seconds()) < 60


# --- runs


@pytest.mark.spec("REST-13")
def test_a_run_that_completed(at: Shop) -> None:
    event_id, runs = at.start({"name": "bill"})
    run = runs["shop-bill"]
    shown = at.get(f"/v1/runs/{run.run_id}")["data"]
    assert (shown["status"], shown["state"], shown["output"], shown["ended_at"]) == ("Running", "running", None, None)
    at.end(run, '{"total": 5}')
    shown = at.ended(run)
    assert (shown["status"], shown["state"], shown["output"]) == ("Completed", "completed", {"total": 5})
    assert (shown["run_id"], shown["event_id"]) == (run.run_id, event_id)
    assert (shown["function"], shown["app"], shown["function_version"]) == ("shop-bill", "shop", 1)
    assert shown["batch_id"] is shown["original_run_id"] is shown["cron"] is None
    assert shown["run_started_at"] <= shown["started_at"] <= shown["ended_at"]
    assert shown["environment_id"] == "00000000-0000-4000-b000-000000000000"


@pytest.mark.spec("REST-13")
def test_the_output_of_a_failed_run_is_its_error(at: Shop) -> None:
    _, runs = at.start({"name": "bill"})
    run = runs["shop-bill"]
    at.end(run, None, ErrorInfo(name="BankError", message="declined", stack="at bank"))
    shown = at.ended(run)
    assert (shown["status"], shown["state"]) == ("Failed", "failed")
    assert shown["output"] == {"name": "BankError", "message": "declined", "stack": "at bank"}


def test_an_exceeded_limit_has_the_wires_name_in_output_alone(at: Shop) -> None:
    _, runs = at.start({"name": "bill"})
    run = runs["shop-bill"]
    error = ErrorInfo(name="OutputTooLarge", message="too large")
    at.report(run, "pack", StepError(error=error, started_ms=2_000, ended_ms=2_001, final=True))
    at.end(run, None, error)
    assert at.ended(run)["output"] == {"name": "output_too_large", "message": "too large"}
    (step,) = at.get(f"/v1/runs/{run.run_id}/steps")["data"]["steps"]
    assert step["error"]["name"] == "OutputTooLarge"


def test_states_and_statuses(at: Shop) -> None:
    later_ms = at.server.call(at.turns.now_ms) + 3_600 * SECOND
    (event_id,) = at.server.send({"name": "bill", "ts": later_ms}).json["ids"]
    (run,) = at.get(f"/v1/events/{event_id}/runs")["data"]
    assert (run["status"], run["state"], run["due_at"]) == ("Scheduled", "scheduled", rfc3339(later_ms))
    _, runs = at.start({"name": "bill"})
    at.report(runs["shop-bill"], "nap", Sleep(until_ms=later_ms))
    shown = until(lambda: at.get(f"/v1/runs/{runs['shop-bill'].run_id}")["data"], lambda run: run["state"] != "running")
    assert (shown["status"], shown["state"]) == ("Running", "waiting")
    assert (shown["next_step"], shown["next_at"]) == ("nap", rfc3339(later_ms))


def until(read: Any, is_reached: Any) -> Any:
    """Read until what is read fits."""
    deadline = time.monotonic() + READY_S
    while not is_reached(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.002)
    return found


def test_steps_with_their_attempts(at: Shop) -> None:
    _, runs = at.start({"name": "order"})
    at.end(runs["shop-bill"])
    run = runs["shop-ship"]
    at.report(run, "pack", StepRun(data=b'{"boxes": 2}', started_ms=1_000, ended_ms=1_500))
    error = ErrorInfo(name="OSError", message="printer is off")
    at.report(run, "print", StepError(error=error, started_ms=2_000, ended_ms=2_001))
    at.report(run, "send", StepError(error=error, started_ms=3_000, ended_ms=3_001, final=True))
    at.end(run, None, ErrorInfo(name="StepError", message="printer is off"))
    at.ended(run)
    answer = at.get(f"/v1/runs/{run.run_id}/steps")["data"]
    steps = {step["name"]: step for step in answer["steps"]}
    assert [step["name"] for step in answer["steps"]] == ["pack", "print", "send"]
    assert (steps["pack"]["state"], steps["pack"]["output"], steps["pack"]["attempts"]) == (
        "completed",
        {"boxes": 2},
        [],
    )
    assert (steps["pack"]["started_at"], steps["pack"]["ended_at"]) == (
        "1970-01-01T00:00:01.000Z", "1970-01-01T00:00:01.500Z",
    )  # fmt: skip
    assert steps["pack"]["id"] == step_wire_id("pack", 0)
    (attempt,) = steps["print"]["attempts"]
    assert (attempt["outcome"], attempt["attempt"], attempt["error"]["message"]) == ("errored", 0, "printer is off")
    assert attempt["retry_at"] is not None
    assert (steps["send"]["state"], steps["send"]["error"]["name"]) == ("failed", "OSError")
    assert answer["function_attempts"] == []


def test_wait_returns_when_the_run_ends(at: Shop) -> None:
    _, runs = at.start({"name": "bill"})
    run = runs["shop-bill"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(at.get, f"/v1/runs/{run.run_id}?wait=60s")
        at.get(f"/v1/runs/{run.run_id}")
        at.end(run)
        assert waiting.result(READY_S)["data"]["state"] == "completed"
    assert at.get(f"/v1/runs/{run.run_id}?wait=60s")["data"]["state"] == "completed"


def test_wait_answers_with_the_present_state_when_the_time_is_up(at: Shop) -> None:
    _, runs = at.start({"name": "bill"})
    path = f"/v1/runs/{runs['shop-bill'].run_id}"
    for wait in ("0", "0s", "20ms", "0m"):
        assert at.get(f"{path}?wait={wait}")["data"]["state"] == "running"
    for wait in ("x", "-1s", "1h", "1.5s", "٣s", "s", "9999999999s"):
        status, error = problem(at.server.get(f"{path}?wait={quote(wait)}"))
        assert (status, "must be a duration" in error) == (400, True)


def test_the_end_of_the_server_ends_the_waiting(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with shop(tmp_path, DEV) as at:
            _, runs = at.start({"name": "bill"})
            waiting = pool.submit(at.server.get, f"/v1/runs/{runs['shop-bill'].run_id}?wait=60s")
            until(lambda: at.server.call(lambda: len(at.turns._ended)), bool)
            began = time.monotonic()
        reply = waiting.result(READY_S)
        assert (reply.status, reply.json["data"]["state"]) == (200, "running")
        assert time.monotonic() - began < 3


def test_what_is_behind_says_so(at: Shop) -> None:
    _, runs = at.start({"name": "bill"})
    path = f"/v1/runs/{runs['shop-bill'].run_id}"
    assert "stale" not in at.get(path)["metadata"]
    at.backend.is_behind = True
    at.end(runs["shop-bill"])
    answer = until(lambda: at.get(path), lambda answer: "stale" in answer["metadata"])
    assert answer["metadata"]["stale"] is True
    assert answer["data"]["state"] == "running"


# --- lists


def test_runs_newest_first_by_pages(tmp_path: Path) -> None:
    with shop(tmp_path, DEV) as at:
        started = [run for _ in range(4) for run in at.start({"name": "order"})[1].values()]
        for run in started:
            if run.function == "shop-bill":
                at.end(run)
                at.ended(run)
        newest_first = sorted([run.run_id for run in started], reverse=True)
        answer = at.get("/v1/runs")
        assert [run["run_id"] for run in answer["data"]] == newest_first
        assert answer["page"] == {"cursor": None, "limit": 20}
        seen: list[str] = []
        cursor, pages = "", 0
        while cursor is not None:
            answer = at.get(f"/v1/runs?limit=3{cursor and f'&cursor={cursor}'}")
            seen += [run["run_id"] for run in answer["data"]]
            cursor, pages = answer["page"]["cursor"], pages + 1
        assert (seen, pages) == (newest_first, 3)
        for query, count in (
            ("status=completed", 4), ("status=running", 4), ("status=failed", 0),
            ("status=running&status=completed", 8),
            ("function=shop-ship", 4), ("function=shop-ship&status=completed", 0), ("function=nobody", 0),
            ("limit=100", 8), ("limit=1", 1),
        ):  # fmt: skip
            assert len(at.get(f"/v1/runs?{query}")["data"]) == count, query


def test_what_a_list_does_not_know_is_an_error(at: Shop) -> None:
    for query, text in (
        ("colour=red", "there is no filter 'colour'"),
        ("status=Nope", "there is no status 'Nope'; there are scheduled"),
        ("limit=0", "limit is '0'"), ("limit=101", "limit is '101'"), ("limit=x", "limit is 'x'"),
        ("limit=%D9%A3", "limit is"), ("limit=", "limit is ''"), ("cursor=x", "'x' is not a cursor"),
        ("cursor=", "'' is not a cursor"),
    ):  # fmt: skip
        status, error = problem(at.server.get(f"/v1/runs?{query}"))
        assert status == 400
        assert error.startswith(text)


# --- refusals


def test_bad_and_unknown_ids(at: Shop) -> None:
    for path in ("/v1/runs/{}", "/v1/runs/{}/steps", "/v1/events/{}", "/v1/events/{}/runs"):
        for bad in ("x", "8" * 26, NOBODY[:-1] + "U", NOBODY + "0", "%00" * 26, "%F0%9F%98%80"):
            assert problem(at.server.get(path.format(bad)))[0] == 400, (path, bad)
        status, error = problem(at.server.get(path.format(NOBODY)))
        assert status == 404
        assert NOBODY in error
        assert at.server.request("POST", path.format(NOBODY)).status == 405


@pytest.mark.spec("REST-01")
def test_reads_need_the_signing_key_outside_dev(tmp_path: Path) -> None:
    key, old = "signkey-prod-12345678", "deadbeef"
    config = ServerConfig(is_dev=False, event_keys=("key",), signing_keys=(key, old))
    hashed = sha256(bytes.fromhex("12345678")).hexdigest()
    with shop(tmp_path, config) as at:
        event_id, runs = at.start({"name": "bill"})
        run_id = runs["shop-bill"].run_id
        paths = [f"/v1/events/{event_id}", f"/v1/events/{event_id}/runs", f"/v1/runs/{run_id}", "/v1/runs"]
        for path in (*paths, f"/v1/runs/{run_id}/steps"):
            for token in (key, "12345678", hashed, f"signkey-prod-{hashed}", "deadbeef", f"signkey-test-{old}"):
                assert at.server.get(path, headers={"authorization": f"Bearer {token}"}).status == 200
            for header in ("", "Bearer", "Bearer ", "Bearer undefined", f"Basic {key}", key, "Bearer 1234567",
                           "Bearer signkey-prod-", f"Bearer {hashed[:-1]}", "Bearer \xff"):  # fmt: skip
                reply = at.server.get(path, headers={"authorization": header})
                assert problem(reply) == (401, "No auth found")
        assert at.server.get("/health").status == 200


@pytest.mark.spec("REST-01", "TEST-04")
def test_dev_reads_need_no_key(at: Shop) -> None:
    for token in ("Bearer ", "Bearer undefined", "Bearer anything", ""):
        assert at.server.get("/v1/runs", headers={"authorization": token}).status == 200


@pytest.mark.spec("REST-01")
def test_a_server_without_signing_keys_shows_nothing(tmp_path: Path) -> None:
    with shop(tmp_path, msgspec.structs.replace(DEV, is_dev=False)) as at:
        for token in ("Bearer ", "Bearer x", ""):
            assert at.server.get("/v1/runs", headers={"authorization": token}).status == 401


def test_a_function_has_one_uuid() -> None:
    assert function_uuid("shop-ship") == function_uuid("shop-ship") != function_uuid("shop-bill")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", function_uuid("shop-ship"))


@pytest.mark.spec("CONV-05")
def test_times() -> None:
    assert rfc3339(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


# --- the whole


@pytest.mark.spec("EVT-10", "REST-12", "REST-13")
def test_a_node_over_http(tmp_path: Path) -> None:
    shop_app = App("shop")

    @shop_app.function(trigger="order")
    async def charge(ctx: Context[dict[str, Any]], step: Step) -> str:
        async def pay() -> int:
            return int(ctx.event.data["total"]) * 2

        return f"paid {await step.run('pay', pay)}"

    async def story() -> None:
        serving = asyncio.Event()
        loop, sockets = asyncio.get_running_loop(), bind(0)
        engine = ProcessEngine(
            [function.spec for function in shop_app.functions.values()], EngineConfig(), log_path=tmp_path / "log.db",
            history=f"sqlite:{tmp_path / 'history.db'}", server=DEV, sockets=sockets, on_serving=serving.set,
        )  # fmt: skip
        client = Served(sockets[0].getsockname()[1], loop)
        async with Node([shop_app], engine):
            await asyncio.wait_for(serving.wait(), READY_S)
            reply = await asyncio.to_thread(client.send, {"name": "order", "data": {"total": 21}})
            (event_id,) = reply.json["ids"]
            reply = await asyncio.to_thread(client.get, f"/v1/events/{event_id}/runs")
            (run,) = reply.json["data"]
            reply = await asyncio.to_thread(client.get, f"/v1/runs/{run['run_id']}?wait=10s")
            assert (reply.json["data"]["state"], reply.json["data"]["output"]) == ("completed", "paid 42")
            assert "stale" not in reply.json["metadata"]
            reply = await asyncio.to_thread(client.get, f"/v1/runs/{run['run_id']}/steps")
            assert [(step["name"], step["output"]) for step in reply.json["data"]["steps"]] == [("pay", 42)]

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(story())
