"""Everything that a start needs, made once: jars, a formatted folder's content, classes as Java has them in memory."""

from compose.kafka_local.cluster import Cluster
from compose.kafka_local.distribution import (
    VERSION,
    Distribution,
    Tell,
    alone,
    cache,
    check_java,
    find_java,
    format_once,
    get_jars,
)
from compose.kafka_local.errors import KafkaUnavailable


def install(tell: Tell = lambda line: None) -> Distribution:
    """Get what is missing, say so, and return what runs Kafka. Raises ``KafkaUnavailable``."""
    distribution = Distribution(find_java(), cache() / f"kafka-{VERSION}")
    if not distribution.archive.exists():
        try:
            with alone(distribution.folder.name):
                _complete(distribution, tell)
        except OSError as error:
            raise KafkaUnavailable(
                f"{cache()} cannot be written: {error}; XDG_CACHE_HOME names another place"
            ) from error
    return distribution


def _complete(distribution: Distribution, tell: Tell) -> None:
    check_java(distribution.java)
    libs = distribution.folder / "libs"
    if not libs.exists():
        get_jars(libs, tell)
    if not distribution.checkpoint.exists():
        format_once(distribution)
    if not distribution.archive.exists():
        tell("starting Kafka once, so that it starts faster from now on")
        _archive(distribution)


def _archive(distribution: Distribution) -> None:
    """Have a broker do a little of all that it does for steplog, and keep the classes that this took."""
    made = distribution.archive.with_suffix(".new")
    cluster = Cluster(distribution, jvm=[f"-XX:ArchiveClassesAtExit={made}"])
    try:
        cluster.start()
        cluster.stop()
        if not made.exists():
            raise KafkaUnavailable(f"Java made no archive of its classes: {distribution.java} has to be a usual JVM")
    finally:
        cluster.kill()
    made.replace(distribution.archive)
