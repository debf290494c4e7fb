"""Durations and sizes as configuration writes them: a number never stands without its unit.

``KB``, ``MB`` and ``GB`` are powers of 1000, ``KiB``, ``MiB`` and ``GiB`` powers of 1024.
"""

import re

DURATION_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
SIZE_UNITS = {
    "GiB": 1 << 30, "GB": 1_000_000_000, "MiB": 1 << 20, "MB": 1_000_000, "KiB": 1 << 10, "KB": 1_000, "B": 1,
}  # fmt: skip
DURATION_PATTERN = r"^(?=[0-9])([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,15}ms)?$"
SIZE_PATTERN = r"^([0-9]{1,15})(B|KB|MB|GB|KiB|MiB|GiB)$"

_DURATION, _SIZE = re.compile(DURATION_PATTERN), re.compile(SIZE_PATTERN)


def parse_duration_ms(text: str) -> int:
    """Read ``15s``, ``7d`` or ``1h30m``. Raises ``ValueError`` that says how it is written."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('a duration is written as "15s", "7d" or "1h30m"')
    parts = zip(match.groups(), DURATION_UNITS_MS.items(), strict=True)
    return sum(int(part.removesuffix(unit)) * unit_ms for part, (unit, unit_ms) in parts if part)


def format_duration(ms: int) -> str:
    """Write a duration so that it reads back the same: ``1h30m``."""
    text = ""
    for unit, unit_ms in DURATION_UNITS_MS.items():
        count, ms = divmod(ms, unit_ms)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size_bytes(text: str) -> int:
    """Read ``256KB`` or ``4MiB``. Raises ``ValueError`` that says how it is written."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError('a size is written as "256KB", "4MB" or "4MiB", and is at least "1B"')
    return int(match[1]) * SIZE_UNITS[match[2]]


def format_size(size_bytes: int) -> str:
    """Write a size exactly, in the unit that gives the smallest number: ``256KiB``."""
    exact = [(size_bytes // factor, unit) for unit, factor in SIZE_UNITS.items() if size_bytes % factor == 0]
    count, unit = min(exact)
    return f"{count}{unit}"
