"""Several ``steplog start`` on one log on Kafka: sent to, killed, stopped and started again."""

import contextlib
import http.client
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from steplog.log.topics import Layout
from tests.faults.server import SHOP, Answer, Server


class Fleet:
    """Nodes of one cluster by name, none of which runs yet. Leaving the context kills those that do."""

    def __init__(
        self, folder: Path, bootstrap: str, layout: Layout, names: tuple[str, ...] = ("one", "two", "three"), *,
        functions: Path = SHOP, environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._layout, self._functions = folder, layout, functions
        self.url, self.bootstrap = f"kafka://{bootstrap}/{layout.prefix}", bootstrap
        self.effects = folder / "effects"
        self._environment = {"EFFECTS": str(self.effects), **(environment or {})}
        self._next = 0
        self.nodes = {name: self.node(name) for name in names}

    def node(self, name: str, *, folder: str | None = None, url: str | None = None) -> Server:
        """A node that is not (yet) one of the fleet; ``folder``: where a second of the same name has its files."""
        at = self._folder / (folder or name)
        at.mkdir(parents=True)
        config = f'[kafka]\npartitions = {self._layout.partitions}\nnode = "{name}"\ndata = "{at}"\n'
        return Server(at, self._functions, environment=self._environment, url=url or self.url, config=config)

    def __getitem__(self, name: str) -> Server:
        return self.nodes[name]

    def start(self, *names: str) -> float:
        """Start these side by side, or all; returns the seconds until the last one serves."""
        servers = [self.nodes[name] for name in names or self.nodes]
        with ThreadPoolExecutor() as side_by_side:
            return max(side_by_side.map(Server.start, servers))

    def post(self, events: object) -> Answer:
        """Send to one of those that run, in turn. Raises ``OSError`` or ``HTTPException`` where no answer comes."""
        running = [server for server in self.nodes.values() if not server.has_ended and server.port]
        if not running:
            raise http.client.NotConnected("no node runs")
        self._next += 1
        return running[self._next % len(running)].post(events)

    def printed(self) -> str:
        """All that its nodes have printed."""
        return "\n".join(f"--- {name}\n{server.printed()}" for name, server in self.nodes.items())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.ExitStack() as ends:
            for server in self.nodes.values():
                ends.push(server)
        if error is not None:
            print(self.printed())


def freeze(server: Server) -> None:
    """Stop the clock of a node's processes, with all connections open."""
    os.killpg(server.pid("functions"), signal.SIGSTOP)


def thaw(server: Server) -> None:
    os.killpg(server.pid("functions"), signal.SIGCONT)
