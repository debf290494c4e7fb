"""Apache Kafka on this machine, without Docker: one broker or three, started in seconds, on 127.0.0.1 only.

For tests, benchmarks and people (``compose/kafka-local``); needs Java and, for the first start, Maven. It is no
production setup: no replicas on other machines, no authentication. Standard library only.
"""

from compose.kafka_local.broker import Broker
from compose.kafka_local.cluster import Cluster
from compose.kafka_local.distribution import VERSION
from compose.kafka_local.errors import KafkaUnavailable
from compose.kafka_local.install import install
from compose.kafka_local.ports import Ports, free_ports

__all__ = ["VERSION", "Broker", "Cluster", "KafkaUnavailable", "Ports", "free_ports", "install"]
