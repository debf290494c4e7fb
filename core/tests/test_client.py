"""The client, synchronous and not, against a server as a user starts it, and through a relay that fails."""

import asyncio
import gc
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import pytest

from steplog import (
    App,
    Client,
    Context,
    Event,
    EventRefused,
    InvokeTimeout,
    NotFound,
    Refused,
    RunFailed,
    ServerUnreachable,
)
from steplog.client.address import DEFAULT_URL, address
from steplog.client.api import MOST_BACKOFF_S, MOST_RETRY_AFTER_S, pause_s
from steplog.engine.messages import EventAccepted
from steplog.errors import ConfigInvalid, EventInvalid, Overloaded, Unauthorized
from steplog.server.config import ServerConfig

from .command_line import clean_environment
from .place import Place, placed
from .relay import HANGS_UP, LOSES_ANSWER, LOSES_REQUEST, Fault, Relay, relayed
from .serving import served

FUNCTIONS = """
from datetime import timedelta

from steplog import App, Context

app = App("test")


@app.function("echo", trigger="test/echo")
async def echo(ctx: Context) -> dict:
    return {"run_id": ctx.run_id, "name": ctx.event.name, "data": ctx.event.data}


@app.function("quote", trigger="test/quote")
async def quote(ctx: Context) -> dict:
    return {"order": ctx.event.data["order"], "cents": 4200}


@app.function("we/ird id? ü", trigger="test/weird")
async def weird(ctx: Context) -> int:
    return 7


@app.function("fail", trigger="test/fail", retries=0)
async def fail(ctx: Context) -> None:
    raise OSError("printer is off")


@app.function("nothing", trigger="test/nothing")
async def nothing(ctx: Context) -> None: ...


@app.function("sleep", trigger="test/sleep")
async def sleep(ctx: Context) -> None:
    await ctx.step.sleep("cool-off", timedelta(hours=1))


@app.function("approve", trigger="test/approve")
async def approve(ctx: Context) -> dict:
    heard = await ctx.step.wait_for_signal("manager", signal=ctx.event.data["signal"], timeout=60_000)
    return {"signal": heard.signal, "data": heard.data}
"""
KEYS = ServerConfig(is_dev=False, event_keys=("sender",), signing_keys=("signkey-test-5fabcd",), event_size_bytes=1_000)
DEADLINE_S = 10.0
Call = Callable[..., Any]

app = App("test")


@dataclass
class Quote:
    order: str
    cents: int


@app.function("quote", trigger="test/quote")
async def quote(ctx: Context) -> Quote:
    raise AssertionError("it runs on the server")


@app.function("echo", trigger="test/echo")
async def echo(ctx: Context) -> Quote:
    raise AssertionError("it runs on the server, and returns something else")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("client"), FUNCTIONS) as place:
        yield place


