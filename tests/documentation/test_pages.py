"""The documentation is whole: what is made from code is up to date, links lead somewhere, every page is listed."""

import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
from starlette.routing import Route

import steplog
import steplog.testing
from steplog.engine import effects, keys, messages
from steplog.server.actions import Actions
from steplog.server.auth import Keys
from steplog.server.config import ServerConfig
from steplog.server.event_api import EventApi
from steplog.server.http import Intake
from steplog.server.rest import RestApi

from .generated import GENERATED
from .index import ENTRY, build_full
from .pages import DOCS, ROOT, anchors, links, pages
from .rest_reference import ENDPOINTS


@pytest.mark.parametrize(("name", "build"), GENERATED.items(), ids=list(GENERATED))
def test_what_is_made_from_code_is_up_to_date(name: str, build: Callable[[], str]) -> None:
    assert (ROOT / name).read_text(encoding="utf8") == build(), "write it again: python -m tests.documentation"


def test_every_link_leads_to_a_page_and_a_heading_of_it() -> None:
    found = [link for page in pages() for link in links(page)]
    assert len(found) > 200
    assert [f"{link.page.name}: {link.path}" for link in found if not link.target.exists()] == []
    assert [
        f"{link.page.name}: {link.path}#{link.anchor}"
        for link in found
        if link.anchor and link.anchor not in anchors(link.target)
    ] == []


def test_every_page_is_in_the_index_with_a_line_about_it() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / address).resolve() for _, address, _ in ENTRY.findall(index.read_text(encoding="utf8"))}
    written = {page for page in DOCS.rglob("*.md") if page != index and not re.match(r"\d", page.name)}
    assert written <= listed
    assert listed - written == {ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}


@pytest.mark.spec("DOC-01")
def test_llms_txt_lists_every_page_and_llms_full_txt_has_them() -> None:
    listed = {link.target for link in links(ROOT / "llms.txt")}
    assert set(DOCS.rglob("*.md")) - listed == {DOCS / "README.md"}, "the index is what it repeats"
    full = build_full()
    assert [page.name for page in listed if page.read_text(encoding="utf8") not in full] == []


def test_every_test_that_is_named_exists() -> None:
    named = [link for page in pages() for link in links(page) if link.text.startswith("test_")]
    assert len(named) > 40
    missing = [
        f"{link.page.name}: {link.text} in {link.path}"
        for link in named
        if not re.search(rf"^(async )?def {link.text}\(", link.target.read_text(encoding="utf8"), re.MULTILINE)
    ]
    assert missing == []


def test_each_promise_names_the_tests_that_show_it() -> None:
    promises = re.split(r"^## ", (DOCS / "promises.md").read_text(encoding="utf8"), flags=re.MULTILINE)[1:-1]
    assert [promise.split()[0] for promise in promises] == [f"P{number}" for number in range(1, 13)]
    assert [promise.split("\n")[0] for promise in promises if "[`test_" not in promise] == []


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf8")
    names = [*steplog.__all__, *steplog.testing.__all__]
    assert [name for name in names if f"\n### {name}\n" not in text] == []


def test_the_reference_has_every_path_of_the_server() -> None:
    config = ServerConfig(is_dev=True)
    no_backend: Any = None  # the routes alone are looked at
    intake, known = Intake(1), Keys(config)
    rest = RestApi(no_backend, known, Actions(no_backend, config, None, intake), config)
    event_api = EventApi(no_backend, config, known, None, intake)
    routes = [route for route in rest.application(event_api).routes if isinstance(route, Route)]
    served = {(min((route.methods or set()) - {"HEAD"}), route.path.replace(":path", "")) for route in routes}
    assert {(each.method, each.path) for each in ENDPOINTS} == served


def test_the_architecture_names_every_message_effect_and_kind_of_key() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf8")
    kinds = [kind.__name__ for kind in (*get_args(messages.Message), *get_args(effects.Effect))]
    assert [kind for kind in kinds if f"`{kind}`" not in text] == []
    layouts = [name.lower() for name in vars(keys) if name.isupper() and isinstance(getattr(keys, name), int)]
    layouts = [name for name in layouts if name not in ("wait_prefix_bytes", "mail_bytes", "day_ms")]
    assert len(layouts) > 10
    assert [name for name in layouts if f"| `{name}/" not in text] == []


def test_the_modules_that_the_architecture_names_exist() -> None:
    source = ROOT / "core" / "src" / "steplog"
    text = (DOCS / "architecture.md").read_text(encoding="utf8")
    named = set(re.findall(r"`([\w/]+\.py)(?:`|\))", text))
    assert len(named) > 10
    roots = (source, ROOT)
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []
