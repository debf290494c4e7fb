"""Identifiers: ULIDs whose random part is derived, so that deciding again creates the same id.

A ULID is 16 bytes (48 bits of milliseconds, 80 bits) and prints as 26 characters of Crockford's base 32.
"""

import functools
from hashlib import blake2b, sha1

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_VALUES = {c: i for i, c in enumerate(_ALPHABET)} | {c.lower(): i for i, c in enumerate(_ALPHABET)}
MAX_ULID_MS = (1 << 48) - 1
SLOTS = 4096


def encode_ulid(value: bytes) -> str:
    """Print 16 bytes as 26 characters."""
    p, read = _PAIRS, int.from_bytes
    a, b, c = read(value[1:6], "big"), read(value[6:11], "big"), read(value[11:], "big")  # 40 bits are four pairs
    return (
        f"{p[value[0]]}{p[a >> 30]}{p[a >> 20 & 1023]}{p[a >> 10 & 1023]}{p[a & 1023]}"
        f"{p[b >> 30]}{p[b >> 20 & 1023]}{p[b >> 10 & 1023]}{p[b & 1023]}"
        f"{p[c >> 30]}{p[c >> 20 & 1023]}{p[c >> 10 & 1023]}{p[c & 1023]}"
    )


def decode_ulid(text: str) -> bytes:
    """Read 26 characters, upper or lower case.

    Raises ``ValueError`` for any other text.
    """
    if len(text) != 26:
        raise ValueError(f"a ULID has 26 characters, not {len(text)}")
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise ValueError(f"{character!r} is not a character of a ULID")
        number = number << 5 | value
    if number >> 128:
        raise ValueError("a ULID begins with a character from 0 to 7")
    return number.to_bytes(16, "big")


def ulid(at_ms: int, entropy: bytes) -> bytes:
    """Put a time and 10 bytes together."""
    return at_ms.to_bytes(6, "big") + entropy


def ulid_ms(value: bytes) -> int:
    """Read the milliseconds of a ULID."""
    return int.from_bytes(value[:6], "big")


def text_problem(value: object) -> str | None:
    """Say why a value cannot name anything: it is no text, or no Unicode text, so nothing could store it (fault I1)."""
    if not isinstance(value, str):
        return f"is {value!r:.100}, it must be text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"is not Unicode text: {error}"
    return None


def hash16(*parts: bytes) -> bytes:
    """Hash parts of any length to 16 bytes; ``(b"ab", b"c")`` and ``(b"a", b"bc")`` differ."""
    if len(parts) == 1:
        return blake2b(parts[0], digest_size=16).digest()
    return blake2b(b"".join([len(p).to_bytes(4, "big") + p for p in parts]), digest_size=16).digest()


def slot_of(digest: bytes) -> int:
    """Take a slot, 0…4095, from the first 12 bits of a hash."""
    return digest[0] << 4 | digest[1] >> 4


def run_id(received_ms: int, slot: int, env: int, function: str, origin: bytes) -> bytes:
    """Derive a run's id from what started it.

    ``origin`` names the cause within the function (an internal event id, a planned tick, …): the same cause gives the
    same id, and any node finds the run's slot in its first 12 random bits.
    """
    digest = blake2b(_cause(env, function) + len(origin).to_bytes(4, "big") + origin, digest_size=16).digest()
    head = slot << 4 | digest[2] & 15
    return received_ms.to_bytes(6, "big") + head.to_bytes(2, "big") + digest[3:11]


@functools.lru_cache(maxsize=4096)
def _cause(env: int, function: str) -> bytes:
    """What ``hash16`` joins of the parts before the origin."""
    parts = (env.to_bytes(4, "big"), function.encode())
    return b"".join([len(p).to_bytes(4, "big") + p for p in parts])


def run_slot(run: bytes) -> int:
    """Read the slot of a run from its id."""
    return run[6] << 4 | run[7] >> 4


def step_wire_id(step_id: str, occurrence: int) -> str:
    """Hash a step's id as the Inngest SDKs do: SHA-1 in hex, ``:n`` appended from the second call on (PY-26)."""
    text = f"{step_id}:{occurrence}" if occurrence else step_id
    return sha1(text.encode("utf8", "surrogatepass"), usedforsecurity=False).hexdigest()