@pytest.fixture
def relay(place: Place) -> Iterator[Relay]:
    with relayed(place.url) as relay:
        yield relay


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "EVENT_KEY", "SIGNING_KEY", "ENV"):
        monkeypatch.delenv(f"STEPLOG_{name}", raising=False)
        monkeypatch.delenv(f"INNGEST_{'BASE_URL' if name == 'URL' else name}", raising=False)


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a client by its name: on a loop of its own, or its synchronous twin."""

    def call_(client: Client, method: str, *args: Any, **options: Any) -> Any:
        if request.param == "sync":
            return getattr(client, f"{method}_sync")(*args, **options)

        async def main() -> Any:
            return await getattr(client, method)(*args, **options)

        return asyncio.run(main())

    return call_


def read(place: Place, path: str) -> Any:
    with urllib.request.urlopen(place.url + path, timeout=DEADLINE_S) as response:
        return json.load(response)["data"]


def hello(**fields: Any) -> Event[Any]:
    return Event(name="test/hello", **{"data": {}, **fields})


# --- events


@pytest.mark.spec("EVT-09", "EVT-10", "EVT-21", "PY-08")
def test_events_are_sent_in_one_request_and_their_ids_come_in_order(place: Place, relay: Relay, call: Call) -> None:
    with Client(relay.url) as client:
        ids = call(client, "send", [hello(data={"n": n}, ts=1_700_000_000_000 + n, v="2") for n in range(3)])
        assert len(relay.posts) == 1
        assert len(set(ids)) == 3
        stored = [read(place, f"/v1/events/{id_}") for id_ in ids]
        assert [(event["name"], event["data"], event["ts"], event["v"]) for event in stored] == [
            ("test/hello", {"n": n}, 1_700_000_000_000 + n, "2") for n in range(3)
        ]
        (one,) = call(client, "send", hello(user={"id": "u1"}))
        assert read(place, f"/v1/events/{one}")["user"] == {"id": "u1"}
        assert call(client, "send", []) == []


@pytest.mark.spec("EVT-14")
def test_an_event_with_an_id_starts_a_function_once(place: Place, call: Call) -> None:
    event: Event[Any] = Event(name="test/nothing", data={}, id=f"once-{secrets.token_hex(8)}")
    with Client(place.url) as client:
        first, second = call(client, "send", event), call(client, "send", event)
    assert [len(read(place, f"/v1/events/{id_}/runs")) for (id_,) in (first, second)] == [1, 0]


@pytest.mark.spec("PY-10", "EVTW-05")
@pytest.mark.parametrize("faults", [[LOSES_ANSWER], [LOSES_REQUEST, LOSES_ANSWER], [500, 503]])
def test_a_send_whose_answer_is_lost_is_sent_again_and_starts_one_run(
    place: Place, relay: Relay, call: Call, faults: list[Fault | int]
) -> None:
    relay.faults = [*faults]
    with Client(relay.url) as client:
        (id_,) = call(client, "send", Event(name="test/nothing", data={}))
    assert len(relay.posts) == len(faults) + 1
    assert len({post.seed for post in relay.posts}) == 1
    assert relay.posts[0].seed is not None
    assert len(read(place, f"/v1/events/{id_}/runs")) == 1


@pytest.mark.spec("PY-10")
def test_each_call_has_a_seed_of_its_own(relay: Relay, call: Call) -> None:
    with Client(relay.url) as client:
        for _ in range(3):
            call(client, "send", hello())
    assert len({post.seed for post in relay.posts}) == 3


@pytest.mark.spec("PY-11", "PY-10")
def test_what_is_refused_is_not_sent_again_and_is_named_by_its_place(relay: Relay, call: Call) -> None:
    large = hello(data={"text": "x" * (3 << 20)})
    with Client(relay.url) as client, pytest.raises(EventRefused) as raised:
        call(client, "send", [hello(), large, hello()])
    assert len(relay.posts) == 1
    error = raised.value
    assert (len(error.ids), error.index) == (1, 1)
    assert error.reason.startswith("Event is over the max size")
    assert str(error) == f"413 from {relay.url}, 2 of 3 refused\n  event 1  {error.reason}"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (Event(name="", data={}), "name is empty"),
        ([hello(), Event(name="inngest/function.failed", data={})], "reserved"),
        (hello(ts=5), "1980"),
        (hello(data=[1]), "not an object"),
        (hello(data={"n": float("nan")}), "not a finite number"),
        ([hello()] * 5_001, "the limit is 5000"),
        (["test/hello"], "not str"),
    ],
)
def test_what_breaks_a_rule_is_never_sent(relay: Relay, call: Call, events: Any, said: str) -> None:
    with Client(relay.url) as client, pytest.raises(EventInvalid, match=said):
        call(client, "send", events)
    assert relay.seen == []


# --- failures


@pytest.mark.spec("PY-10")
def test_it_gives_up_after_so_many_retries(relay: Relay, call: Call) -> None:
    relay.faults = [503] * 3
    with Client(relay.url, retries=2) as client, pytest.raises(ServerUnreachable, match="503 <h1>Out of order</h1>"):
        call(client, "send", hello())
    assert len(relay.posts) == 3


def test_an_overloaded_server_is_asked_again(call: Call) -> None:
    with served() as (server, backend), Client(f"127.0.0.1:{server.port}", retries=1) as client:
        submit = backend.submit

        async def refuse(_: list[EventAccepted]) -> int:
            setattr(backend, "submit", submit)  # noqa: B010 - a method, for mypy
            raise Overloaded("much is waiting")

        setattr(backend, "submit", refuse)  # noqa: B010
        assert len(call(client, "send", hello())) == 1
        assert len(backend.groups) == 1


def test_the_pause_doubles_and_is_as_long_as_the_server_asks() -> None:
    for attempt in range(20):
        assert min(0.1 * 2**attempt, MOST_BACKOFF_S) <= pause_s(attempt, None) <= min(0.1 * 2**attempt, 5) + 0.1
    assert pause_s(0, "7") == 7
    assert pause_s(0, "3600") == MOST_RETRY_AFTER_S
    assert pause_s(0, "Wed, 21 Oct 2026 07:28:00 GMT") < 0.3


def test_where_nothing_answers_it_says_what_to_start(call: Call) -> None:
    with (
        Client("http://127.0.0.1:9", retries=1) as client,
        pytest.raises(ServerUnreachable, match=r"nothing answers at http://127.0.0.1:9; start it: steplog dev"),
    ):
        call(client, "send", hello())


def test_an_answer_that_takes_too_long_is_not_waited_for(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(url, timeout=100, retries=1) as client,
            pytest.raises(ServerUnreachable, match=r"did not answer within 0\.1 s"),
        ):
            call(client, "send", hello())


@pytest.mark.spec("KEY-03")
def test_a_wrong_key_is_said_with_the_variable_that_has_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(KEYS) as (server, _):
        url = f"http://127.0.0.1:{server.port}"
        with Client(url) as client:
            with pytest.raises(Unauthorized, match=r"401 .*Event key not found; set STEPLOG_EVENT_KEY"):
                call(client, "send", hello())
            with pytest.raises(Unauthorized, match=r"401 .*set STEPLOG_SIGNING_KEY"):
                call(client, "invoke", "test-echo")
            with pytest.raises(Refused, match="set STEPLOG_SIGNING_KEY"):
                call(client, "send_signal", "go")
        monkeypatch.setenv("INNGEST_EVENT_KEY", "sender\n")
        monkeypatch.setenv("STEPLOG_SIGNING_KEY", "signkey-test-5fabcd")
        with Client(url) as client:
            assert len(call(client, "send", hello())) == 1
            assert call(client, "send_signal", "nobody") is None
        with Client(url, event_key="other") as client, pytest.raises(Unauthorized):
            call(client, "send", hello())


def test_what_is_no_steplog_server_is_found_out(call: Call) -> None:
    with relayed("http://127.0.0.1:9") as other, Client(other.url) as client:
        other.faults = [200]
        with pytest.raises(Refused, match="does not answer as a steplog server does"):
            call(client, "send", hello())


# --- functions


@pytest.mark.spec("FN-03", "SYS-05")
def test_a_function_is_invoked_and_its_result_has_its_type(place: Place, call: Call) -> None:
    with Client(place.url) as client:
        assert call(client, "invoke", quote, {"order": "o1"}) == Quote("o1", 4200)
        plain = call(client, "invoke", "test-echo", {"n": [1]})
        assert (plain["name"], plain["data"]) == ("inngest/function.invoked", {"n": [1]})
        assert call(client, "invoke", "test-echo")["data"] == {}
        assert call(client, "invoke", "test-nothing") is None
        assert call(client, "invoke", "test-we/ird id? ü") == 7


def test_the_type_of_a_result_is_inferred(place: Place) -> None:
    async def main() -> None:
        async with Client(place.url) as client:
            assert_type(await client.invoke(quote, {"order": "o1"}), Quote)
            assert_type(await client.invoke("test-quote", {"order": "o1"}), Any)

    asyncio.run(main())
    with Client(place.url) as client:
        assert_type(client.invoke_sync(quote, {"order": "o1"}, timeout=timedelta(seconds=30)), Quote)


def test_a_result_that_does_not_fit_its_annotation_is_an_error(place: Place, call: Call) -> None:
    with Client(place.url) as client, pytest.raises(Exception, match="a result that its annotation does not allow"):
        call(client, "invoke", echo, {})


@pytest.mark.spec("PY-10", "EVTW-05")
def test_an_invocation_whose_answer_is_lost_starts_one_run(place: Place, relay: Relay, call: Call) -> None:
    relay.faults = [LOSES_ANSWER, 503]
    mark = secrets.token_hex(8)  # both ways to call are tried on one server
    with Client(relay.url) as client:
        answer = call(client, "invoke", "test-echo", {"mark": mark})
    assert len({post.seed for post in relay.posts}) == 1
    runs = read(place, "/v1/runs?function=test-echo&limit=100")
    same = [run["run_id"] for run in runs if run["output"] and run["output"]["data"] == {"mark": mark}]
    assert same == [answer["run_id"]]


def test_a_run_that_fails_raises_its_error(place: Place, call: Call) -> None:
    with Client(place.url) as client, pytest.raises(RunFailed, match=r"test-fail failed, run \w{26}: OSError: ") as up:
        call(client, "invoke", "test-fail")
    assert (up.value.name, up.value.message) == ("OSError", "printer is off")
    assert 'raise OSError("printer is off")' in (up.value.stack or "")
    assert read(place, f"/v1/runs/{up.value.run_id}")["state"] == "failed"


def test_a_run_that_takes_too_long_goes_on(place: Place, call: Call) -> None:
    with (
        Client(place.url) as client,
        pytest.raises(InvokeTimeout, match=r"not ended within 0\.05 s; its run goes") as up,
    ):
        call(client, "invoke", "test-sleep", timeout=50)
    assert read(place, f"/v1/runs/{up.value.run_id}")["state"] == "waiting"


def test_a_server_that_goes_away_is_waited_for_no_longer_than_the_run(place: Place, call: Call) -> None:
    with relayed(place.url) as relay, Client(relay.url) as client:
        relay.is_broken_for_reads = True
        with pytest.raises(ServerUnreachable, match="502"):
            call(client, "invoke", "test-nothing", timeout=200)
        assert len(relay.posts) == 1
        assert len(relay.seen) < 6


def test_a_function_that_is_not_there_is_not_found(place: Place, relay: Relay, call: Call) -> None:
    with Client(relay.url) as client:
        with pytest.raises(NotFound, match="'test-nobody'"):
            call(client, "invoke", "test-nobody")
        assert len(relay.posts) == 1
        with pytest.raises(EventInvalid, match="a call of test-echo is not an object"):
            call(client, "invoke", "test-echo", [1])


# --- signals


@pytest.mark.spec("REST-16")
def test_a_signal_resumes_the_run_that_waits(place: Place, call: Call) -> None:
    name = f"approve/{secrets.token_hex(8)}"
    with Client(place.url) as client, ThreadPoolExecutor(1) as pool:
        assert call(client, "send_signal", name) is None
        approved = pool.submit(client.invoke_sync, "test-approve", {"signal": name})
        deadline_s = time.monotonic() + DEADLINE_S
        while (run_id := call(client, "send_signal", name, {"by": "ann"})) is None:
            assert time.monotonic() < deadline_s
        assert approved.result(DEADLINE_S) == {"signal": name, "data": {"by": "ann"}}
        assert read(place, f"/v1/runs/{run_id}")["function"] == "test-approve"


def test_a_signal_that_may_have_arrived_is_not_sent_again(relay: Relay, call: Call) -> None:
    with Client(relay.url) as client:
        for fault in (LOSES_ANSWER, 503):
            relay.faults = [fault]
            with pytest.raises(ServerUnreachable):
                call(client, "send_signal", "nobody")
    assert len(relay.posts) == 2


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again(relay: Relay) -> None:
    relay.faults = [HANGS_UP]
    with Client(relay.url) as client:
        for _ in range(2):  # nothing that is lost on the way would be sent again
            assert client.send_signal_sync("nobody") is None
            deadline_s = time.monotonic() + DEADLINE_S
            while not relay.closed:
                assert time.monotonic() < deadline_s
    assert (len(relay.posts), relay.connections) == (2, 2)


# --- threads, loops and processes


def test_one_client_serves_many_threads_on_kept_connections(relay: Relay) -> None:
    with Client(relay.url) as client, ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: client.send_sync(hello(data={"n": n}))[0], range(200)))
        assert len(set(ids)) == 200
        assert relay.connections <= 8


@pytest.mark.spec("PY-08")
def test_one_client_serves_many_tasks(place: Place) -> None:
    async def main() -> None:
        async with Client(place.url) as client:
            sent = await asyncio.gather(*(client.send(hello()) for _ in range(300)))
            assert len({id_ for (id_,) in sent}) == 300

    asyncio.run(main())


def test_one_client_serves_several_loops_one_after_the_other_and_at_once(relay: Relay) -> None:
    client = Client(relay.url)

    async def main() -> str:
        return (await client.send(hello()))[0]

    assert len({asyncio.run(main()) for _ in range(3)}) == 3
    assert relay.connections == 1
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: asyncio.run(main()), range(16)))) == 16
    client.close()


def test_a_cancelled_call_leaves_the_client_as_it_was(place: Place) -> None:
    async def main() -> None:
        async with Client(place.url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.invoke("test-sleep")
            assert len(await client.send(hello())) == 1

    asyncio.run(main())


def test_closing_ends_calls_that_wait_and_a_later_call_opens_again(place: Place) -> None:
    async def main() -> None:
        client = Client(place.url)
        waiting = asyncio.create_task(client.invoke("test-sleep"))
        await client.send(hello())
        await client.aclose()
        with pytest.raises(ServerUnreachable, match="the client was closed"):
            await waiting
        assert not [thread for thread in threading.enumerate() if thread.name == "steplog-client"]
        assert len(await client.send(hello())) == 1
        await client.aclose()
        client.send_sync(hello())
        client.close()

    asyncio.run(main())


def test_a_client_that_nobody_has_any_more_leaves_no_thread(place: Place) -> None:
    client = Client(place.url)
    asyncio.run(client.send(hello()))
    assert [thread for thread in threading.enumerate() if thread.name == "steplog-client"]
    del client
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "steplog-client"]


def process(script: str, url: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", script], env=clean_environment() | {"STEPLOG_URL": url}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_process_ends_in_order_whose_client_is_never_closed(place: Place) -> None:
    script = """
