"""What can go wrong before a broker serves."""

from pathlib import Path

_LINES = 25


class KafkaUnavailable(Exception):
    """Kafka cannot be had or started here; the message names what is missing and how to get it."""


def end_of(log: Path) -> str:
    """The last lines that a process has logged, for an error."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LINES:]
    except OSError as error:
        return f"({error})"
    return "\n".join(f"  {line}" for line in [f"{log}:", *lines])
