"""The connectors of a node whose log is a file: they run in the engine's process, beside its turns."""

from collections.abc import Mapping
from pathlib import Path

from steplog.config.connectors import Connector
from steplog.connectors.entrance import Accept, entrance
from steplog.connectors.running import Surroundings, run_connectors
from steplog.dead.sqlite import SqliteDeadLetters
from steplog.paths import dead_path
from steplog.server.config import ServerConfig
from steplog.server.validation import Ask, Validation
from steplog.turns import Turns


class ConnectorService:
    """Runs connectors until it is cancelled; what they cannot read is put aside beside the log."""

    def __init__(self, connectors: Mapping[str, Connector], server: ServerConfig, log_path: Path) -> None:
        self._connectors, self._server, self._dead_path = connectors, server, dead_path(log_path)

    async def __call__(self, turns: Turns, ask: Ask) -> None:
        """Run on the node's loop."""
        typed = self._server.typed
        validation = None if typed is None else Validation(typed, ask)

        def enter(source: str) -> Accept:
            return entrance(turns, source, validation)

        await run_connectors(
            self._connectors,
            Surroundings(
                entrance=enter, open_dead=lambda: SqliteDeadLetters(self._dead_path),
                event_bytes=self._server.event_size_bytes,
            ),
        )  # fmt: skip
