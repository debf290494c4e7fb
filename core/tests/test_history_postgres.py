"""A history in PostgreSQL: who makes its tables, and what happens while it is away."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from steplog import App, Context, Step
from steplog.drivers.loop import UsersLoop
from steplog.engine.functions import EngineConfig
from steplog.errors import HistoryUnavailable
from steplog.history import postgres as postgres_store
from steplog.history import process as history_process
from steplog.history import schema
from steplog.history.position import Position
from steplog.history.process import HistoryProcess, start_projector
from steplog.history.projector import Task
from steplog.node import Node
from steplog.paths import file_url
from steplog.server.sockets import bind
from steplog.shells.process import ProcessEngine

from .history_log import RecordedPartition, open_history, open_projector, rows
from .postgres_server import PostgresServer
from .serving import DEV, Served

DEADLINE_S = 30.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RecordedPartition]:
    log = RecordedPartition(tmp_path / "log.db")
    for _ in range(20):
        log.finish()
    log.live()
    yield log
    log.close()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that the test stops and starts; it is not started yet."""
    with tempfile.TemporaryDirectory(prefix="steplog-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield PostgresServer(Path(folder) / "server")


def until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not come"
        time.sleep(0.02)


def test_projectors_that_start_together_make_the_tables_once(log: RecordedPartition, postgres: str) -> None:
    errors: list[BaseException] = []

    def project() -> None:
        try:
            with open_projector(log.path, f"{postgres}?schema=together") as projector:
                projector.catch_up()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=project) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with open_projector(log.path, log.path.with_name("history.db")) as projector:
        projector.catch_up()
    assert rows(f"{postgres}?schema=together") == rows(log.path.with_name("history.db"))


def test_an_older_version_is_made_again_and_a_newer_one_is_left_alone(
    log: RecordedPartition, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = f"{postgres}?schema=versions"
    with open_projector(log.path, history) as projector:
        projector.catch_up()
        before = rows(history)
        monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
        with open_projector(log.path, history) as newer:
            assert newer.position == Position()
            assert newer.catch_up() == log.position
        assert rows(history) == before
        monkeypatch.undo()
        log.finish()
        with pytest.raises(HistoryUnavailable, match="has become that of another log or version"):
            projector.step()
    with pytest.raises(HistoryUnavailable, match="was made by a newer steplog"):
        open_projector(log.path, history)
    assert rows(history) == before


def test_a_history_of_another_log_is_refused(log: RecordedPartition, postgres: str, tmp_path: Path) -> None:
    history = f"{postgres}?schema=refused"
    with open_projector(log.path, history) as projector:
        projector.catch_up()
    other = RecordedPartition(tmp_path / "other.db")
    with pytest.raises(HistoryUnavailable, match=r"schema=NAME, or drop it: DROP SCHEMA refused CASCADE"):
        open_projector(other.path, history)
    with open_history(history) as reader:
        assert reader.position() == log.position
    other.close()


def test_a_user_who_may_make_no_schema_uses_one_that_is_there(log: RecordedPartition, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE modest LOGIN PASSWORD 'not-shown'")
    modest = postgres.replace("postgres@", "modest:not-shown@")
    with pytest.raises(HistoryUnavailable, match="permission denied") as refused:
        open_projector(log.path, f"{modest}?schema=given")
    assert "not-shown" not in str(refused.value)
    assert "modest:***@" in str(refused.value)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA given AUTHORIZATION modest")
    with open_projector(log.path, f"{modest}?schema=given") as projector:
        assert projector.catch_up() == log.position


def test_without_the_driver_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from steplog.history.store import open_reader\n"
        "try: open_reader('postgresql://h/d')\n"
        "except Exception as error: print(error.code, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("config_invalid ")
    assert "pip install 'steplog[postgres]'" in found.stdout


def test_a_projector_waits_for_a_database_that_is_not_there_yet(
    log: RecordedPartition, server: PostgresServer, tmp_path: Path
) -> None:
    process = start_projector(Task(log=file_url(log.path), history=server.dsn), stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    said = b""

    def heard(text: bytes) -> bool:
        nonlocal said
        said += process.stderr.read() or b""  # type: ignore[union-attr]  # asserted above
        return text in said

    until(lambda: heard(b"history is not written; trying again"), "what is wrong")
    time.sleep(1.5)  # several tries
    server.start()
    with open_history(server.dsn) as history:
        until(lambda: heard(b"history is written again"), "the end of it")
        assert history.wait_for(log.position, DEADLINE_S)
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    heard(b"")
    assert said.count(b"trying again") == said.count(b"\n") - 1 == 1
    process.stderr.close()
    server.stop()


def test_while_the_database_is_away_runs_go_on_and_nothing_is_lost(
    server: PostgresServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    app = App("shop")

    @app.function(trigger="order")
    async def charge(ctx: Context[dict[str, Any]], step: Step) -> str:
        async def pay() -> int:
            return int(ctx.event.data["total"])

        return f"paid {await step.run('pay', pay)}"

    server.start()

    async def story() -> None:
        serving = asyncio.Event()
        loop, sockets = asyncio.get_running_loop(), bind(0)
        engine = ProcessEngine(
            [function.spec for function in app.functions.values()], EngineConfig(), log_path=tmp_path / "log.db",
            history=server.dsn, server=DEV, sockets=sockets, on_serving=serving.set,
        )  # fmt: skip
        client = Served(sockets[0].getsockname()[1], loop)

        async def send(total: int) -> None:
            reply = await asyncio.to_thread(client.send, {"name": "order", "data": {"total": total}})
            assert reply.status == 200

        async def states() -> list[str]:
            reply = await asyncio.to_thread(client.get, "/v1/runs?limit=100")
            assert reply.status == 200, reply.json
            return [run["state"] for run in reply.json["data"]]

        async with Node([app], engine):
            await asyncio.wait_for(serving.wait(), DEADLINE_S)
            await send(0)
            assert len(await states()) == 1
            await asyncio.to_thread(server.stop)
            for total in range(1, 40):
                await send(total)
            reply = await asyncio.to_thread(client.get, "/v1/runs")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert f"the history at {server.dsn} cannot be used" in reply.json["error"]
            assert (await asyncio.to_thread(client.get, "/health")).status == 200
            await asyncio.sleep(1)  # several tries
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    reply = await asyncio.to_thread(client.get, "/v1/runs?limit=100&status=completed")
                    if reply.status == 200 and len(reply.json["data"]) == 40:
                        break
                    await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(story())
    with open_projector(tmp_path / "log.db", tmp_path / "history.db") as projector:
        projector.catch_up()
    assert rows(server.dsn) == rows(tmp_path / "history.db")
    server.stop()
    said = capfd.readouterr().err
    assert said.count("history is not written; trying again") == said.count("history is written again") == 1


def test_a_server_that_does_not_answer_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_process, "ANSWER_S", 0.1)
    monkeypatch.setattr(postgres_store, "CONNECT_S", 2)
    silent = socket.create_server(("127.0.0.1", 0))

    async def story() -> None:
        history = HistoryProcess(file_url(tmp_path / "log.db"), f"postgresql://127.0.0.1:{silent.getsockname()[1]}/d")
        with pytest.raises(HistoryUnavailable, match=r"has not answered within 0\.1 s"):
            await history.read(lambda one: one.counts(), at_least=Position())

    asyncio.run(story())
    silent.close()
