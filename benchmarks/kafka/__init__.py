"""The same on a log on Kafka: one broker of its own on 127.0.0.1, on the same two cores."""
