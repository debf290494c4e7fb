"""Events a second by HTTP into a log on Kafka, in batches of 100 from four senders (``benchmarks/ingest.py``)."""

import tempfile
from pathlib import Path

from benchmarks.ingest import FUNCTIONS, measure_batches
from benchmarks.kafka.cluster import PARTITIONS, broker
from steplog.log.topics import Layout
from tests.faults.server import KEY
from tests.kafka.fleet import Fleet


def main() -> None:
    with broker() as cluster, tempfile.TemporaryDirectory(prefix="steplog-bench-") as directory:
        functions = Path(directory) / "functions.py"
        functions.write_text(FUNCTIONS)
        layout = Layout("bench", PARTITIONS)
        with Fleet(Path(directory), cluster.bootstrap, layout, ("one",), functions=functions) as fleet:
            fleet.start()
            measure_batches(f"http://127.0.0.1:{fleet['one'].port}/e/{KEY}")
