"""What tests/servers.py starts: a shared broker and a shared PostgreSQL."""

from compose.kafka_local import Cluster
from tests.kafka_clients import committed, create_topic, produce
from tests.postgres import Postgres


def test_topics_of_tests_on_the_shared_broker_keep_apart(kafka: Cluster, kafka_prefix: str) -> None:
    create_topic(kafka.bootstrap, f"{kafka_prefix}.events")
    produce(kafka.bootstrap, f"{kafka_prefix}.events", b"a", b"b")
    assert committed(kafka.bootstrap, f"{kafka_prefix}.events") == [b"a", b"b"]


def test_each_test_has_a_database_of_its_own(postgres: Postgres) -> None:
    first, second = postgres.database(), postgres.database()
    postgres.execute("CREATE TABLE runs (id int)", first)
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert (postgres.execute(count, first), postgres.execute(count, second)) == ("1", "0")
    assert postgres.execute("SHOW wal_level") == "logical"
