"""Secrets: configuration names where they are, and prints no more than that."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

HIDDEN = "(hidden)"


class Secret(msgspec.Struct, frozen=True):
    """A secret as it was configured: ``env:NAME``, ``file:PATH``, or in plain."""

    reference: str
    value: str | None = None  # once it is read

    @property
    def is_plain(self) -> bool:
        """Whether the secret itself was written where a reference belongs."""
        return not self.reference.startswith(("env:", "file:"))

    def read(self, environment: Mapping[str, str], base: Path) -> "Secret":
        """Look up the reference; a file's path is relative to ``base``, and the file's last line break is dropped.

        Raises ``ValueError`` that says what is missing.
        """
        kind, _, name = self.reference.partition(":")
        if self.is_plain:
            value = self.reference
        elif kind == "env":
            value = environment.get(name, "")
            if not value:
                raise ValueError(f"the environment variable {name or 'without a name'} is not set")
        else:
            try:
                value = (base / name).read_text(encoding="utf8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise ValueError(f"the file {name} cannot be read: {reason}") from error
            if not value:
                raise ValueError(f"the file {name} is empty")
        return Secret(self.reference, value)

    def __str__(self) -> str:
        return HIDDEN if self.is_plain else self.reference

    def __repr__(self) -> str:
        return f"Secret({self})"
