"""``llms.txt``, made of the index of the documentation: every page with a line about it."""

import re

from .pages import DOCS

ENTRY = re.compile(r"^- \[(.+?)\]\((.+?)\): (.+)$", re.MULTILINE)


def build() -> str:
    """Write the file: the index as it is, with addresses from the root of the repository."""
    page = (DOCS / "README.md").read_text(encoding="utf8")
    title, _, rest = page.partition("\n\n")
    summary, _, sections = rest.partition("\n\n")
    quoted = " ".join(summary.split())
    return f"{title}\n\n> {quoted}\n\n{_from_root(sections)}"


def _from_root(text: str) -> str:
    def moved(link: re.Match[str]) -> str:
        address = link[1]
        return f"]({address.removeprefix('../') if address.startswith('../') else f'docs/{address}'})"

    return re.sub(r"\]\((?!https?:)([^)]+)\)", moved, text)
