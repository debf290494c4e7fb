"""``llms.txt``, ``llms-full.txt`` and the list of decisions: where every page is."""

import re
from pathlib import Path

from .pages import DOCS, ROOT, links

DECISIONS = DOCS / "decisions"
ENTRY = re.compile(r"^- \[(.+?)\]\((.+?)\): (.+)$", re.MULTILINE)


def build() -> str:
    """Write ``llms.txt``: the index of the documentation, with addresses from the root, and every decision."""
    index = (DOCS / "README.md").read_text(encoding="utf8")
    title, summary, sections = index.split("\n\n", 2)
    return "\n\n".join(
        [title, f"> {' '.join(summary.split())}", _from_root(sections).rstrip(), "## Decisions", _listed(ROOT)]
    )


def build_full() -> str:
    """Write ``llms-full.txt``: the index and then every page that ``llms.txt`` lists, as it is."""
    found = [ROOT / "llms.txt", *[link.target for link in links(ROOT / "llms.txt")]]
    return "\n".join(f"<!-- {page.relative_to(ROOT)} -->\n\n{page.read_text(encoding='utf8')}" for page in found)


def build_decisions() -> str:
    """Write the list of decisions."""
    return (
        f"# Decisions\n\nEach page says what the design was, what was built instead, and why.\n\n{_listed(DECISIONS)}"
    )


def _listed(origin: Path) -> str:
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    return "".join(f"- [{_title(page)}]({page.relative_to(origin)})\n" for page in pages)


def _title(page: Path) -> str:
    return page.read_text(encoding="utf8").partition("\n")[0].removeprefix("# ")


def _from_root(text: str) -> str:
    return re.sub(r"\]\((\.\./)?(?=[^:)]+\))", lambda link: "](" if link[1] else "](docs/", text)
