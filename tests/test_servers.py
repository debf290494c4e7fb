"""What tests/servers.py starts: a shared broker and a shared PostgreSQL."""

from confluent_kafka.admin import AdminClient, NewTopic

from compose.kafka_local import Cluster
from tests.postgres import Postgres


def test_topics_of_tests_on_the_shared_broker_keep_apart(kafka: Cluster, kafka_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    (created,) = admin.create_topics([NewTopic(f"{kafka_prefix}.events", 2, 1)]).values()
    created.result(30)
    assert f"{kafka_prefix}.events" in admin.list_topics(timeout=30).topics


def test_each_test_has_a_database_of_its_own(postgres: Postgres) -> None:
    first, second = postgres.database(), postgres.database()
    postgres.execute("CREATE TABLE runs (id int)", first)
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert (postgres.execute(count, first), postgres.execute(count, second)) == ("1", "0")
    assert postgres.execute("SHOW wal_level") == "logical"
