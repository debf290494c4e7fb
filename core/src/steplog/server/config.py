"""How the server listens to the world: its keys and limits."""

import msgspec

from steplog.server.validation import Typed

DEV_EVENT_BYTES = 3 << 20  # 3 MiB: what the SDKs' own dev server takes
START_EVENT_BYTES = 256 << 10
REQUEST_BYTES = 32 << 20
INTAKE_BYTES = 128 << 20


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The server's settings. ``dev`` needs no keys; without ``is_dev`` whoever has none of them is refused."""

    is_dev: bool
    event_keys: tuple[str, ...] = ()
    signing_keys: tuple[str, ...] = ()  # the present one, and those that still hold while keys are changed
    allow_hosts: tuple[str, ...] = ()  # names besides localhost that a request to ``dev`` may be addressed to
    event_size_bytes: int = START_EVENT_BYTES
    request_size_bytes: int = REQUEST_BYTES
    typed: Typed | None = None  # what is checked by its type; None: nothing is, every event is accepted
    apps: tuple[str, ...] = ()  # what it says of itself in ``dev``
    since_ms: int = 0  # when the port was taken
    intake_bytes: int = INTAKE_BYTES  # of all requests together, until they are answered
