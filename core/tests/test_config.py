"""Configuration: layers, problems, secrets, and the schema that all of it follows."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.config.load import SECRETS, Configured, Sources, examine, load, secret_values
from steplog.config.schema import DEV, Config, json_schema, keys, tables
from steplog.drivers.config import LocalConfig
from steplog.engine.functions import EngineConfig
from steplog.errors import ConfigInvalid
from steplog.server.config import DEV_EVENT_BYTES, ServerConfig

WRITE_LOG = "write sqlite:PATH, as sqlite:steplog.db, or kafka://HOST:PORT"
WRITE_KAFKA = "write kafka://HOST:PORT,HOST:PORT/PREFIX, as kafka://127.0.0.1:9092/shop"
SOME_ROLE = 'expected one or more of "api", "engine"'
LATER = "not available in this version"
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def configured(directory: Path, toml: str = "", *, is_dev: bool = True, **given: Any) -> Configured:
    if toml:
        (directory / "steplog.toml").write_text(toml)
    return load(Sources(is_dev=is_dev, directory=directory, **given))


def problems(directory: Path, toml: str = "", **given: Any) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        configured(directory, toml, **given)
    return raised.value.problems


# --- layers


def test_built_in_values_are_what_the_code_says_without_configuration(tmp_path: Path) -> None:
    config = Config()
    assert (config.engine.evict_after_ms, config.limits.step_output_bytes) == (
        LocalConfig().evict_after_ms, LocalConfig().output_bytes,
    )  # fmt: skip
    assert (config.engine.live_runs, config.limits.steps, config.limits.run_size_bytes) == (
        EngineConfig().live_runs, EngineConfig().steps_per_run, EngineConfig().run_state_bytes,
    )  # fmt: skip
    server = ServerConfig(is_dev=False)
    assert (config.limits.event_size_bytes, config.limits.request_size_bytes) == (
        server.event_size_bytes, server.request_size_bytes,
    )  # fmt: skip
    dev = configured(tmp_path).config
    assert dev.limits.event_size_bytes == DEV_EVENT_BYTES
    assert dev.log.url == "sqlite:.steplog/dev.db"
    assert config.log.url == "sqlite:steplog.db"


Write = Callable[["Place", str, Any], None]


class Place:
    """What the layers of one configuration have."""

    def __init__(self) -> None:
        self.toml: dict[str, dict[str, Any]] = {}
        self.inngest: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.flags: dict[str, Any] = {}
        self.sets: list[str] = []

    def load(self, directory: Path) -> Configured:
        tables = [
            f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            for table, values in self.toml.items()
        ]
        (directory / "steplog.toml").write_text("\n".join(tables))
        (directory / "inngest.json").write_text(json.dumps(self.inngest))
        return load(
            Sources(
                is_dev=True, directory=directory, environment=self.environment, flags=self.flags, sets=self.sets
            )
        )  # fmt: skip


FLAG_OF = {
    "server.port": "port",
    "server.host": "host",
    "auth.event_keys": "event-key",
    "engine.retry_interval": "retry-interval",
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "server.port": st.integers(0, 65_535),
    "server.host": st.sampled_from(["0.0.0.0", "10.1.2.3", "::1"]),
    "auth.event_keys": st.lists(st.sampled_from(["env:A", "env:B", "one", "two"]), min_size=1, max_size=1),
    "engine.retry_interval": st.integers(1, 50).map("{}s".format),
    "engine.evict_after": st.sampled_from(["500ms", "15s", "1h30m", "7d"]),
    "limits.step_output": st.sampled_from(["1B", "4MB", "256KiB"]),
    "limits.steps": st.integers(1, 10_000),
}


def _in_toml(place: Place, key: str, value: Any) -> None:
    table, _, name = key.partition(".")
    place.toml.setdefault(table, {})[name] = value


def _in_inngest(place: Place, key: str, value: Any) -> None:
    place.inngest[FLAG_OF[key]] = int(value[:-1]) if key == "engine.retry_interval" else value


def _in_inngests_environment(place: Place, key: str, value: Any) -> None:
    text = _text(value).removesuffix("s") if key == "engine.retry_interval" else _text(value)
    place.environment[f"INNGEST_{FLAG_OF[key].replace('-', '_').upper()}"] = text


def _in_environment(place: Place, key: str, value: Any) -> None:
    place.environment[f"STEPLOG_{key.replace('.', '__').upper()}"] = _text(value)


def _in_flags(place: Place, key: str, value: Any) -> None:
    place.flags[FLAG_OF[key]] = int(value[:-1]) if key == "engine.retry_interval" else value


def _in_sets(place: Place, key: str, value: Any) -> None:
    place.sets.append(f"{key}={_text(value)}")


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


LAYERS: list[tuple[str, Write]] = [  # the weakest first
    ("steplog.toml", _in_toml),
    ("inngest.json", _in_inngest),
    ("INNGEST_", _in_inngests_environment),
    ("STEPLOG_", _in_environment),
    ("--", _in_flags),
    ("--set", _in_sets),
]
ONLY_FLAGS = {"inngest.json", "INNGEST_", "--"}


@given(st.data())
def test_the_last_layer_wins_and_the_origin_says_so(data: st.DataObject) -> None:
    place = Place()
    expected: dict[str, tuple[Any, list[str]]] = {}
    for layer, write in LAYERS:
        for key in data.draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=4), label=layer):
            if key in FLAG_OF or layer not in ONLY_FLAGS:
                value = data.draw(VALUES[key], label=key)
                write(place, key, value)
                expected[key] = (value, [layer, *expected.get(key, (None, []))[1]])
    with tempfile.TemporaryDirectory() as directory:
        values = place.load(Path(directory)).values
    for name, value in values.items():
        if name not in expected:
            assert (value.origin, value.value) == ("built-in", DEV.get(name, keys()[name].default))
            continue
        wanted, origins = expected[name]
        shown = value.key.show(value.value)
        if name == "auth.event_keys":
            assert secret_values([secret.read({"A": "a", "B": "b"}, Path()) for secret in value.value]) == tuple(
                {"env:A": "a", "env:B": "b"}.get(key, key) for key in wanted
            )
        else:
            assert shown == wanted
        found = [value.origin, *value.overridden]
        assert [origin.startswith(layer) for origin, layer in zip(found, origins, strict=True)] == [True] * len(found)


def test_a_value_of_the_file_has_its_line(tmp_path: Path) -> None:
    values = configured(tmp_path, "[server]\n\nport = 9000\n").values
    assert values["server.port"].origin == "steplog.toml:3"
    assert values["server.host"].origin == "built-in"


def test_the_file_is_found_above_and_its_paths_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    text = '[app]\nload = ["orders.py:app", "shop.billing"]\n[log]\nurl = "sqlite:data/log.db"\n'
    (tmp_path / "steplog.toml").write_text(text)
    found = configured(below)
    assert found.values["log.url"].origin == "../../steplog.toml:4"
    assert found.config.app.load == ("../../orders.py:app", "shop.billing")
    assert found.config.log.url == "sqlite:../../data/log.db"
    assert found.root == tmp_path


def test_the_file_is_named_by_the_flag_or_by_the_environment(tmp_path: Path) -> None:
    for name, port in (("steplog.toml", 1), ("a.toml", 2), ("b.toml", 3)):
        (tmp_path / name).write_text(f"[server]\nport = {port}\n")
    named = {"STEPLOG_CONFIG": "a.toml"}
    assert configured(tmp_path).config.server.port == 1
    assert configured(tmp_path, environment=named).values["server.port"].origin == "a.toml:2"
    assert configured(tmp_path, environment=named, config="b.toml").config.server.port == 3
    assert problems(tmp_path, config="c.toml") == ["--config  there is no file c.toml"]
    assert problems(tmp_path, environment={"STEPLOG_CONFIG": "d"}) == ["STEPLOG_CONFIG  there is no file d"]


@pytest.mark.spec("HOST-09")
def test_inngests_variables_are_its_flags(tmp_path: Path) -> None:
    environment = {
        "INNGEST_PORT": "9000", "INNGEST_EVENT_KEY": "e", "INNGEST_SIGNING_KEY": "s", "INNGEST_SQLITE_DIR": "data",
        "INNGEST_TICK": "150", "INNGEST_DEV": "0", "INNGEST_BASE_URL": "http://localhost:8288", "INNGEST_HOST": "",
    }  # fmt: skip
    config = configured(tmp_path, is_dev=False, environment=environment).config
    assert (config.server.host, config.server.port) == ("127.0.0.1", 9000)
    assert secret_values(config.auth.event_keys + config.auth.signing_keys) == ("e", "s")
    assert Path(config.log.url.removeprefix("sqlite:")).resolve() == tmp_path / "data" / "steplog.db"


def test_inngests_seconds_get_their_unit(tmp_path: Path) -> None:
    assert configured(tmp_path, environment={"INNGEST_RETRY_INTERVAL": "5"}).config.engine.retry_interval_ms == 5_000
    assert configured(tmp_path, flags={"retry-interval": 0}).config.engine.retry_interval_ms == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inngest.json", '{\n "no-discovery": true,\n "port": 9000,\n "event-key": ["env:A"]}'),
        ("inngest.yaml", "# ours\nno-discovery: true\nport: 9000\nevent-key:\n  - env:A\n"),
        ("inngest.yml", "no-poll: true\n\nport: 9000\nevent-key: env:A\n"),
        ("inngest.toml", 'tick = 1\nqueue-workers = 3\nport = 9000\nevent-key = "env:A"\n'),
    ],
)
def test_inngests_file_is_read_in_dev_and_where_it_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    below = tmp_path / "below"
    below.mkdir()
    config = configured(below)
    assert config.values["server.port"].origin == f"../{name}:3"
    assert [str(secret) for secret in config.config.auth.event_keys] == ["env:A"]
    keys_ = {"A": "a", "STEPLOG_SIGNING_KEY": "s"}
    assert configured(below, is_dev=False, environment=keys_ | {"STEPLOG_EVENT_KEY": "e"}).config.server.port == 8288
    named = configured(below, is_dev=False, environment=keys_, config=f"../{name}").config
    assert (named.server.port, secret_values(named.auth.event_keys)) == (9000, ("a",))


def test_lists_are_parted_by_commas_or_written_as_in_toml(tmp_path: Path) -> None:
    for text in ("a.example,b.example", "a.example, b.example,", '["a.example", "b.example"]'):
        found = configured(tmp_path, environment={"STEPLOG_SERVER__ALLOW_HOSTS": text})
        assert found.config.server.allow_hosts == ("a.example", "b.example")
    assert problems(tmp_path, sets=["server.allow_hosts=[1"]) == [
        '--set  server.allow_hosts = "[1"  expected a list of texts, as ["…", "…"]'
    ]


def test_a_short_name_holds_one_key_and_a_long_one_several(tmp_path: Path) -> None:
    environment = {"STEPLOG_EVENT_KEY": "a,b", "STEPLOG_AUTH__SIGNING_KEYS": "c,d"}
    config = configured(tmp_path, is_dev=False, environment=environment).config
    assert secret_values(config.auth.event_keys) == ("a,b",)
    assert secret_values(config.auth.signing_keys) == ("c", "d")


def test_the_short_name_wins_over_the_long_one(tmp_path: Path) -> None:
    environment = {"STEPLOG_LOG": "sqlite:short.db", "STEPLOG_LOG__URL": "sqlite:long.db"}
    assert configured(tmp_path, environment=environment).values["log.url"].overridden == ("STEPLOG_LOG__URL",)


def test_variables_that_secrets_refer_to_are_no_keys(tmp_path: Path) -> None:
    configured(tmp_path, environment={"STEPLOG_ENCRYPTION_KEY": "x", "STEPLOG_URL": "http://h", "STEPLOG_ENV": "x"})


# --- problems


def test_every_problem_is_named_with_its_line_its_key_and_what_to_do(tmp_path: Path) -> None:
    text = """\
