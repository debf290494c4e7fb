"""The grammar of expressions: that of celpy (Capital One Services, Apache-2.0), compiled by Lark into a table.

``python -m steplog.cel.grammar`` writes the table anew. Only that needs celpy; reading the table needs Lark alone.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from lark import Lark

TABLE = Path(__file__).with_name("grammar.lalr")

# Rules that only stand for their one part, as most do most of the time, are left out of the tree: half the time.
_INLINED = re.compile(
    r"^(expr|conditionalor|conditionaland|relation|addition|multiplication|unary|member|primary|paren_expr)(\s*:)",
    re.MULTILINE,
)
# celpy's own patterns let a backslash be read in two ways, so a string without its closing quote takes time that is
# exponential in its escapes. In these each character is read in one way.
_STRINGS = {
    "STRING_LIT": r"""/(?:"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*'|[rR]"[^"\r\n]*"|[rR]'[^'\r\n]*')/""",
    "MLSTRING_LIT": (
        r"""/(?:"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*"{3}|'{3}(?:[^'\\]|\\[\s\S]|'(?!''))*'{3}"""
        r"""|[rR]"{3}(?:[^"]|"(?!""))*"{3}|[rR]'{3}(?:[^']|'(?!''))*'{3})/"""
    ),
}


def build() -> Lark:
    """Compile the installed celpy's grammar."""
    spec = find_spec("celpy")  # finds it without importing it, which would take 0.2 s
    assert spec is not None, "cel-python is among the development dependencies"
    assert spec.origin is not None, "a package with an __init__ has a file"
    text = _INLINED.sub(r"?\1\2", Path(spec.origin).with_name("cel.lark").read_text(encoding="utf8"))
    for name, pattern in _STRINGS.items():
        definition = re.compile(rf"^{name}\s*:.*\n(?:\s+\|.*\n)*", re.MULTILINE)
        text, count = definition.subn(f"{name}: {pattern}\n".replace("\\", "\\\\"), text)
        assert count == 1, f"celpy's grammar defines {name} otherwise than it did"
    return Lark(text, parser="lalr", start="expr", maybe_placeholders=False)


def load() -> Lark:
    """Read the table: about 5 ms."""
    with TABLE.open("rb") as file:
        return Lark.load(file)


if __name__ == "__main__":
    with TABLE.open("wb") as file:
        build().save(file)
