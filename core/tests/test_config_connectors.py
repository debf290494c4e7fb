"""``[connectors.NAME]``: a type's own keys, with the lines, layers and secrets of every other table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steplog.cli import commands
from steplog.cli.commands import run
from steplog.config.connectors import TYPES, KafkaConnector, connector_keys
from steplog.config.load import Configured, Sources, load
from steplog.config.schema import Config, json_schema
from steplog.config.secrets import Secret
from steplog.errors import ConfigInvalid

WHOLE = """\
[connectors.kafka]
topics = ["orders", "returns"]
brokers = ["one:9092", "two:9092"]

[connectors.old-orders]
type = "kafka"
topics = ["orders.v1"]
brokers = ["old:9092"]
group = "shop"
event = "old/{topic}"
format = "text"
start = "earliest"
on_poison = "stop"

[connectors.old-orders.options]
"security.protocol" = "SASL_SSL"
sasl.username = "shop"
sasl.password = "env:OLD_PASSWORD"
"socket.keepalive.enable" = true
"""
PAGE = Path(__file__).parents[2] / "docs" / "connectors.md"


def configured(directory: Path, toml: str, *, is_dev: bool = True, **given: Any) -> Configured:
    (directory / "steplog.toml").write_text(toml)
    return load(Sources(is_dev=is_dev, directory=directory, **given))


def problems(directory: Path, toml: str, **given: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        configured(directory, toml, **given)
    return [" ".join(problem.split()) for problem in raised.value.problems]


def test_any_number_of_connectors_is_declared(tmp_path: Path) -> None:
    found = configured(tmp_path, WHOLE, environment={"OLD_PASSWORD": "hush"})
    assert found.config.connectors == {
        "kafka": KafkaConnector(topics=("orders", "returns"), brokers=("one:9092", "two:9092")),
        "old-orders": KafkaConnector(
            topics=("orders.v1",), brokers=("old:9092",), group="shop", event="old/{topic}", format="text",
            start="earliest", on_poison="stop",
            options={
                "security.protocol": "SASL_SSL", "sasl.username": "shop",
                "sasl.password": Secret("env:OLD_PASSWORD", "hush"), "socket.keepalive.enable": True,
            },
        ),
    }  # fmt: skip
    assert found.config.connectors["kafka"].event_name("orders") == "kafka/orders"
    values = {name: value for name, value in found.values.items() if name.startswith("connectors.")}
    assert [name for name in values if name.startswith("connectors.kafka.")] == list(connector_keys("kafka", "kafka"))
    assert values["connectors.kafka.type"].origin == "steplog.toml:1"
    assert values["connectors.old-orders.type"].origin == "steplog.toml:6"
    assert values["connectors.old-orders.format"].origin == "steplog.toml:11"
    assert values["connectors.kafka.format"].origin == "built-in"


def test_a_configuration_goes_to_another_process_as_it_is(tmp_path: Path) -> None:
    config = configured(tmp_path, WHOLE, environment={"OLD_PASSWORD": "hush"}).config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[connectors.orders]\ntopics = ['o']", '1 connectors.orders.type is missing; there are kafka'),
        ("[connectors.orders]\ntype = 'kafak'",
         '2 connectors.orders.type = "kafak" unknown type; did you mean "kafka"?'),
        ("[connectors.orders]\ntype = 5", "2 connectors.orders.type = 5 unknown type; there are kafka"),
        ("[connectors]\nkafka = 5", "2 connectors.kafka a table is expected: [connectors.NAME]"),
        ("connectors = 5", "1 connectors a table is expected: [connectors]"),
        ("[connectors.'a b']", ("1 connectors.a b the name of a connector is of a-z, 0-9, '_' and '-', begins with "
         "neither of these, and has 63 at most")),
        ("[connectors.kafka]\ntopcis = ['o']\ntopics = ['o']\nbrokers = ['b']",
         '2 connectors.kafka.topcis unknown key; did you mean "topics"?'),
        ("[connectors.kafka]\nbrokers = ['b']", '1 connectors.kafka.topics is missing: topics = ["orders"]'),
        ("[connectors.kafka]\ntopics = 'o'\nbrokers = ['b']",
         '2 connectors.kafka.topics = "o" expected a list of texts, as ["…", "…"]'),
        ("[connectors.kafka]\nbrokers = ['b']\ntopics = ['o', 'a b']",
         ("3 connectors.kafka.topics the name of a topic is 'a b', it must have 1 to 249 of the characters a-z, A-Z, "
         "0-9, '.', '_' and '-'")),
        ("[connectors.kafka]\ntopics = ['o']", ('1 connectors.kafka.brokers is missing, and the log is not on Kafka: '
         'brokers = ["localhost:9092"]')),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\nevent = 'inngest/{topic}'",
         '4 connectors.kafka.event = "inngest/{topic}" event name is reserved for internal use: inngest/o'),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\nformat = 'avro'",
         '4 connectors.kafka.format = "avro" expected "bytes" or "json" or "text"'),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\noptions = 5",
         "4 connectors.kafka.options = 5 expected a table of options"),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\n[connectors.kafka.options]\na.b = []",
         "4 connectors.kafka.options a.b is text, a number, true or false"),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\n[connectors.kafka.options]\n'group.id' = 'g'",
         "5 connectors.kafka.options group.id is set by group"),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\n[connectors.kafka.options]\n'enable.auto.commit' = true",
         ("5 connectors.kafka.options enable.auto.commit is not to be set: offsets are committed when the events are "
         "accepted")),
        ("[connectors.kafka]\ntopics = ['o']\nbrokers = ['b']\n[connectors.kafka.options]\nsasl.password = 'env:NONE'",
         "5 connectors.kafka.options the environment variable NONE is not set"),
    ],
)  # fmt: skip
def test_a_problem_has_its_line_and_says_what_to_do(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [f"steplog.toml:{problem}"]


def test_connectors_are_written_in_the_file_alone(tmp_path: Path) -> None:
    text = "connectors are written in steplog.toml, as [connectors.NAME]"
    assert problems(tmp_path, "", sets=["connectors.kafka.topics=o"]) == [f"--set connectors.kafka.topics {text}"]


def test_start_takes_no_password_in_plain_and_no_message_has_it(tmp_path: Path) -> None:
    text = WHOLE.replace("env:OLD_PASSWORD", "hush-hush")
    keys = {"STEPLOG_EVENT_KEY": "k", "STEPLOG_SIGNING_KEY": "k"}
    (found,) = problems(tmp_path, text, is_dev=False, environment=keys)
    assert found == (
        "steplog.toml:18 connectors.old-orders.options sasl.password is a secret in plain; "
        'write "env:NAME" or "file:PATH"'
    )
    options = configured(tmp_path, text).config.connectors["old-orders"].options
    assert (options["sasl.password"], "hush" in str(options)) == (Secret("hush-hush", "hush-hush"), False)


def test_show_prints_them_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steplog.toml").write_text(WHOLE)
    monkeypatch.chdir(tmp_path)
    assert run(commands, ["config", "show", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["connectors.old-orders.options"]["value"] == {
        "security.protocol": "SASL_SSL", "sasl.username": "shop", "sasl.password": "env:OLD_PASSWORD",
        "socket.keepalive.enable": True,
    }  # fmt: skip
    assert values["connectors.kafka.type"]["value"] == "kafka"
    assert values["connectors.kafka.start"] == {"value": "latest", "origin": "built-in", "overridden": []}
    assert run(commands, ["config", "check"]) == 2
    assert "the environment variable OLD_PASSWORD is not set" in capsys.readouterr().err


def test_the_schema_has_each_type_by_its_name_and_under_any_other() -> None:
    described = json_schema()["properties"]["connectors"]
    assert list(described["properties"]) == list(TYPES)
    (named,) = described["additionalProperties"]["anyOf"]
    keys = [key.field for key in connector_keys("kafka", "kafka").values()]
    assert list(named["properties"]) == keys == list(described["properties"]["kafka"]["properties"])
    assert (named["properties"]["type"], named["required"]) == ({"const": "kafka"}, ["type"])
    assert named["properties"]["format"]["default"] == "json"


def key_table() -> str:
    """The table of keys in ``docs/connectors.md``."""
    shown: Callable[[Any], str] = lambda value: f"`{json.dumps(value)}`"  # noqa: E731
    rows = ["| key | default | |", "|---|---|---|"]
    for key in connector_keys("kafka", "kafka").values():
        default = "" if key.field == "type" or key.default is None else shown(key.show(key.default))
        rows.append(f"| `{key.field}` | {default} | {key.description} |")
    return "\n".join(rows)


def test_the_documentation_has_the_keys() -> None:
    assert key_table() in PAGE.read_text(), f"docs/connectors.md should say:\n{key_table()}"
