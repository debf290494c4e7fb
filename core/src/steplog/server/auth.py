"""Who may send and who may read: event keys in the address, the signing key as a bearer token (spec: signing.md §3).

Keys are compared in constant time, all of them, so that an answer's time says nothing about them.
"""

from collections.abc import Iterable
from hmac import compare_digest

from steplog.server.config import ServerConfig
from steplog.signing import bare_key, hashed_key


class Keys:
    """The keys that a server knows."""

    def __init__(self, config: ServerConfig) -> None:
        self._is_dev = config.is_dev
        self._event_keys = [key.encode() for key in config.event_keys]
        self._tokens = [token for key in config.signing_keys for token in _tokens(key)]

    def event_key_problem(self, key: str) -> tuple[int, str] | None:
        """Why an event key is refused: status and text; None where it holds. ``dev`` takes any that is not empty."""
        if not self._event_keys and not self._is_dev:
            return 503, "Event keys are required to process events securely"
        if not key:
            return 401, "Event key is required"
        if self._is_dev or _is_among(key, self._event_keys):
            return None
        return 401, "Event key not found"

    def may_read(self, authorization: str | None) -> bool:
        """Whether a header ``Authorization: Bearer …`` holds a signing key, or the hash of one."""
        if self._is_dev:
            return True
        scheme, _, token = (authorization or "").strip().partition(" ")
        return scheme.lower() == "bearer" and _is_among(bare_key(token.strip()), self._tokens)


def _tokens(signing_key: str) -> list[bytes]:
    """Both forms in which the SDKs send a key: as it is, and hashed."""
    forms = (bare_key(signing_key), hashed_key(signing_key))
    return [form.encode() for form in forms if form is not None]


def _is_among(given: str, known: Iterable[bytes]) -> bool:
    text = given.encode("utf8", "surrogatepass")
    return sum(compare_digest(text, one) for one in known) > 0  # every key is compared
