"""Settings of a process that only serves: an embedding one may want otherwise."""

import gc
import sys

SWITCH_INTERVAL_S = 0.0005  # a thread that computes gives the GIL back after so long: callbacks wait for it
GC_THRESHOLDS = (50_000, 20, 50)  # a run makes and drops thousands of objects, hardly any in cycles


def tune_process() -> None:
    """Set them for this process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
