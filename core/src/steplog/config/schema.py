"""The configuration's tables and keys: what can be written in ``steplog.toml``, with its default and what it does.

Only what this version can do has a key here; what is to come is in ``LATER``, so that nothing is accepted in silence.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from steplog.config.client import Option, as_settings
from steplog.config.connectors import CONNECTORS, TYPES, Connector
from steplog.config.forms import Form, Key, Table, form, keys_of
from steplog.config.secrets import Secret
from steplog.config.units import DURATION_PATTERN, SIZE_PATTERN
from steplog.paths import DEV_LOG, START_LOG, file_url, history_path, is_kafka, with_settings

DEV = {"log.url": DEV_LOG, "limits.event_size": 3 << 20}
"""The defaults of ``dev`` where they differ from those of ``start``."""

LATER = {
    "ai": "models", "env": "further environments", "http": "calls by HTTP",
    "plugins": "plugins", "retention": "retention",
    "app.urls": "apps over HTTP", "server.public_url": "links for others",
    "auth.dashboard": "the dashboard",
}  # fmt: skip
"""Tables and keys that belong to features to come, with the feature's name."""


class AppTable(Table, frozen=True, kw_only=True):
    """What runs."""

    load: Annotated[
        tuple[str, ...], form("targets"),
        Meta(description="The apps that `dev` and `start` run when no file is named: `orders.py`, `orders.py:app`, "
                         "`shop.orders` or `shop.orders:app`."),
    ] = ()  # fmt: skip


class LogTable(Table, frozen=True, kw_only=True):
    """Where everything is kept."""

    url: Annotated[
        str, form("log"),
        Meta(description="`sqlite:PATH`, or `kafka://HOST:PORT,HOST:PORT/PREFIX`, whose topics begin with the prefix; "
                         "in `dev` also `memory:`, which is gone when it ends."),
    ] = START_LOG  # fmt: skip


class KafkaTable(Table, frozen=True, kw_only=True):
    """A log on Kafka."""

    partitions: Annotated[
        int, form("count"),
        Meta(ge=1, le=4_096, description="Of each topic: 2 to 4 for each process that will ever run. Fixed when the "
                                         "topics are made."),
    ] = 16  # fmt: skip
    replication: Annotated[
        int, form("count"),
        Meta(ge=0, le=15, description="Copies of each record; 0: three, or one a broker where there are fewer."),
    ] = 0  # fmt: skip
    node: Annotated[
        str | None, form("text"),
        Meta(description="This process's name: no other's, and the same at every start. Otherwise host and port."),
    ] = None  # fmt: skip
    data: Annotated[
        str, form("text"),
        Meta(description="A directory for copies that make starts fast; they can be lost. The history in SQLite is "
                         "there, too."),
    ] = ".steplog"  # fmt: skip
    client: Annotated[
        dict[str, Option], form("client"),
        Meta(description="Settings of librdkafka for the log's connections: security, above all. Secrets are "
                         "references, as `env:NAME`."),
    ] = field(default_factory=dict)  # fmt: skip


class HistoryTable(Table, frozen=True, kw_only=True):
    """Where the history is kept: what the API and `steplog runs` show. It is made from the log."""

    url: Annotated[
        Secret | None, form("history"),
        Meta(description="`sqlite:PATH`, by default a file beside the log, or `postgresql://…`; with a password rather "
                         "`env:NAME` or `file:PATH`, which has it."),
    ] = None  # fmt: skip

    def address(self, log: Path) -> str:
        """Where the history of a log's file is, once secrets are read."""
        return file_url(history_path(log)) if self.url is None else self.url.value or self.url.reference


