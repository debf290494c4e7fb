"""``python -m tests.golden NAME`` records a golden log."""

import sys

from .recording import record

record(sys.argv[1])