import asyncio
from steplog import Client, Event
client = Client()
event = Event(name="test/hello", data={})
print(len(client.send_sync(event)), len(asyncio.run(client.send(event))))
"""
    assert process(script, place.url, "-W", "error") == "1 1\n"


def test_a_client_works_on_in_a_forked_process(place: Place) -> None:
    script = """
import asyncio, os, warnings
from steplog import Client, Event
warnings.simplefilter("ignore", DeprecationWarning)
client = Client()
event = Event(name="test/hello", data={})

def send():
    return client.send_sync(event) + asyncio.run(client.send(event))

first = send()
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(len({*first, *send()}))
else:
    assert len({*first, *send()}) == 4
"""
    assert process(script, place.url) == "4\n"


def test_the_loop_of_the_caller_is_not_held_up_by_an_import(place: Place) -> None:
    script = """
import sys, steplog
assert not {"aiohttp", "steplog.client"} & set(sys.modules)
from steplog import Client, Event
client = Client()
client.send_sync(Event(name="test/hello", data={}))
print(sorted({"aiohttp", "yarl", "sqlite3", "uvicorn"} & set(sys.modules)))
"""
    assert process(script, place.url) == "[]\n"


# --- addresses


@pytest.mark.spec("EVT-21", "KEY-03")
def test_an_address_is_given_or_the_environments_or_the_dev_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Client().url, address().event_key, address().headers) == (DEFAULT_URL, "dev", {})
    for name, value in (("BASE_URL", "http://sdk:1/"), ("EVENT_KEY", "k1"), ("SIGNING_KEY", "signkey-prod-00ff")):
        monkeypatch.setenv(f"INNGEST_{name}", value)
    found = address()
    assert (found.url, found.event_key) == ("http://sdk:1", "k1")
    digest = "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8"
    assert found.headers == {"authorization": f"Bearer {digest}"}
    monkeypatch.setenv("STEPLOG_URL", "ours:2")
    monkeypatch.setenv("STEPLOG_EVENT_KEY", " k2\n")
    monkeypatch.setenv("STEPLOG_SIGNING_KEY", "no hex")
    monkeypatch.setenv("STEPLOG_ENV", "feature/x")
    found = address()
    assert (found.url, found.event_key) == ("http://ours:2", "k2")
    assert found.headers == {"authorization": "Bearer no hex", "x-inngest-env": "feature/x"}
    given = address("https://given/below/", event_key="k3", signing_key="signkey-x-zz", env="b")
    assert (given.url, given.event_key) == ("https://given/below", "k3")
    assert given.headers == {"authorization": "Bearer zz", "x-inngest-env": "b"}


@pytest.mark.parametrize(
    "url", ["http://", "ftp://x", "http://x:0", "http://x:99999", "http://[x", "http://a b", "x?y"]
)
def test_what_is_no_address_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="url is "):
        Client(url)


def test_a_key_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigInvalid, match="authorization has characters") as raised:
        Client(signing_key="sésame")
    assert "same" not in str(raised.value)


def test_a_proxy_of_the_environment_is_asked_for_other_machines(
    place: Place, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relayed(place.url) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.3")
        with Client("http://127.0.0.2:9") as client:
            assert len(call(client, "send", hello())) == 1
        assert proxy.posts[0].path == "http://127.0.0.2:9/e/dev"
    assert [address(f"http://{host}").proxy for host in ("127.0.0.1", "127.0.0.3", "localhost")] == [None] * 3