class ServerTable(Table, frozen=True, kw_only=True):
    """How the server listens."""

    host: Annotated[str, form("text"), Meta(description="The address to listen on; `::1` comes along with it.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, form("count"), Meta(ge=0, le=65_535, description="The port; 0 takes a free one.")] = 8288
    allow_hosts: Annotated[
        tuple[str, ...], form("texts"),
        Meta(description="Names besides localhost that requests to `dev` may be sent to."),
    ] = ()  # fmt: skip
    roles: Annotated[
        tuple[Literal["api", "engine"], ...], form("words"),
        Meta(description="What this process does of a log on Kafka: `api` takes events and answers, `engine` runs "
                         "functions and connectors."),
    ] = ("api", "engine")  # fmt: skip
    address: Annotated[
        str | None, form("text"),
        Meta(description="`HOST:PORT` where other nodes of a log on Kafka reach this one; otherwise host and port."),
    ] = None  # fmt: skip


class AuthTable(Table, frozen=True, kw_only=True):
    """Who may do what. `start` needs both kinds of keys, `dev` neither."""

    event_keys: Annotated[
        tuple[Secret, ...], form("secrets"), Meta(description="Who sends events shows one of them.")
    ] = ()
    signing_keys: Annotated[
        tuple[Secret, ...], form("secrets"),
        Meta(description="Who reads shows one of them; the first is the present one, the others still hold."),
    ] = ()  # fmt: skip


class LimitsTable(Table, frozen=True, kw_only=True):
    """What is refused for its size. A breach names the limit and the value."""

    event_size_bytes: Annotated[int, form("size"), Meta(description="Of one event.")] = field(
        default=256 << 10, name="event_size"
    )
    request_size_bytes: Annotated[int, form("size"), Meta(description="Of one request's body.")] = field(
        default=32 << 20, name="request_size"
    )
    step_output_bytes: Annotated[int, form("size"), Meta(description="Of what one step, or a function, returns.")] = (
        field(default=4_000_000, name="step_output")
    )
    run_size_bytes: Annotated[
        int, form("size"), Meta(description="Of all that one run records: its event, its steps' outputs, its own.")
    ] = field(default=32_000_000, name="run_size")
    steps: Annotated[
        int, form("count"), Meta(ge=1, le=10_000, description="How many one run makes; at most 10000.")
    ] = 1_000  # a replay of ten times as many still takes less than a second (benchmarks/replay.py)


class EventsTable(Table, frozen=True, kw_only=True):
    """What is asked of events."""

    validate: Annotated[
        Literal["accept", "refuse"], form("word"),
        Meta(description="`refuse`: an event whose data do not fit a type that the functions declare for it gets 400."),
    ] = "accept"  # fmt: skip


class EngineTable(Table, frozen=True, kw_only=True):
    """How runs are carried out."""

    live_runs: Annotated[
        int, form("count"), Meta(ge=1, description="How many runs are in memory at once; others wait in order.")
    ] = 10_000
    evict_after_ms: Annotated[
        int, form("duration"), Meta(description="A run whose steps all wait longer than this leaves memory meanwhile.")
    ] = field(default=30_000, name="evict_after")
    retry_interval_ms: Annotated[
        int | None, form("duration"),
        Meta(description="How long to wait before each retry, instead of 15s, 30s, 1m and so on to 2h."),
    ] = field(default=None, name="retry_interval")  # fmt: skip


class Config(Table, frozen=True, kw_only=True):
    """The configuration of ``dev`` or ``start``, read and checked."""

    app: AppTable = AppTable()
    log: LogTable = LogTable()
    kafka: KafkaTable = KafkaTable()
    history: HistoryTable = HistoryTable()
    server: ServerTable = ServerTable()
    auth: AuthTable = AuthTable()
    limits: LimitsTable = LimitsTable()
    events: EventsTable = EventsTable()
    engine: EngineTable = EngineTable()
    connectors: dict[str, Connector] = field(default_factory=dict)  # by name

    @property
    def kafka_log(self) -> str | None:
        """The log's address where it is on Kafka, with what its clients are to be told: not to be printed."""
        return with_settings(self.log.url, as_settings(self.kafka.client)) if is_kafka(self.log.url) else None


@cache
def keys() -> Mapping[str, Key]:
    """Every key by its name, in the order of the tables."""
    return {key.name: key for table, kind in tables().items() for key in keys_of(table, kind)}


@cache
def tables() -> Mapping[str, type[msgspec.Struct]]:
    """Every table by its name, but for those of connectors, which have names of their own."""
    return {each.encode_name: each.type for each in msgspec.structs.fields(Config) if each.name != CONNECTORS}


def json_schema() -> dict[str, Any]:
    """Describe ``steplog.toml`` as a JSON Schema, for editors."""
    properties: dict[str, Any] = {table: _described_table(table, kind) for table, kind in tables().items()}
    types = {name: _described_table(CONNECTORS, kind) for name, kind in TYPES.items()}
    for name, described in types.items():
        described["properties"] = {"type": {"const": name}} | described["properties"]
    named = [described | {"required": ["type"]} for described in types.values()]
    properties[CONNECTORS] = {"type": "object", "properties": types, "additionalProperties": {"anyOf": named}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "steplog.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _described_table(table: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    described = {key.name.rpartition(".")[2]: _described(key) for key in keys_of(table, kind)}
    return {"type": "object", "description": kind.__doc__, "additionalProperties": False, "properties": described}


def _described(key: Key) -> dict[str, Any]:
    text = {"type": "string"}
    options = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    shapes: dict[Form, dict[str, Any]] = {
        "count": {"type": "integer"},
        "text": text | {"minLength": 1},
        "word": {"enum": list(key.words)},
        "words": {"type": "array", "items": {"enum": list(key.words)}, "minItems": 1},
        "duration": text | {"pattern": DURATION_PATTERN},
        "size": text | {"pattern": SIZE_PATTERN},
        "log": text | {"pattern": "^(sqlite:.+|memory:|kafka://.+)$"},
        "history": text | {"pattern": "^(sqlite:.+|postgres(ql)?://.+|env:.+|file:.+)$"},
        "options": options,
        "client": options,
    }
    shape = shapes.get(key.form) or {"type": "array", "items": text | {"minLength": 1}}
    bounds = {"minimum": key.least, "maximum": key.most, "default": key.show(key.default)}
    return (
        shape | {"description": key.description} | {name: bound for name, bound in bounds.items() if bound is not None}
    )
