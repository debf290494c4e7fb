"""The functions' process of a generation: ``python -m steplog.cli.dev.functions CONTROL ENGINE``, two file numbers.

Imports the code, says how that went, and waits; runs the functions from when it is told to open until it is told to
stop, or the parent is gone.
"""

import asyncio
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType

from steplog.app import App
from steplog.cli.dev.frames import (
    Failed,
    Load,
    Loaded,
    LoadedApp,
    OpenLog,
    Refused,
    Retry,
    Said,
    Serving,
    Stop,
    Stopping,
    Told,
    decode_told,
)
from steplog.cli.errors import USAGE, describe_load_error
from steplog.cli.parts import engine_of, node_config
from steplog.diagnostics import log_to_stderr
from steplog.drivers.loop import UsersLoop
from steplog.errors import SteplogError
from steplog.loading import load_apps
from steplog.node import Node, functions_of
from steplog.shells.frames import LENGTH_BYTES, FrameStream, pack
from steplog.tuning import tune_process

ORPHAN_DRAIN_S = 0.1
FOREIGN = ("site-packages", "dist-packages")


def main(control: int, engine: int) -> int:
    """Returns the exit code."""
    log_to_stderr(as_json=False)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent is told, and stops this process in order
        signal.signal(number, _ignore)  # SIG_IGN would be inherited by what user code starts
    with socket.socket(fileno=control) as parent, socket.socket(fileno=engine) as connection:
        load = _receive(parent)
        if load is None:
            return 0
        known = set(sys.modules)
        try:
            apps = _load(load)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code
            parent.sendall(pack(_refused(error, _files(load, known))))
            return USAGE
        loaded = [LoadedApp(app.id, len(app.functions)) for app in apps]
        parent.sendall(pack(Loaded(apps=loaded, files=_files(load, known))))
        tune_process()
        with asyncio.Runner(loop_factory=UsersLoop) as runner:
            return runner.run(_Functions(load, apps).run(parent, connection))


class _Functions:
    """Functions that are loaded."""

    def __init__(self, load: Load, apps: list[App]) -> None:
        self._load, self._apps = load, apps
        self._opened, self._stopped = asyncio.Event(), asyncio.Event()
        self._drain_s = 0.0
        self._node: Node | None = None  # while it runs
        self._stream: FrameStream[Told]

    async def run(self, parent: socket.socket, connection: socket.socket) -> int:
        """Returns the exit code."""
        _, self._stream = await asyncio.get_running_loop().create_connection(
            lambda: FrameStream(decode_told, self._receive, self._orphaned), sock=parent
        )
        await self._opened.wait()
        if self._stopped.is_set():
            return 0
        try:
            await self._run(connection)
        except SteplogError as error:
            self._say(Failed(error.code, str(error)))
            return error.exit_code
        return 0

    async def _run(self, connection: socket.socket) -> None:
        engine = engine_of(
            self._load.config, self._apps, Path(self._load.log_path), is_dev=True, sockets=self._load.sockets,
            connection=connection, on_serving=lambda: self._say(Serving()), since_ms=self._load.since_ms,
        )  # fmt: skip
        async with Node(self._apps, engine, node_config(self._load.config)) as node:
            self._node = node
            stopped = asyncio.create_task(self._wait_stopped())
            failed = asyncio.create_task(node.failed())
            await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not self._stopped.is_set():
                failed.result()
            failed.cancel()
            self._node = None
            node.drain_s = self._drain_s
            if node.executing:
                self._say(Stopping(node.executing))

    async def _wait_stopped(self) -> None:
        await self._stopped.wait()

    def _say(self, frame: Said) -> None:
        self._stream.send(frame)

    def _receive(self, frame: Told) -> None:
        match frame:
            case OpenLog():
                self._opened.set()
            case Retry():
                if self._node is not None:
                    self._node.retry_now()
            case Stop(drain_s=drain_s):
                self._drain_s = drain_s
                self._stopped.set()
                self._opened.set()
            case Load():
                raise AssertionError("code is loaded once")

    def _orphaned(self) -> None:
        """The parent is gone without a word."""
        self._receive(Stop(ORPHAN_DRAIN_S))


def _load(load: Load) -> list[App]:
    if load.is_root_searched and load.root not in sys.path:
        sys.path.insert(0, load.root)
    apps = load_apps(load.files)
    functions_of(apps)
    return apps


def _refused(error: BaseException, files: list[str]) -> Refused:
    told = describe_load_error(error)
    involved = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        involved.append(error.filename)
    involved = [str(Path(name).absolute()) for name in involved if name.endswith(".py") and _is_theirs(name)]
    return Refused(
        code=told.code, text=told.text, place=told.place, source=told.source, frames=told.frames,
        details="".join(traceback.format_exception(error)).rstrip(), files=sorted({*files, *involved}),
    )  # fmt: skip


def _files(load: Load, known: set[str]) -> list[str]:
    """The project's modules that were imported since: below its directory, or beside the files that were named."""
    names = [target.partition(":")[0] for target in load.files]
    given = [Path(name).absolute() for name in names if name.endswith(".py")]
    roots = {Path(load.root).absolute(), *(path.parent for path in given)}
    found = {str(path) for path in given}
    for name in sys.modules.keys() - known:
        file = getattr(sys.modules[name], "__file__", None)
        if isinstance(file, str) and _is_theirs(file):
            path = Path(file).absolute()
            if any(root in path.parents for root in roots):
                found.add(str(path))
    return sorted(found)


def _is_theirs(file: str) -> bool:
    parts = Path(file).parts
    return not any(part in FOREIGN for part in parts) and not file.startswith(str(Path(__file__).parents[2]))


def _receive(parent: socket.socket) -> Load | None:
    """Wait for the first frame; None where the parent is gone, or has no use for this process."""
    head = _exactly(parent, LENGTH_BYTES)
    frame = decode_told(_exactly(parent, int.from_bytes(head, "big"))) if head else None
    return frame if isinstance(frame, Load) else None


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := connection.recv(count - len(data))):
        data += part
    return data


def _ignore(_number: int, _frame: FrameType | None) -> None: ...


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
