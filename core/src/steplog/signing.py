"""Signing keys: ``signkey-<env>-<hex>``, or the hex alone (spec: signing.md)."""

import re
from hashlib import sha256

_PREFIX = re.compile(r"signkey-\w+-", re.ASCII)


def bare_key(key: str) -> str:
    """A key without its prefix."""
    return _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key


def hashed_key(key: str) -> str | None:
    """The hash of a key, which clients show in its place; None for one that is not hex, and cannot be hashed."""
    try:
        return sha256(bytes.fromhex(bare_key(key))).hexdigest()
    except ValueError:
        return None
