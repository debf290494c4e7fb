"""The files for Docker name only what exists: images with versions, ports, volumes, variables, commands."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from compose.kafka_local.__main__ import parser
from compose.kafka_local.distribution import VERSION
from steplog import __version__
from steplog.cli import commands
from steplog.config.layers import SHORT
from steplog.config.schema import Config, keys

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "compose"
COMPOSE: dict[str, Any] = msgspec.yaml.decode((FOLDER / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STEPLOG = SERVICES["steplog"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
VARIABLES = {*SHORT, *(f"STEPLOG_{name.replace('.', '__').upper()}" for name in keys())}


def understood(words: list[str]) -> click.Context:
    """Have steplog read a command line, and run nothing; it raises where a command or an option is not steplog's."""
    group = click.Context(commands, **commands.context_settings)
    command = commands.get_command(group, words[0])
    assert command is not None, f"steplog has no command {words[0]}"
    context: click.Context = command.make_context(words[0], words[1:], group)
    return context


def instructions(name: str) -> list[str]:
    """The arguments of one kind of line of the Dockerfile."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.removeprefix(f"{name} ").strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def commands_of(page: str, program: str) -> list[list[str]]:
    """What follows a program in the transcripts of a page."""
    lines = re.findall(r"^\$ (.*)$", (FOLDER / page).read_text(), re.MULTILINE)
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in typed if words[:1] == [program]]


@pytest.mark.spec("HOST-13")
def test_there_are_kafka_postgresql_steplog_and_prometheus() -> None:
    assert set(SERVICES) == {"kafka", "steplog", "postgres", "prometheus"}


@pytest.mark.parametrize("name", SERVICES)
def test_the_image_of_each_service_has_a_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d+\.\d+", tag), SERVICES[name]["image"]


def test_versions_are_those_that_the_tests_run_with() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{VERSION}"
    assert STEPLOG["image"] == f"steplog:{__version__}"
    bases = {line.split()[0] for line in instructions("FROM")}
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)
    assert len(bases) == 1, "wheels are built for the Python that installs them"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, target, *_ = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (FOLDER / source).exists(), volume
        else:
            assert source in COMPOSE["volumes"], volume


def test_each_volume_is_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert set(COMPOSE["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_to_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_ports_of_steplog_are_those_of_its_configuration() -> None:
    port = Config().server.port
    assert understood(STEPLOG["command"]).params["port"] == port
    assert STEPLOG["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert instructions("EXPOSE") == [str(port)]
    assert f"127.0.0.1:{port}/health" in instructions("HEALTHCHECK")[0]
    (job,) = msgspec.yaml.decode((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"steplog:{port}"]}]


def test_variables_of_steplog_are_those_of_its_configuration() -> None:
    assert set(STEPLOG["environment"]) <= VARIABLES
    assert {"STEPLOG_EVENT_KEY", "STEPLOG_SIGNING_KEY"} <= set(STEPLOG["environment"]), "start wants both"
    named = set(re.findall(r"STEPLOG_\w+", (FOLDER / "README.md").read_text() + DOCKERFILE))
    assert named <= VARIABLES


@pytest.mark.spec("HOST-12")
def test_steplog_runs_on_the_kafka_beside_it() -> None:
    context = understood(STEPLOG["command"])
    assert context.params["host"] == "0.0.0.0", "other containers reach it"
    (file,) = context.params["files"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in STEPLOG["volumes"]}
    assert (FOLDER / mounted[str(Path(file).parent)] / Path(file).name).exists()
    scheme, _, address = context.params["log"].partition("://")
    assert (scheme, address.split(":")[0]) == ("kafka", "kafka")
    kafka = SERVICES["kafka"]["environment"]
    assert f"://:{address.split(':')[1]}," in kafka["KAFKA_LISTENERS"]
    assert f"://{address}," in kafka["KAFKA_ADVERTISED_LISTENERS"]


def test_each_service_waits_for_one_that_tells_its_health() -> None:
    for name, condition in STEPLOG["depends_on"].items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[name]


def test_the_image_is_built_of_what_exists_and_runs_as_nobody_special() -> None:
    assert (FOLDER / STEPLOG["build"]["context"]).resolve() == ROOT
    assert (ROOT / STEPLOG["build"]["dockerfile"]).exists()
    for line in instructions("COPY"):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources), line
    kept = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert all((ROOT / path).exists() for path in kept)
    assert instructions("USER") == ["steplog"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("ENTRYPOINT") == ['["steplog"]']


@pytest.mark.spec("DEV-10")
def test_the_commands_of_the_page_are_steplogs() -> None:
    runs = [words for words in commands_of("README.md", "docker") if words[0] == "run"]
    assert runs
    for words in runs:
        image = words.index(STEPLOG["image"])
        assert understood(words[image + 1 :]).params["host"] == "0.0.0.0"
    files = [words[words.index("-f") + 1] for words in commands_of("README.md", "docker") if "-f" in words]
    assert files
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("page", ["README.md", "../docs/operations.md"])
def test_the_commands_of_the_local_kafka_are_its_own(page: str) -> None:
    typed = commands_of(page, "compose/kafka-local")
    assert typed
    for words in typed:
        parser().parse_args(words)
