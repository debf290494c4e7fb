"""The API's endpoints that change something: signals, and starting one function."""

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from steplog.engine.effects import Dispatch, Effect, Resume
from steplog.engine.functions import EventTrigger, FunctionSpec
from steplog.engine.ids import hash16, step_wire_id
from steplog.engine.messages import OpReported
from steplog.engine.operations import WaitForSignal
from steplog.server.config import ServerConfig

from .serving import DEV, READY_S, Served, TurnsBackend, served

FUNCTIONS = (FunctionSpec(id="shop-pack", app="shop", triggers=(EventTrigger("order"),)),)
KEYS = ServerConfig(is_dev=False, event_keys=("sender",), signing_keys=("5fabcd",), event_size_bytes=1_000)


class Shop:
    """A server with a function, and what was released."""

    def __init__(self, server: Served, backend: TurnsBackend, effects: "SimpleQueue[Effect]") -> None:
        self.server, self.turns, self._effects = server, backend.turns, effects

    def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        reply = self.server.request("POST", path, body, **options)
        return reply.status, reply.json

    def next(self, kind: type[Effect]) -> Any:
        while not isinstance(effect := self._effects.get(timeout=READY_S), kind):
            pass
        return effect

    def wait_for_signal(self, run: Dispatch, name: str) -> None:
        step = hash16(step_wire_id("go", 0).encode())
        op = WaitForSignal(signal=name, timeout_ms=60_000)
        message = OpReported(
            run=run.run, generation=run.generation, step=step, wire_id=step_wire_id("go", 0), step_id="go", attempt=0,
            op=op,
        )  # fmt: skip
        self.server.call(lambda: self.turns.post([message]))


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    config = getattr(request, "param", DEV)
    effects: SimpleQueue[Effect] = SimpleQueue()

    def deliver(some: list[Effect]) -> None:
        for effect in some:
            effects.put(effect)

    with served(config, FUNCTIONS, deliver=deliver) as (server, backend):
        yield Shop(server, backend, effects)


@pytest.mark.spec("SYS-05", "FN-03")
def test_a_function_is_invoked_by_its_id(shop: Shop) -> None:
    status, answer = shop.post("/invoke/shop-pack", {"name": "whatever", "data": {"n": 1}, "user": {"id": "u1"}})
    assert (status, set(answer)) == (200, {"id", "status"})
    event = msgspec.json.decode(shop.next(Dispatch).events[0])
    assert (event["name"], event["data"], event["user"]) == ("inngest/function.invoked", {"n": 1}, {"id": "u1"})
    assert event["internal_id"] == answer["id"]
    assert shop.post("/invoke/shop-pack")[0] == 200
    assert msgspec.json.decode(shop.next(Dispatch).events[0])["data"] == {}


def test_an_invocation_that_is_sent_again_with_its_seed_starts_one_run(shop: Shop) -> None:
    headers = {"x-inngest-event-id-seed": "1743130137367,eii2YKXRVTJPuA=="}
    first = shop.post("/invoke/shop-pack", {"data": {}}, headers=headers)
    assert shop.post("/invoke/shop-pack", {"data": {}}, headers=headers) == first
    assert shop.next(Dispatch).generation == 1
    shop.post("/invoke/shop-pack", {"data": {"last": 1}})
    assert msgspec.json.decode(shop.next(Dispatch).events[0])["data"] == {"last": 1}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/invoke/shop-nobody", {}, 404, "'shop-nobody'"),
        ("/invoke/shop-pack", "{", 400, "data"),
        ("/invoke/shop-pack", {"data": [1]}, 400, "object"),
        ("/v1/signals", {"data": 1}, 400, "signal"),
        ("/v1/signals", {"signal": ""}, 400, "256"),
        ("/v1/signals", "[]", 400, "signal"),
        ("/v1/signals", {"signal": "nobody", "data": 1}, 404, "'nobody'"),
    ],
)
def test_what_is_refused(shop: Shop, path: str, body: Any, status: int, says: str) -> None:
    answered, problem = shop.post(path, body)
    assert answered == problem["status"] == status
    assert says in problem["error"]


@pytest.mark.spec("REST-16")
def test_a_signal_resumes_the_run_that_waits(shop: Shop) -> None:
    shop.server.send({"name": "order", "data": {}})
    run = shop.next(Dispatch)
    shop.wait_for_signal(run, "approve/o1")
    status, answer = shop.post("/v1/signals", {"signal": "approve/o1", "data": {"by": "ann"}})
    assert (status, answer) == (200, {"data": {"run_id": run.run_id}, "run_id": run.run_id})
    resumed = shop.next(Resume)
    assert msgspec.json.decode(resumed.recorded.data) == {"signal": "approve/o1", "data": {"by": "ann"}}


@pytest.mark.parametrize("shop", [KEYS], indirect=True)
def test_outside_dev_the_signing_key_is_needed_and_a_body_has_a_limit(shop: Shop) -> None:
    for path in ("/v1/signals", "/invoke/shop-pack"):
        assert shop.post(path, {"signal": "x", "data": {}})[0] == 401
        assert shop.post(path, b"{" + b" " * 1_000, headers={"authorization": "Bearer 5fabcd"})[0] == 413
