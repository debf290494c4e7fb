"""The documentation names everything that it has to."""

import re
from pathlib import Path

from steplog import errors
from steplog.config.schema import keys
from steplog.engine import records

DOCS = Path(__file__).parents[2] / "docs"


def test_every_error_code_is_documented() -> None:
    text = (DOCS / "errors.md").read_text()
    sources = [path.read_text() for path in Path(errors.__file__).parent.rglob("*.py")]
    told = re.compile(r'^    code(?:: ClassVar\[str\])? = "([a-z_]+)"|\b_print\("([a-z_]+)"', re.MULTILINE)
    codes = {one or other for source in sources for one, other in told.findall(source)}
    assert {"steplog_error", "port_in_use", "user_code", "usage", "demo_failed"} < codes
    assert sorted(code for code in codes if f"| `{code}` |" not in text) == []


def test_every_kind_of_record_is_documented() -> None:
    text = (DOCS / "journal.md").read_text()
    kinds = re.findall(r'tag="([a-z.]+)"', Path(records.__file__).read_text())
    assert len(kinds) > 5
    assert [kind for kind in kinds if f"`{kind}`" not in text] == []


def test_every_limit_that_can_be_set_is_documented() -> None:
    text = (DOCS / "limits.md").read_text()
    names = [name for name in keys() if name.startswith("limits.")]
    assert len(names) >= 5
    assert [name for name in names if f"`{name}`" not in text] == []
