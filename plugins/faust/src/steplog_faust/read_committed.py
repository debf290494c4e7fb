"""Faust's Kafka consumer, reading committed records alone.

Faust itself reads them only with ``exactly_once``; without it an agent would see turns that steplog has taken back.
"""

from typing import Any

from faust.transport.drivers import aiokafka


class _Thread(aiokafka.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: aiokafka.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # read when it starts; Faust has no setting for it
        return consumer


class _Consumer(aiokafka.Consumer):
    def _new_consumer_thread(self) -> aiokafka.AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class Transport(aiokafka.Transport):
    """As Faust's own, with that consumer."""

    Consumer = _Consumer
