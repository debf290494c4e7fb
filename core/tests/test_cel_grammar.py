"""The committed table is what the installed grammar and Lark make."""

from lark import Lark

from steplog.cel import grammar

TEXTS = (
    'event.data.userId == async.data.userId && event.data["amount"] > 100 || !has(event.x)',
    "[1, -2.5, 0x1F, 3u, 1e9].exists(x, x in {'a': [true], \"b\": null}) ? -x : (1 + 2) * 3 / 4 % 5 - 6",
    "a != b && c >= d && e <= f && g < h // a comment",
    r"""r'\d' + '''it's "long"''' + "\"" + '' + b"\xff" """,
)


def described(parser: Lark) -> tuple[object, ...]:
    rules = {(rule.origin.name, tuple(part.name for part in rule.expansion), rule.alias) for rule in parser.rules}
    terminals = {(terminal.name, terminal.pattern.to_regexp(), terminal.priority) for terminal in parser.terminals}
    trees = [parser.parse(text) for text in TEXTS]
    return rules, terminals, trees


def test_the_table_fits_the_installed_grammar() -> None:
    assert described(grammar.load()) == described(grammar.build()), "write it anew: python -m steplog.cel.grammar"
