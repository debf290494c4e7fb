"""Lets the clocks by which steplog decides run faster: for processes that have this folder on PYTHONPATH.

All of them read the same time. Kafka's sessions and time-outs are those of the machine.
"""

import os

from steplog import clock

_FASTER = int(os.environ["CLOCK_FASTER"])
_FROM_MS = int(os.environ["CLOCK_FROM_MS"])
_read = clock.read_clocks


def _read_faster() -> tuple[float, float]:
    wall_ms, steady_ms = _read()
    return _FROM_MS + (wall_ms - _FROM_MS) * _FASTER, steady_ms * _FASTER


clock.read_clocks = _read_faster
