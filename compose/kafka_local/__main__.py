"""``compose/kafka-local``: run Kafka until Ctrl-C or SIGTERM."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from compose.kafka_local.cluster import Cluster
from compose.kafka_local.distribution import VERSION
from compose.kafka_local.errors import KafkaUnavailable, end_of
from compose.kafka_local.install import install

PORT = 9092


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 where it was ended, 1 where Kafka is missing, did not start or ended by itself."""
    given = parser().parse_args(arguments)

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)  # also where a shell's background job ignores it
    try:
        distribution = install(_tell)
        if given.install:
            return 0
        settings = dict(pair.split("=", 1) for pair in given.settings)
        cluster = Cluster(distribution, given.brokers, port=given.port, data=given.data, settings=settings)
        with cluster:
            return _serve(cluster, given.ready_fd)
    except KafkaUnavailable as error:
        _tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 0


def _serve(cluster: Cluster, ready_fd: int | None) -> int:
    fate = "removed at the end" if cluster.is_temporary else "kept"
    print(f"Kafka {VERSION} is ready at {cluster.bootstrap} · data in {cluster.data}, {fate}", flush=True)
    if ready_fd is not None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(ready_fd, "w") as ready:
            pids = [broker.pid for broker in cluster.brokers]
            ready.write(json.dumps({"bootstrap": cluster.bootstrap, "data": str(cluster.data), "pids": pids}) + "\n")
    while all(broker.is_running for broker in cluster.brokers):
        time.sleep(0.1)
    (ended, *_) = [broker for broker in cluster.brokers if not broker.is_running]
    _tell(f"error: broker {ended.node} has ended; its log ends with\n{end_of(ended.log)}")
    return 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="kafka-local", description="Run Apache Kafka on this machine, without Docker, until Ctrl-C."
    )
    options.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="one, or three")
    options.add_argument("--port", type=int, default=PORT, help=f"the first broker's ({PORT}); 0 takes free ones")
    options.add_argument("--data", type=Path, metavar="DIR", help="keep topics there; without it they are removed")
    options.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", type=_setting,
        help="a property of the brokers, as in log.retention.ms=60000",
    )  # fmt: skip
    options.add_argument("--install", action="store_true", help="get what a start needs, and end")
    options.add_argument("--ready-fd", type=int, help="write a JSON line there when it is ready")
    return options


def _setting(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return text


if __name__ == "__main__":
    sys.exit(main())