[server]
prot = 9000
port = "9000"

[engine]
evict_after = 7
live_runs = 0

[limits]
event_size = 262144

[log]
url = "redis://db"
"""
    (tmp_path / "steplog.toml").write_text(text)
    with pytest.raises(ConfigInvalid) as raised:
        configured(tmp_path)
    assert str(raised.value).splitlines() == [
        "6 problems in steplog.toml",
        '  steplog.toml:2   server.prot                 unknown key; did you mean "port"?',
        '  steplog.toml:3   server.port = "9000"        expected a whole number from 0 to 65535',
        '  steplog.toml:6   engine.evict_after = 7      a duration needs its unit: "7s"',
        "  steplog.toml:7   engine.live_runs = 0        expected a whole number of 1 or more",
        '  steplog.toml:10  limits.event_size = 262144  a size needs its unit: "262144B"',
        f'  steplog.toml:13  log.url = "redis://db"      is no log that this version knows; {WRITE_LOG}',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[servr]\nport = 1", '1  servr  unknown table; did you mean "server"?'),
        ("port = 1", '1  port  unknown key; did you mean "server.port"?'),
        ("[xyz]", "1  xyz  unknown table; there are app, log, kafka, history, server, auth, limits, events, engine"),
        ("[server]\nload = []", '2  server.load  unknown key; did you mean "app.load"?'),
        ("[log]\nx = 1", "2  log.x  unknown key; there are url"),
        ('log = "sqlite:x"', "1  log  a table is expected: [log]"),
        ("[[log]]\n", "1  log  a table is expected: [log]"),
        ("[log.url]\n", '1  log.url  expected text in quotes, as "…"'),
        ("[kafka]\npartitions = 0", "2  kafka.partitions = 0  expected a whole number from 1 to 4096"),
        ("[plugins.sentry]\ndsn = 1", f"1  plugins  {LATER}: plugins will come; take it out"),
        ('[app]\nurls = ["u"]', f"2  app.urls  {LATER}: apps over HTTP will come; take it out"),
        (
            '[log]\nurl = "kafka:b:9092"',
            f'2  log.url = "kafka:b:9092"  is no log on Kafka; {WRITE_KAFKA}',
        ),
        ("[engine]\nretry_interval = 7", '2  engine.retry_interval = 7  a duration needs its unit: "7s"'),
        (
            '[limits]\nrun_size = "4 MB"',
            '2  limits.run_size = "4 MB"  a size is written as "256KB", "4MB" or "4MiB", and is at least "1B"',
        ),
        ("[limits]\nsteps = true", "2  limits.steps = true  expected a whole number from 1 to 10000"),
        ("[app]\nload = 'o.py'", '2  app.load = "o.py"  expected a list of texts, as ["…", "…"]'),
        ("[auth]\nevent_keys = [1]", '2  auth.event_keys  expected a list of texts, as ["…", "…"]'),
        ('[events]\nvalidate = "maybe"', '2  events.validate = "maybe"  expected "accept" or "refuse"'),
        ("[events]\nvalidate = true", '2  events.validate = true  expected "accept" or "refuse"'),
        ('[server]\nroles = ["apo"]', f"2  server.roles  {SOME_ROLE}"),
        ("[server]\nroles = []", f"2  server.roles  {SOME_ROLE}"),
        ("[server]\nhost = ''", '2  server.host = ""  expected text in quotes, as "…"'),
    ],
)
def test_a_problem_is_said_in_words(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.split() == f"steplog.toml:{problem}".split()


@pytest.mark.parametrize("text", ["x = (", "[a\n", "a = 1\na = 2", 'a = "\n', "a = [1,\n\n"])
def test_what_is_no_toml_is_said_with_its_line(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, "# comment\n" + text)
    place, *words = found.split()
    name, line = place.split(":")
    assert name == "steplog.toml"
    assert 2 <= int(line) <= 4
    assert words[:3] == ["is", "not", "TOML:"]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "steplog.toml").write_bytes(b"a = '\xff'")
    assert problems(tmp_path) == ["steplog.toml  is not UTF-8 (byte 5)"]
    assert problems(tmp_path, config="gone.yaml")[-1] == "gone.yaml     cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("inngest.json", "{", "is not JSON: Input data was truncated"),
        ("inngest.json", "[1]", "names of flags with their values are expected"),
        ("inngest.yaml", "a: [", "is not YAML: "),
        ("inngest.toml", "a = ", "is not TOML: "),
        ("inngest.json", '{"prot": 1}', 'prot  unknown key; did you mean "port"?'),
        ("inngest.json", '{"sdk-url": ["http://h"]}', "sdk-url  apps over HTTP will come in a later version"),
        ("inngest.yaml", "urls:\n - http://h", "urls  apps over HTTP will come in a later version"),
        ("inngest.json", '{"redis-uri": "redis://h"}', "redis-uri  steplog needs no Redis"),
        (
            "inngest.json",
            '{"postgres-uri": "x"}',
            'history.url = "x"  is no history; write sqlite:PATH',
        ),
        ("inngest.json", '{"port": "x"}', 'server.port = "x"  expected a whole number'),
    ],
)
def test_problems_of_inngests_file_have_their_place(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    (found,) = problems(tmp_path)
    place, rest = found.split(None, 1)
    assert place.split(":")[0] == name
    assert " ".join(rest.split()).startswith(" ".join(problem.split()))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inngest.json", '{\n "port": 1,\n "event-key": tell-nobody}'),
        ("inngest.yaml", "port: 1\n\nevent-key: tell-nobody: x"),
        ("inngest.toml", "port = 1\n\nevent-key = tell-nobody"),
        ("steplog.toml", "event_key = 'tell-nobody'\n[server]\nprot = 'tell-nobody'"),
    ],
)
def test_a_secret_in_a_file_with_problems_is_not_printed(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = problems(tmp_path)
    assert found[-1].startswith(f"{name}:3 ")
    assert "tell-nobody" not in str(found)


def test_a_file_in_no_known_form_is_refused_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "inngest.properties").write_text("port=1")
    configured(tmp_path)
    assert problems(tmp_path, config="inngest.properties") == [
        "inngest.properties  .properties is no ending that is known; there are .toml, .json and .yaml"
    ]


def test_problems_of_several_layers_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        configured(
            tmp_path, "[server]\nport = -1\n", environment={"STEPLOG_LIMITS__STEPS": "x", "INNGEST_REDIS_URI": "r"},
            flags={"sdk-url": ("http://h",)}, sets=["limits.stpes=1", "nothing"],
        )  # fmt: skip
    assert str(raised.value).splitlines()[0] == "6 problems in steplog.toml, the environment and the command line"
    assert [line.split()[0] for line in raised.value.problems] == [
        "steplog.toml:2", "INNGEST_REDIS_URI", "STEPLOG_LIMITS__STEPS", "--sdk-url", "--set", "--set",
    ]  # fmt: skip


def test_a_wrong_value_that_is_overridden_is_still_wrong(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "[server]\nport = -1\n", flags={"port": 1})) == 1


# --- secrets


def test_secrets_are_read_from_variables_and_files_and_never_printed(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "event").write_text("from-a-file\n")
    text = '[auth]\nevent_keys = ["file:secrets/event", "env:KEY"]\nsigning_keys = ["env:KEY"]\n'
    found = configured(tmp_path, text, is_dev=False, environment={"KEY": "from-a-variable"})
    assert secret_values(found.config.auth.event_keys) == ("from-a-file", "from-a-variable")
    assert found.values["auth.event_keys"].key.show(found.config.auth.event_keys) == ["file:secrets/event", "env:KEY"]
    for said in (repr(found), str(found), repr(found.config)):
        assert "from-a" not in said


def test_start_names_every_secret_that_is_missing_empty_or_in_plain(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    text = '[auth]\nevent_keys = ["env:GONE", "file:gone", "file:empty"]\nsigning_keys = ["tell-nobody"]\n'
    found = problems(tmp_path, text, is_dev=False)
    assert [" ".join(line.split()) for line in found] == [
        "steplog.toml:2 auth.event_keys the environment variable GONE is not set",
        "steplog.toml:2 auth.event_keys the file gone cannot be read: No such file or directory",
        "steplog.toml:2 auth.event_keys the file empty is empty",
        'steplog.toml:3 auth.signing_keys a secret in plain; write "env:NAME" or "file:PATH"',
    ]
    assert configured(tmp_path, is_dev=True).config.auth.event_keys  # dev needs none, and reads none


def test_start_needs_keys_and_a_log_that_stays(tmp_path: Path) -> None:
    found = problems(tmp_path, '[log]\nurl = "memory:"\n', is_dev=False)
    assert "it is gone when the process ends" in found[0]
    assert "the event key is missing: give --event-key, set STEPLOG_EVENT_KEY" in found[1]
    assert "the signing key is missing: give --signing-key" in found[2]
    assert configured(tmp_path).config.log.url == "memory:"
    empty = problems(tmp_path, "[auth]\nevent_keys = []\nsigning_keys = 7\n", is_dev=False)
    assert "the event key is missing" in empty[1]
    assert len(empty) == 2  # of a key that is wrong, that it is missing is not said as well


def test_plain_secrets_come_by_flags_and_variables(tmp_path: Path) -> None:
    found = configured(
        tmp_path, is_dev=False, flags={"event-key": ("e", "f")}, environment={"STEPLOG_SIGNING_KEY": "s"}
    )
    assert secret_values(found.config.auth.event_keys) == ("e", "f")
    assert found.values["auth.event_keys"].key.show(found.config.auth.event_keys) == ["(hidden)", "(hidden)"]


def test_a_secret_of_a_wrong_form_is_not_printed(tmp_path: Path) -> None:
    assert "tell-nobody" not in str(problems(tmp_path, '[auth]\nevent_keys = "tell-nobody"\n'))


@pytest.mark.parametrize("where", ["variable", "file", "flag"])
def test_a_history_is_where_its_reference_says_and_its_password_is_not_printed(tmp_path: Path, where: str) -> None:
    url = "postgresql://steplog:tell-nobody@db/steplog?schema=shop"
    (tmp_path / "url").write_text(f"{url}\n")
    text = {"variable": "env:HISTORY_URL", "file": "file:url", "flag": None}[where]
    (tmp_path / "steplog.toml").write_text(f'[history]\nurl = "{text}"\n' if text else "")
    for is_dev in (True, False):
        given = Sources(
            is_dev=is_dev, directory=tmp_path, environment={"HISTORY_URL": url},
            flags={"event-key": ("e",), "signing-key": ("s",)} | ({} if text else {"postgres-uri": url}),
        )  # fmt: skip
        found = load(given)
        assert found.config.history.address(tmp_path / "log.db") == url
        shown = keys()["history.url"].show(found.values["history.url"].value)
        assert shown == (text or "postgresql://steplog:***@db/steplog?schema=shop")
        assert "tell-nobody" not in repr(found.config)


def test_a_history_is_beside_the_log_or_the_file_that_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    assert configured(tmp_path).config.history.address(log) == f"sqlite:{tmp_path / 'log.history.db'}"
    (tmp_path / "steplog.toml").write_text('[history]\nurl = "sqlite:h.db"\n')
    found = configured(tmp_path).config
    assert Path(found.history.address(log).removeprefix("sqlite:")).resolve() == (tmp_path / "h.db").resolve()


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("mysql://u:tell-nobody@h/d", {}, "is no history; write sqlite:PATH, or postgresql://"),
        ("postgres:/u:tell-nobody@h/d", {}, "is no history"),
        ("env:GONE", {}, "the environment variable GONE is not set"),
        ("env:BAD", {"BAD": "mysql://u:tell-nobody@h/d"}, "what is there is no history"),
        ("postgresql://u:tell-nobody@h/d", {}, 'a secret in plain; write "env:NAME"'),
        ("postgresql://h/d?password=tell-nobody", {}, 'a secret in plain; write "env:NAME"'),
    ],
)
def test_a_history_that_cannot_be_is_refused_without_its_password(
    tmp_path: Path, url: str, environment: dict[str, str], said: str
) -> None:
    (tmp_path / "steplog.toml").write_text(f'[history]\nurl = "{url}"\n')
    flags = {"event-key": ("e",), "signing-key": ("s",)}
    with pytest.raises(ConfigInvalid) as refused:
        load(Sources(is_dev=False, directory=tmp_path, environment=environment, flags=flags))
    assert said in str(refused.value)
    assert "tell-nobody" not in str(refused.value)


# --- schema


def test_the_schema_has_each_key_with_its_description_and_default() -> None:
    schema = json_schema()
    assert list(schema["properties"]) == [*tables(), "connectors"]
    for name, key in keys().items():
        table, _, rest = name.partition(".")
        described = schema["properties"][table]["properties"][rest]
        assert described["description"] == key.description
        assert described.get("default") == key.show(key.default)
        assert schema["properties"][table]["additionalProperties"] is False


def test_every_default_is_written_as_it_may_be_written(tmp_path: Path) -> None:
    lines: dict[str, list[str]] = {}
    for name, key in keys().items():
        shown = key.show(key.default)
        if shown is not None:
            table, _, rest = name.partition(".")
            lines.setdefault(table, []).append(f"{rest} = {json.dumps(shown)}")
    text = "\n".join(f"[{table}]\n" + "\n".join(values) for table, values in lines.items())
    (tmp_path / "steplog.toml").write_text(text)
    found, wrong = examine(Sources(is_dev=False, directory=tmp_path), reads=SECRETS)
    assert wrong == []
    assert [value.key.show(value.value) for value in found.values.values() if value.key.name != "log.url"] == [
        key.show(key.default) for name, key in keys().items() if name != "log.url"
    ]


def key_table() -> str:
    """The table of keys in ``docs/configuration.md``."""
    rows = ["| key | default | |", "|---|---|---|"]
    for name, key in keys().items():
        shown = "" if key.default is None else f"`{json.dumps(key.show(key.default))}`"
        if name in DEV:
            shown += f", in `dev` `{json.dumps(key.show(DEV[name]))}`"
        rows.append(f"| `{name}` | {shown} | {key.description} |")
    return "\n".join(rows)


def test_the_documentation_has_the_keys_of_the_schema() -> None:
    assert key_table() in DOCS.read_text(), f"docs/configuration.md should say:\n{key_table()}"
