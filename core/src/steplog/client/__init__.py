"""A program's way to a server: it sends events and signals, and starts functions (docs/client.md).

``api`` has what is asked and how an answer is read, once; ``blocking`` and ``threaded`` carry the requests, for the
synchronous calls and for the others.
"""

from steplog.client.client import Client

__all__ = ["Client"]
