"""The pages of the documentation: their headings, links and snippets."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`\]?")
_LINK = re.compile(r"\[([^]]*)\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


class Snippet(NamedTuple):
    """A fenced block of a page; ``heading`` is the nearest one above it."""

    page: str
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.heading}"


class Link(NamedTuple):
    """A link within the repository: ``path`` is "" for the page itself."""

    page: Path
    text: str
    path: str
    anchor: str

    @property
    def target(self) -> Path:
        return (self.page.parent / self.path).resolve() if self.path else self.page


def pages() -> list[Path]:
    """Every page that a reader may come to."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "llms.txt")]
    return top + sorted(DOCS.rglob("*.md"))


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf8")
    for found in _FENCE.finditer(text):
        above = _HEADING.findall(_FENCE.sub("", text[: found.start()]))
        yield Snippet(str(page.relative_to(ROOT)), above[-1] if above else "", found[2], dedent(found[3]))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf8"))


def anchors(page: Path) -> set[str]:
    """What can stand behind ``#`` in a link to a page, as forges make it of headings."""
    found: list[str] = []
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower().strip()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", each) is not None for each in found)
        found.append(f"{slug}-{count}" if count else slug)
    return set(found)


def links(page: Path) -> list[Link]:
    """The links of a page that lead to somewhere in the repository."""
    text = _CODE.sub(lambda span: span[0] if span[0].endswith("]") else "", prose(page))  # code may be a link's text
    return [Link(page, name.strip("`"), path, anchor) for name, path, anchor in _LINK.findall(text)]
