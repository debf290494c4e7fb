"""``[kafka] client``: what the clients of a log on Kafka are told, and what they are not to be told."""

import json
from pathlib import Path
from typing import Any

import pytest

from steplog.cli import commands
from steplog.cli.commands import run
from steplog.cli.parts import cluster_of
from steplog.config.client import RESERVED
from steplog.config.load import Configured, Sources, load
from steplog.errors import ConfigInvalid
from steplog.paths import KafkaAddress

LOG = '[log]\nurl = "kafka://b1:9092,b2:9092/shop"\n'
WHOLE = (
    LOG
    + """
[kafka.client]
security.protocol = "SASL_PLAINTEXT"
sasl.mechanism = "PLAIN"
sasl.username = "shop"
sasl.password = "env:KAFKA_PASSWORD"
"socket.keepalive.enable" = true
"socket.timeout.ms" = 20000
"""
)
KEYS = {"STEPLOG_EVENT_KEY": "k", "STEPLOG_SIGNING_KEY": "k"}
HAS = {"KAFKA_PASSWORD": "hush"}


def configured(directory: Path, toml: str, *, is_dev: bool = True, **given: Any) -> Configured:
    (directory / "steplog.toml").write_text(toml)
    return load(Sources(is_dev=is_dev, directory=directory, **given))


def problems(directory: Path, toml: str, **given: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        configured(directory, toml, **given)
    return [" ".join(problem.split()) for problem in raised.value.problems]


def test_what_is_set_goes_to_the_clients_and_what_the_address_says_wins(tmp_path: Path) -> None:
    config = configured(tmp_path, WHOLE.replace("/shop", "/shop?socket.timeout.ms=9"), environment=HAS).config
    told = {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "shop",
        "sasl.password": "hush", "socket.keepalive.enable": "true", "socket.timeout.ms": "9",
    }  # fmt: skip
    cluster = cluster_of(config, tmp_path)
    assert cluster is not None
    assert dict(cluster.client) == told
    assert dict(KafkaAddress.parse(config.kafka_log or "").settings) == told
    assert config.log.url == "kafka://b1:9092,b2:9092/shop?socket.timeout.ms=9"


def test_a_variable_may_have_the_whole_table(tmp_path: Path) -> None:
    text = '{ "client.id" = "shop", sasl = { password = "env:KAFKA_PASSWORD" } }'
    config = configured(tmp_path, LOG, environment={"STEPLOG_KAFKA__CLIENT": text, **HAS}).config
    assert dict(KafkaAddress.parse(config.kafka_log or "").settings) == {"client.id": "shop", "sasl.password": "hush"}
    (problem,) = problems(tmp_path, LOG, environment={"STEPLOG_KAFKA__CLIENT": "client.id"})
    assert problem.endswith("expected a table of options")


@pytest.mark.parametrize("name", RESERVED)
def test_what_steplog_decides_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text = f"kafka.client {name} is not to be set: {RESERVED[name]}"
    assert problems(tmp_path, f'{LOG}[kafka.client]\nclient.id = "shop"\n{name} = "x"') == [f"steplog.toml:5 {text}"]
    assert problems(tmp_path, f'{LOG}[kafka]\nclient = {{ "{name}" = 1 }}') == [f"steplog.toml:4 {text}"]
    (found,) = problems(tmp_path, LOG.replace("/shop", f"/shop?{name}=1"))
    assert found.startswith("steplog.toml:2 log.url")
    assert f"{name} is not to be set" in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sasl.usrname = 'x'", '5 kafka.client No such configuration property: "sasl.usrname"'),
        ("security.protocol = 'TLS'", '5 kafka.client Invalid value "TLS" for configuration property'),
        ("ssl.ca.location = 'none.pem'\nsecurity.protocol = 'SSL'", "5 kafka.client ssl.ca.location failed"),
        ("sasl.password = 'env:NONE'", "5 kafka.client the environment variable NONE is not set"),
        ("sasl.password = []", "3 kafka.client sasl.password is text, a number, true or false"),
    ],
)
def test_what_the_client_does_not_understand_is_named_before_anything_starts(
    tmp_path: Path, text: str, problem: str
) -> None:
    (found,) = problems(tmp_path, f'{LOG}[kafka.client]\nclient.id = "shop"\n{text}')
    assert found.startswith(f"steplog.toml:{problem}")


def test_a_log_in_a_file_needs_none_of_it(tmp_path: Path) -> None:
    text = WHOLE.replace("kafka://b1:9092,b2:9092/shop", "sqlite:steplog.db")
    assert configured(tmp_path, text, is_dev=False, environment=KEYS).config.kafka_log is None


def test_start_takes_no_password_in_plain(tmp_path: Path) -> None:
    assert problems(tmp_path, WHOLE.replace("env:KAFKA_PASSWORD", "hush"), is_dev=False, environment=KEYS) == [
        'steplog.toml:8 kafka.client sasl.password is a secret in plain; write "env:NAME" or "file:PATH"'
    ]
    (found,) = problems(tmp_path, LOG.replace("/shop", "/shop?sasl.password=hush"), is_dev=False, environment=KEYS)
    assert found.endswith('a secret in plain; write it in [kafka.client], as sasl.password = "env:NAME"')
    assert "hush" not in found


def test_show_prints_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steplog.toml").write_text(WHOLE.replace("/shop", "/shop?ssl.key.password=hush"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_PASSWORD", "hush")
    assert run(commands, ["config", "show", "--json"]) == 0
    text = capsys.readouterr().out
    values = json.loads(text)["values"]
    assert values["kafka.client"]["value"]["sasl.password"] == "env:KAFKA_PASSWORD"
    assert values["kafka.client"]["value"]["socket.timeout.ms"] == 20000
    assert values["log.url"]["value"] == "kafka://b1:9092,b2:9092/shop?ssl.key.password=***"
    assert run(commands, ["config", "show"]) == 0
    assert "hush" not in text + capsys.readouterr().out
