"""A Faust app on the cluster of a log: it waits for the log's topics, and cuts its own as they are cut."""

import asyncio
from typing import Any

import faust
from aiokafka.admin import AIOKafkaAdminClient
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types.transports import TransportT

from steplog.errors import ConfigInvalid
from steplog.paths import KAFKA_LOG, KafkaAddress, masked
from steplog_faust.read_committed import Transport

LOOK_AGAIN_S = 1.0
SESSION_S = 10.0  # after which a worker that was killed is missed; Faust's own is a minute


class App(faust.App):
    """A Faust app that reads the topics of one log."""

    def __init__(self, name: str, address: KafkaAddress, **options: Any) -> None:
        servers = address.servers.replace(",", ";")
        super().__init__(address.topic(name), broker=f"kafka://{servers}", **options)
        self.log_address = address
        self.log_topics = set[str]()  # that it reads, by their names on the cluster
        self._is_cut = "topic_partitions" in options

    def _new_transport(self) -> TransportT:
        return Transport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        """Wait for the log's topics: Faust would leave out for ever what is not there yet."""
        await super().on_first_start()
        if not self.log_topics:
            return
        counts = await self._partitions()
        if counts and not self._is_cut:  # a table is cut as the topic whose agent writes it
            self.conf.topic_partitions = max(counts)

    async def _partitions(self) -> list[int]:
        """How many partitions each of the topics has, once all are there; none when the app is to stop before."""
        is_told = False
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.log_address.servers,
            **credentials_to_aiokafka_auth(self.conf.broker_credentials, self.conf.ssl_context),
        )
        await admin.start()
        try:
            while not self.should_stop:
                there = set(await admin.list_topics())
                if self.log_topics <= there:
                    found = await admin.describe_topics(sorted(self.log_topics))
                    return [len(topic["partitions"]) for topic in found]
                if not is_told:
                    missing = ", ".join(sorted(self.log_topics - there))
                    self.log.warning("waiting for %s, which steplog makes when it first starts", missing)
                    is_told = True
                await asyncio.sleep(LOOK_AGAIN_S)
        finally:
            await admin.close()
        return []


def app(name: str, log: str = KAFKA_LOG, **options: Any) -> App:
    """Make a Faust app for a log: ``kafka://HOST:PORT,HOST:PORT/PREFIX``, as steplog is given it.

    Faust's id of the app is ``PREFIX.NAME``: its consumer group, and how the names of its own topics begin. ``options``
    are Faust's settings. Raises ``ConfigInvalid`` for an address that is none, or that has settings of librdkafka,
    which Faust does not use.
    """
    address = KafkaAddress.parse(log)
    if address.settings:
        names = ", ".join(key for key, _ in address.settings)
        raise ConfigInvalid(
            "log", [f"{masked(log)!r} sets {names}, which Faust does not know; give its own, as broker_credentials"]
        )
    return App(name, address, **{"broker_session_timeout": SESSION_S, **options})
