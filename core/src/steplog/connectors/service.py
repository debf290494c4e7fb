"""The connectors of a node: they run in the engine's process, beside its turns, whatever its log is."""

from collections.abc import Mapping
from typing import Protocol

from steplog.config.connectors import Connector
from steplog.connectors.entrance import Accept, Intake, entrance
from steplog.connectors.running import Cluster, Surroundings, run_connectors
from steplog.dead.opening import open_dead
from steplog.paths import PREFIX, KafkaAddress, is_kafka
from steplog.server.config import ServerConfig
from steplog.server.validation import Ask, Validation
from steplog.values import fitting


class Deciding(Intake, Protocol):
    """What decides in a node (``Turns``, ``Member``)."""

    @property
    def record_bytes(self) -> int | None:
        """The largest record that the log takes; None: any size."""


class ConnectorService:
    """Runs connectors until it is cancelled; what they cannot read is put aside with the log, at ``log``.

    Nodes of one log share the work: they are members of the same groups, and each knows what the others have put aside.
    """

    def __init__(self, connectors: Mapping[str, Connector], server: ServerConfig, log: str, node: str = "") -> None:
        self._connectors, self._server, self._log, self._node = connectors, server, log, node

    async def __call__(self, turns: Deciding, ask: Ask) -> None:
        """Run on the node's loop."""
        typed = self._server.typed
        validation = None if typed is None else Validation(typed, ask)

        def enter(source: str) -> Accept:
            return entrance(turns, source, validation)

        _, event_bytes = fitting(0, self._server.event_size_bytes, turns.record_bytes)
        address = KafkaAddress.parse(self._log) if is_kafka(self._log) else None
        await run_connectors(
            self._connectors,
            Surroundings(
                entrance=enter, open_dead=lambda: open_dead(self._log), event_bytes=event_bytes,
                node=self._node, prefix=PREFIX if address is None else address.prefix,
                cluster=None if address is None else Cluster(address.servers, dict(address.settings)),
            ),
        )  # fmt: skip
