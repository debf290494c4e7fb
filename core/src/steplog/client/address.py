"""Where a server is and what it is shown: as given, else as the environment says, else the dev server (EVT-21)."""

import os
import urllib.parse

import msgspec

from steplog.errors import ConfigInvalid
from steplog.signing import bare_key, hashed_key

DEFAULT_URL = "http://127.0.0.1:8288"
ANY_KEY = "dev"  # dev takes any that is not empty
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A server. ``url`` has no slash at its end; ``headers`` go with every request."""

    url: str
    event_key: str
    headers: dict[str, str]

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for it; none for this machine, where a proxy is not."""
        parts = urllib.parse.urlsplit(self.url)
        host = parts.hostname or ""
        if host in _LOCAL:
            return None
        from urllib.request import getproxies, proxy_bypass  # not needed on this machine, and slow to import

        return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def address(
    url: str | None = None, *, event_key: str | None = None, signing_key: str | None = None, env: str | None = None
) -> Address:
    """Read an address. Raises ``ConfigInvalid`` for a URL that is none, and for a key that no header can hold.

    What is not given comes from ``STEPLOG_URL``, ``_EVENT_KEY``, ``_SIGNING_KEY`` and ``_ENV``, else from the names
    that the SDKs know (KEY-03, HOST-11).
    """
    chosen_url = url or _setting("STEPLOG_URL", "INNGEST_BASE_URL") or DEFAULT_URL
    chosen_env = env or _setting("STEPLOG_ENV", "INNGEST_ENV")
    chosen_key = signing_key or _setting("STEPLOG_SIGNING_KEY", "INNGEST_SIGNING_KEY")
    headers = {}
    if chosen_key:
        headers["authorization"] = f"Bearer {_token(chosen_key)}"
    if chosen_env:
        headers["x-inngest-env"] = chosen_env
    chosen_event_key = event_key or _setting("STEPLOG_EVENT_KEY", "INNGEST_EVENT_KEY") or ANY_KEY
    problems = [] if (checked := _url(chosen_url)) else [f"url is {chosen_url!r}; write it as {DEFAULT_URL}"]
    problems += [f"{name} has characters that no header can hold" for name in headers if not _fits(headers[name])]
    if problems:
        raise ConfigInvalid("Client", problems)
    return Address(url=checked, event_key=chosen_event_key, headers=headers)


def _setting(*names: str) -> str:
    """The first of some variables that is set; a file that it came from may have ended with a line break."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _url(text: str) -> str:
    """Complete an address; "" for what is none."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return ""
    is_plain = not (parts.query or parts.fragment) and " " not in url and _fits(url)
    return url.rstrip("/") if parts.scheme in ("http", "https") and is_whole and is_plain else ""


def _fits(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _token(signing_key: str) -> str:
    """The key's hash, as the SDKs show it: the key itself signs requests, and need not travel."""
    return hashed_key(signing_key) or bare_key(signing_key)
