"""A Faust app on the cluster of a log: it waits for the log's topics, and cuts its own as they are cut."""

import asyncio
from collections.abc import Set as AbstractSet
from typing import Any

import faust
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types.transports import TransportT

from steplog.errors import ConfigInvalid
from steplog.paths import KAFKA_LOG, KafkaAddress, masked
from steplog_faust.read_committed import Transport

LOOK_AGAIN_S = 1.0
MADE_S = 0.05  # between two looks for a topic that was just made
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
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.log_address.servers,
            **credentials_to_aiokafka_auth(self.conf.broker_credentials, self.conf.ssl_context),
        )
        await admin.start()
        try:
            if await self._are_there(admin, self.log_topics, LOOK_AGAIN_S):
                await self._make_topics(admin)
        finally:
            await admin.close()

    async def _make_topics(self, admin: AIOKafkaAdminClient) -> None:
        """Make the topics between agents. Faust does so too, and leaves out those that are not known at once."""
        if self.log_topics and not self._is_cut:  # a table is cut as the topic whose agent writes it
            found = await admin.describe_topics(sorted(self.log_topics))
            self.conf.topic_partitions = max(len(topic["partitions"]) for topic in found)
        ours = [agent.channel for agent in self.agents.values()]
        wanted = {
            name: topic.partitions or self.conf.topic_partitions
            for topic in ours
            if isinstance(topic, faust.Topic) and topic.internal
            for name in topic.topics
        }
        missing = wanted.keys() - await admin.list_topics()
        if missing and self.conf.topic_allow_declare:
            replicas = self.conf.topic_replication_factor
            await admin.create_topics([NewTopic(name, wanted[name], replicas) for name in sorted(missing)])
            await self._are_there(admin, missing, MADE_S)

    async def _are_there(self, admin: AIOKafkaAdminClient, topics: AbstractSet[str], again_s: float) -> bool:
        """Return once topics are there; False when the app is to stop before."""
        is_told = False
        while not self.should_stop:
            missing = ", ".join(sorted(topics - set(await admin.list_topics())))
            if not missing:
                return True
            if not is_told and topics is self.log_topics:
                self.log.warning("waiting for %s, which steplog makes when it first starts", missing)
                is_told = True
            await asyncio.sleep(again_s)
        return False


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
