"""steplog: durable functions on Kafka, or on one SQLite file."""

__version__ = "0.1.0"
