"""The lines of TOML keys."""

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steplog.config.positions import MOST_LINES, toml_lines

TEXT = '''\
# a comment, [not.a.table]
first = 1

[log]   # where
url = """
port = 1
[server]
"""  # still a value
[server]
"allow hosts" = [
  "a",  # ] ]]
  "b]",
]
a.b.c = {x = 1, y = "="}
[[jobs]]
name = 'x'
[deep.er]
'''


def test_each_key_and_table_has_its_first_line() -> None:
    lines = toml_lines(TEXT)
    assert lines == {
        ("first",): 2, ("log",): 4, ("log", "url"): 5, ("server",): 9, ("server", "allow hosts"): 10,
        ("server", "a"): 14, ("server", "a", "b"): 14, ("server", "a", "b", "c"): 14,
        ("server", "a", "b", "c", "x"): 14, ("server", "a", "b", "c", "y"): 14,
        ("jobs",): 15, ("jobs", "name"): 16, ("deep",): 17, ("deep", "er"): 17,
    }  # fmt: skip


def test_line_breaks_of_windows_are_line_breaks_and_others_are_none() -> None:
    assert toml_lines("a = 'x\u2028y'\r\n\r\nb = 1\r\n") == {("a",): 1, ("b",): 3}


def test_past_so_many_lines_of_one_statement_there_is_no_line() -> None:
    assert toml_lines("a = [\n" + "1,\n" * MOST_LINES + "]\nb = 1\n") == {("a",): 1, ("b",): MOST_LINES + 3}
    assert toml_lines("a = [\n" + "[],\n" * MOST_LINES + "]\nb = 1\n") == {}


KEYS = st.sampled_from(["a", "b-c", "d_e", '"x y"', "'[z]'", '"="', '"#"', '"ä"'])
SCALARS = st.sampled_from(["1", "-2.5", "true", "'a#b'", '"[c] = \\"d\\""', "2026-11-21", "1979-05-27T07:32:00Z"])
LONG = st.sampled_from(['"""\n[a]\nb = 1\n"""', "'''\n# ]\n\n'''", '[\n  1, # "]\n  [2,\n 3],\n]', "{ k = [\n1\n] }"])
GAPS = st.lists(st.sampled_from(["\n", "# [table]\n", "  \t\n", '# k = """\n']), max_size=2)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """A text that is TOML, and the line on which each statement begins."""
    text = ""
    table: tuple[str, ...] = ()
    lines: dict[tuple[str, ...], int] = {}
    for _ in range(draw(st.integers(0, 8))):
        gap = "".join(draw(GAPS))
        names = [draw(KEYS) for _ in range(draw(st.integers(1, 3)))]
        path = tuple(name.strip("\"'") for name in names)
        if draw(st.booleans()):
            statement, whole, table_then = f"  [{' . '.join(names)}] # x\n", path, path
        else:
            value = draw(SCALARS | LONG)
            statement, whole, table_then = f"{'.'.join(names)} = {value} # [x]\n", table + path, table
        try:
            tomllib.loads(text + gap + statement)
        except tomllib.TOMLDecodeError:  # a key twice
            continue
        line = (text + gap).count("\n") + 1
        lines = {whole[:length]: line for length in range(1, len(whole) + 1)} | lines
        text, table = text + gap + statement, table_then
    return text, lines


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*path, key)
            yield from leaves(below, (*path, key))


@given(documents())
def test_lines_are_those_on_which_statements_begin(document: tuple[str, dict[tuple[str, ...], int]]) -> None:
    text, lines = document
    found = toml_lines(text)
    assert {path: found.get(path) for path in lines} == lines
    assert set(found) == set(leaves(tomllib.loads(text)))
