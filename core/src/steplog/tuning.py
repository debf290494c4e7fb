"""Settings of a process that only serves: an embedding one may want otherwise."""

import gc
import sys
from contextlib import suppress

SWITCH_INTERVAL_S = 0.0005  # a thread that computes gives the GIL back after so long: callbacks wait for it
GC_THRESHOLDS = (50_000, 20, 50)  # a run makes and drops thousands of objects, hardly any in cycles

OPEN_FILES = 16_384  # connections are bounded below it (server/patience.py)


def tune_process() -> None:
    """Set them for this process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    _raise_open_files()


def _raise_open_files() -> None:
    """Have files enough for the connections: the usual soft limit of 1,024 is a shell's."""
    with suppress(ImportError, ValueError, OSError):  # not on every platform, not in every sandbox
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
        if 0 <= now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
